"""The engine: steps, lanes and the runner."""
