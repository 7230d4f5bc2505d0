"""Answers -> pictures."""
