"""Loss -> trained weights."""
