"""The providers, each over the real thing."""
