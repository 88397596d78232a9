"""Processes killed at the worst moment."""
