"""Which of our keys SSH knows, and how it writes them and their signatures (RFC 4253, 5656, 8332, 8709).

Public keys are encoded by the library; only the envelopes of signatures are put together here.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from hsmbridge.core.algorithms import ALGORITHMS, Scheme
from hsmbridge.core.key_types import Family, KeyType
from hsmbridge.wire.ssh_agent import SignFlag, mpint, string

_RSA_MIN: Final = 2048
"""Bits; OpenSSH takes no shorter ones by default that we could make."""


@dataclass(frozen=True, slots=True)
class SignatureWay:
    """A signature algorithm of SSH.

    Attributes:
        name: in SSH.
        algorithm: our name of it.
        in_numbers: the signature is DER here, and two numbers in SSH.
    """

    name: str
    algorithm: str
    in_numbers: bool = False

    def outward(self, signature: bytes) -> bytes:
        """A signature of the service as SSH has it. Raises ValueError where it is none."""
        if self.in_numbers:
            r, s = decode_dss_signature(signature)
            signature = mpint(r) + mpint(s)
        return string(self.name.encode()) + string(signature)


_RSA_SHA256: Final = SignatureWay("rsa-sha2-256", "RSA-PKCS1-SHA256")
_RSA_SHA512: Final = SignatureWay("rsa-sha2-512", "RSA-PKCS1-SHA512")
_KNOWN_FLAGS: Final = int(SignFlag.RSA_SHA2_256 | SignFlag.RSA_SHA2_512)
"""A number, for the complement of a flag would only hold other known flags."""

_CURVES: Final = {"EC-P256": "nistp256", "EC-P384": "nistp384", "EC-P521": "nistp521"}
_BY_KEY_TYPE: Mapping[str, SignatureWay] = MappingProxyType(
    {
        "Ed25519": SignatureWay("ssh-ed25519", "Ed25519"),
        **{
            key_type: SignatureWay(f"ecdsa-sha2-{_CURVES[key_type]}", row.name, in_numbers=True)
            for row in ALGORITHMS.values()
            if row.scheme is Scheme.ECDSA
            for key_type in row.key_types
            if key_type in _CURVES
        },
    }
)


def ways_of(row: KeyType) -> tuple[SignatureWay, ...]:
    """How a key of this type signs in SSH; none where SSH does not know it."""
    if row.family is Family.RSA and row.bits >= _RSA_MIN:
        return (_RSA_SHA256, _RSA_SHA512)
    way = _BY_KEY_TYPE.get(row.name)
    return () if way is None else (way,)


def requested_way(row: KeyType, flags: int) -> SignatureWay | None:
    """How the client wants the signature; None for ways that there are not, such as RSA with SHA-1."""
    if flags & ~_KNOWN_FLAGS:
        return None
    ways = ways_of(row)
    if row.family is not Family.RSA:
        return ways[0] if ways else None
    if not ways or not flags:
        return None
    return _RSA_SHA256 if flags & SignFlag.RSA_SHA2_256 else _RSA_SHA512


def public_key_blob(spki: bytes) -> bytes | None:
    """A public key (SubjectPublicKeyInfo, DER) as SSH encodes it; None for one that SSH does not have."""
    try:
        line = load_der_public_key(spki).public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    except (ValueError, UnsupportedAlgorithm):
        return None
    return base64.b64decode(line.split(b" ")[1])
