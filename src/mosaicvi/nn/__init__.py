"""Minibatch -> loss."""
