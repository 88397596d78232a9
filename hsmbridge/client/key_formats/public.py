"""Writing public keys."""

from hsmbridge.client.key_formats.asymmetric import type_of_spki
from hsmbridge.client.key_formats.cose import public_cose_key
from hsmbridge.client.key_formats.jwk import json_document, public_jwk
from hsmbridge.client.key_formats.names import PublicKeyFormat
from hsmbridge.client.key_formats.pem import public_key_pem
from hsmbridge.client.key_formats.ssh import public_ssh_key


def write_public_key(spki: bytes, format_: PublicKeyFormat, *, comment: str = "") -> bytes:
    """A SubjectPublicKeyInfo in another format; `comment` stands in those that have room for one.

    Raises RequestError (NOT_SUPPORTED) where the format has no form for such a key.
    """
    match format_:
        case PublicKeyFormat.PEM:
            return public_key_pem(spki).encode()
        case PublicKeyFormat.JWK:
            return json_document(public_jwk(spki))
        case PublicKeyFormat.COSE:
            return public_cose_key(spki)
        case PublicKeyFormat.SSH:
            return public_ssh_key(spki, comment)
        case PublicKeyFormat.DER:
            type_of_spki(spki)
            return spki
