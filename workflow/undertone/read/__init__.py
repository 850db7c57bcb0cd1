"""Readings of a dataset before anyone trains on it."""
