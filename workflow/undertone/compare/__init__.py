"""Students, controls and costs of a study side by side."""
