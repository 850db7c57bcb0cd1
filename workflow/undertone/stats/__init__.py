"""Means with intervals, ranks, permutation tests of blocks, the confusion of targets."""
