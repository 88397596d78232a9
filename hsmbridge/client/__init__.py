"""The public client: what an application imports to use keys that it does not hold."""
