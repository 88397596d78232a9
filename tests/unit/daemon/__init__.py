"""What a worker is made of."""
