"""Sparse autoencoders: training, download, loading and metrics."""
