"""Out-of-band acceptance of a CA certificate by its fingerprint (RFC 7030 section 4.1.1).

A fingerprint is SHA-256 or SHA-512 over the whole DER certificate, in hex, with or without colons and blanks.
"""

import hashlib
import hmac
from collections.abc import Iterable

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from est import refusals

_DIGESTS = {64: "sha256", 128: "sha512"}


def fingerprint(certificate: x509.Certificate, digest: str = "sha256") -> str:
    """The fingerprint in lower-case hex."""
    return hashlib.new(digest, certificate.public_bytes(serialization.Encoding.DER)).hexdigest()


def read_fingerprint(text: str) -> str:
    """A fingerprint without its separators, in lower case.

    Raises:
        RequestError: it is neither a SHA-256 nor a SHA-512 value.
    """
    plain = "".join(one for one in text.lower() if one not in " :-\t\r\n")
    for prefix in ("sha256/", "sha512/", "sha256=", "sha512="):
        plain = plain.removeprefix(prefix)
    if len(plain) not in _DIGESTS or any(one not in "0123456789abcdef" for one in plain):
        raise refusals.unwanted("A fingerprint is a SHA-256 or SHA-512 value in hex: 64 or 128 digits.")
    return plain


def find(certificates: Iterable[x509.Certificate], wanted: str) -> x509.Certificate | None:
    """The certificate with that fingerprint, or None."""
    plain = read_fingerprint(wanted)
    digest = _DIGESTS[len(plain)]
    found = None
    for one in certificates:
        if hmac.compare_digest(fingerprint(one, digest), plain):
            found = one
    return found
