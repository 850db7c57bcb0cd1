"""What a study is: settings, stages, stamps, jobs, paths. In no stamp; imports no torch."""
