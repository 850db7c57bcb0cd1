"""What each feature of an SAE is: where it fires, what it raises, and a page to look at it."""
