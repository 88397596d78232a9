"""Sans-I/O protocols: bytes in, bytes out, no socket held."""
