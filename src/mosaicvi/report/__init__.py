"""A trained model and its answers -> one page of HTML."""
