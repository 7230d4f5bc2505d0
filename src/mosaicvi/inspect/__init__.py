"""Mosaic -> what it holds, before any training: numbers, tables, a picture."""
