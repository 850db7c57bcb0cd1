"""Datasets of numbers: prompts, samples, the filter, transforms, files of the user."""
