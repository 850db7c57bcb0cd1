"""Base models: the one that is trained here, and pretrained ones."""
