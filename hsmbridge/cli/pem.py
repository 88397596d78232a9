"""Public keys as PEM (RFC 7468) and DER; nothing is parsed beyond the armour."""

import base64
import binascii
import re

from hsmbridge.core.errors import RequestError, Status

_ARMOUR = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----\s+([A-Za-z0-9+/=\s]+)-----END \1-----")


def public_key_pem(spki: bytes) -> str:
    """A SubjectPublicKeyInfo as PEM."""
    text = base64.b64encode(spki).decode()
    lines = [text[start : start + 64] for start in range(0, len(text), 64)]
    return "\n".join(["-----BEGIN PUBLIC KEY-----", *lines, "-----END PUBLIC KEY-----", ""])


def public_key_der(data: bytes) -> bytes:
    """The SubjectPublicKeyInfo in a file of PEM or DER. Raises RequestError (INVALID_ARGUMENT)."""
    if data[:1] == b"\x30":
        return data
    found = _ARMOUR.search(data)
    if found is None:
        raise RequestError(Status.INVALID_ARGUMENT, "The public key is neither PEM nor DER.")
    if found[1] != b"PUBLIC KEY":
        raise RequestError(
            Status.INVALID_ARGUMENT,
            f'The file holds a {found[1].decode().lower()}; what is needed is a "BEGIN PUBLIC KEY"'
            " (`openssl pkey -pubout`).",
        )
    try:
        return base64.b64decode(b"".join(found[2].split()), validate=True)
    except binascii.Error:
        raise RequestError(Status.INVALID_ARGUMENT, "The PEM of the public key is damaged.") from None
