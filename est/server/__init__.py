"""An EST server (RFC 7030): the operations without a socket, and a listener that carries them over TLS."""
