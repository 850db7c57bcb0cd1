"""Whether the concepts of a tree stand in a model's spaces as a hierarchy does (Park et al. 2024)."""
