"""The demonstration behind `./dev demo`."""
