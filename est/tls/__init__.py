"""TLS for EST (RFC 7030 section 3.3): contexts, the server's identity, and the value that names a connection."""
