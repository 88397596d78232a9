"""The tables and values of the core."""
