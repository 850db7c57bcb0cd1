"""Directions of the residual stream: how they are made, what steering by them does, and which features they consist of."""
