"""Certification requests (PKCS#10, RFC 2986): what a server demands of them, what a client wishes, signed late."""
