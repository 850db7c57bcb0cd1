"""What every job needs whatever it computes: files written whole, memory, progress, failures. In no stamp."""
