"""Cryptographic Message Syntax (RFC 5652) as far as EST needs it. Bytes in, values out; no sockets, no files."""
