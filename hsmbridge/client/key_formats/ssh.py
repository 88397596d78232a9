"""Public keys of OpenSSH (RFC 4253 section 6.6, RFC 5656, RFC 8709): the one line of an authorized_keys file."""

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_public_key

from hsmbridge.client.key_formats.asymmetric import load_public, spki_of, type_of_spki, unreadable
from hsmbridge.core.errors import RequestError, Status
from hsmbridge.core.public_keys import checked


def public_ssh_key(spki: bytes, comment: str = "") -> bytes:
    """A public key as OpenSSH writes it. Raises RequestError (NOT_SUPPORTED) for a type that OpenSSH has not."""
    row = type_of_spki(spki)
    key = load_public(spki, row)
    if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey):
        raise RequestError(Status.NOT_SUPPORTED, f"OpenSSH has no form for keys of type {row.name}; take pem or der.")
    line = key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return line + (f" {comment}" if comment else "").encode() + b"\n"


def read_ssh_key(data: bytes) -> tuple[str, bytes]:
    """Key type and SubjectPublicKeyInfo. Raises RequestError (INVALID_ARGUMENT, UNKNOWN_KEY_TYPE)."""
    try:
        spki = spki_of(checked(load_ssh_public_key(data.strip())))
    except (ValueError, UnsupportedAlgorithm, NotImplementedError):
        # NotImplementedError is what the library has for a compressed point.
        raise unreadable("OpenSSH public key") from None
    return type_of_spki(spki).name, spki
