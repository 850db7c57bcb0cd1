"""The definition of a study: settings, stages, stamps, jobs and paths. This package is in no stamp and imports no torch."""
