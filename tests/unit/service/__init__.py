"""The service: the pipeline between front ends and keys."""
