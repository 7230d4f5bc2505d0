"""Weights -> answers."""
