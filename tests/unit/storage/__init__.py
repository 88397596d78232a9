"""The store alone, on real files."""
