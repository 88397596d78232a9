"""PEM (RFC 7468): the armour and nothing behind it."""

import base64
import binascii
import re

from hsmbridge.core.errors import RequestError, Status

# Each octet has one way to match, so that a file of a few blank megabytes is refused at once.
_ARMOUR = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,64})-----(\s[A-Za-z0-9+/=\s]+)-----END \1-----")


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
    return decoded(found[2])


def armoured(data: bytes) -> tuple[str, bytes]:
    """Label and content of the first thing in PEM. Raises RequestError (INVALID_ARGUMENT).

    The content is b"" where it has headers before it, as the encrypted private keys of old have.
    """
    label = re.search(rb"-----BEGIN ([A-Z0-9 ]{1,64})-----", data)
    if label is None:
        raise RequestError(Status.INVALID_ARGUMENT, "The file is no PEM: it has no BEGIN line.")
    found = _ARMOUR.match(data, label.start())
    if found is None:
        return label[1].decode(), b""
    return label[1].decode(), decoded(found[2])


def decoded(text: bytes) -> bytes:
    """The octets of base64 with line ends. Raises RequestError (INVALID_ARGUMENT)."""
    try:
        return base64.b64decode(b"".join(text.split()), validate=True)
    except binascii.Error:
        raise RequestError(Status.INVALID_ARGUMENT, "The PEM of the key is damaged.") from None
