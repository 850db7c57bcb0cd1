"""Tests of whether a model represents the concepts of a tree as a hierarchy (Park et al. 2024)."""
