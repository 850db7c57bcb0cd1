"""What every job needs: files written whole, memory, progress, failures. In no stamp."""
