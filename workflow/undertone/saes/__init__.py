"""Sparse autoencoders: trained, found, loaded, measured."""
