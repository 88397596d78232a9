"""Other people's programs on our keys."""
