"""Pairs of SAEs: which features match, how alike their spaces are, and what one rotation carries over."""
