"""Base models: the one that is trained here and those that are found."""
