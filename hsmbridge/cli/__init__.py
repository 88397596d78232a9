"""The command `hsmbridge`."""
