"""Files -> minibatches."""
