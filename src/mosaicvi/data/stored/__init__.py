"""Data whose values stay in their files: rows are read when they are asked for."""
