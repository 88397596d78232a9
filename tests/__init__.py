"""The tests, read as specifications: one folder per suite."""
