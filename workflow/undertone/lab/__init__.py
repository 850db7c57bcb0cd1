"""The SAE laboratory: where each feature fires, which tokens it raises, and a page to browse features."""
