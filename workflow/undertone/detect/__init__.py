"""Detection: whether something is hidden in a dataset, what, and what it would teach, before anyone trains on it."""
