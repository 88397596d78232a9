"""The public half of a private key that has just been unwrapped, where the token does not tell it.

It is what the key agrees with the base point of its curve, which the token computes (SP 800-56A, section 5.7.1.2;
RFC 7748, section 6). Of a point on a NIST curve that gives the x coordinate alone; a signature shows which of the two
points it is. Edwards keys agree nothing, and their public half stays unknown.
"""

import secrets
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pkcs11 import Attribute, Mechanism, Object, SignMixin
from pkcs11.exceptions import PKCS11Error

from hsmbridge.core.errors import HsmBridgeError
from hsmbridge.core.key_types import Family, KeyType
from hsmbridge.providers.pkcs11.agreement import PeerPoint, agree_readable, secret_size
from hsmbridge.providers.pkcs11.making import curve_parameters
from hsmbridge.providers.pkcs11.objects import KeyObjects
from hsmbridge.providers.pkcs11.public_keys import curve_of, encoded

USES: Mapping[Family, tuple[Attribute, ...]] = MappingProxyType(
    {Family.EC: (Attribute.DERIVE, Attribute.SIGN), Family.MONTGOMERY: (Attribute.DERIVE,)}
)
"""The families of which it can be computed, and what the private key must be allowed for that."""
_BASE = {"X25519": 9, "X448": 5}
_HASH = hashes.SHA256()


def computed_public_key(row: KeyType, private: Object, *, wrapped_points: bool) -> bytes | None:
    """The SubjectPublicKeyInfo of a private key that may be used as USES says, or None where it is not of this type."""
    try:
        if bytes(private[Attribute.EC_PARAMS]) != curve_parameters(row):
            return None
        agreed = agree_readable(KeyObjects(private=private), row, PeerPoint(_base_point(row), wrapped_points))
        if row.family is Family.MONTGOMERY:
            return encoded(row, agreed)
        return _signer(row, private, agreed)
    except (PKCS11Error, HsmBridgeError, ValueError):
        return None


def _base_point(row: KeyType) -> bytes:
    if row.family is Family.MONTGOMERY:
        return _BASE[row.parameter_set].to_bytes(secret_size(row), "little")
    one = ec.derive_private_key(1, curve_of(row)).public_key()
    return one.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def _signer(row: KeyType, private: Object, x: bytes) -> bytes | None:
    """The point with this x whose holder signs."""
    if not isinstance(private, SignMixin):
        return None
    digest = secrets.token_bytes(_HASH.digest_size)
    raw = private.sign(digest, mechanism=Mechanism.ECDSA)
    half = len(raw) // 2
    signature = encode_dss_signature(int.from_bytes(raw[:half]), int.from_bytes(raw[half:]))
    for point in _points(row, x):
        try:
            point.verify(signature, digest, ec.ECDSA(Prehashed(_HASH)))
        except InvalidSignature:
            continue
        return point.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return None


def _points(row: KeyType, x: bytes) -> Iterator[ec.EllipticCurvePublicKey]:
    for sign in (b"\2", b"\3"):
        yield ec.EllipticCurvePublicKey.from_encoded_point(curve_of(row), sign + x)
