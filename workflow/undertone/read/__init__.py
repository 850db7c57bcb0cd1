"""What is read of a dataset before anyone trains on it."""
