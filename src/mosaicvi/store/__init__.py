"""What is written down: files, checkpoints, saved models."""
