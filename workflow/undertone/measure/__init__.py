"""What models prefer and how they differ."""
