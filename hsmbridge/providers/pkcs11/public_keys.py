"""The public half of a key: from CKA_* attributes to SubjectPublicKeyInfo and back (RFC 5280, 5480, 8410, 9881)."""

from typing import ClassVar

from asn1crypto.core import Any, ObjectIdentifier, OctetBitString, OctetString, Sequence
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from cryptography.x509 import ObjectIdentifier as CurveIdentifier
from pkcs11 import Attribute, Object
from pkcs11.exceptions import PKCS11Error

from hsmbridge.core.errors import HsmBridgeError, ProviderError, Status
from hsmbridge.core.key_types import Family, KeyType
from hsmbridge.providers.pkcs11.newer_constants import PUBLIC_KEY_INFO
from hsmbridge.providers.pkcs11.parameter_sets import MODULE_LATTICE_AND_HASH

_POINT_SIZES = {"Ed25519": 32, "Ed448": 57, "X25519": 32, "X448": 56}


class _AlgorithmIdentifier(Sequence):  # type: ignore[misc]  # asn1crypto has no types
    _fields: ClassVar[list[object]] = [("algorithm", ObjectIdentifier), ("parameters", Any, {"optional": True})]


class _SubjectPublicKeyInfo(Sequence):  # type: ignore[misc]  # as above
    _fields: ClassVar[list[object]] = [("algorithm", _AlgorithmIdentifier), ("public_key", OctetBitString)]


def public_key_info(row: KeyType, public: Object) -> bytes:
    """SubjectPublicKeyInfo, DER. Raises ProviderError (PROVIDER_FAILED) where the token's attributes make none."""
    try:
        return _public_key_info(row, public)
    except ValueError as problem:
        raise _broken_public_key(row, str(problem)) from problem


def _public_key_info(row: KeyType, public: Object) -> bytes:
    if row.family is Family.RSA:
        exponent, modulus = bytes(public[Attribute.PUBLIC_EXPONENT]), bytes(public[Attribute.MODULUS])
        numbers = rsa.RSAPublicNumbers(int.from_bytes(exponent), int.from_bytes(modulus))
        return numbers.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if row.family in MODULE_LATTICE_AND_HASH:
        return encoded(row, bytes(public[Attribute.VALUE]))
    point = bytes(public[Attribute.EC_POINT])
    if row.family is Family.EC:
        size = 1 + 2 * ((row.bits + 7) // 8)
        key = ec.EllipticCurvePublicKey.from_encoded_point(curve_of(row), _unwrapped(point, size))
        return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return encoded(row, _unwrapped(point, _POINT_SIZES[row.parameter_set]))


def told_public_key(row: KeyType, private: Object) -> bytes | None:
    """The SubjectPublicKeyInfo that the private object itself tells, or None where it tells none of this type."""
    try:
        info = _public_key_info(row, private) if row.family is Family.RSA else bytes(private[PUBLIC_KEY_INFO])
    except (PKCS11Error, ValueError):
        return None
    return info if is_of_type(row, info) else None


def is_of_type(row: KeyType, info: bytes) -> bool:
    """Whether a SubjectPublicKeyInfo is one of a key type."""
    try:
        algorithm = _SubjectPublicKeyInfo.load(info, strict=True)["algorithm"]
        if algorithm["algorithm"].dotted != row.spki_oid:
            return False
        if row.family is Family.EC:
            return bool(algorithm["parameters"].parse(ObjectIdentifier).dotted == row.ec_parameters)
        if row.family is not Family.RSA:
            return True
        key = load_der_public_key(info)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return False
    return isinstance(key, rsa.RSAPublicKey) and key.key_size == row.bits


def key_bits(info: bytes) -> bytes:
    """What the bit string of a SubjectPublicKeyInfo holds. Raises ValueError."""
    bits: object = _SubjectPublicKeyInfo.load(info, strict=True)["public_key"].native
    if not isinstance(bits, bytes):
        raise ValueError("no key in the SubjectPublicKeyInfo")
    return bits


def curve_of(row: KeyType) -> ec.EllipticCurve:
    """The curve of an EC key type."""
    return ec.get_curve_for_oid(CurveIdentifier(row.ec_parameters))()


def encoded(row: KeyType, value: bytes) -> bytes:
    """The SubjectPublicKeyInfo of a key type without parameters, with this value of the public key."""
    info: bytes = _SubjectPublicKeyInfo({"algorithm": {"algorithm": row.spki_oid}, "public_key": value}).dump()
    return info


def _unwrapped(point: bytes, size: int) -> bytes:
    # The standard says a DER OCTET STRING; some tokens give the bare point.
    if len(point) == size:
        return point
    value: object = OctetString.load(point, strict=True).native
    if not isinstance(value, bytes) or len(value) != size:
        raise ValueError("CKA_EC_POINT is not an OCTET STRING with a point of the curve")
    return value


def _broken_public_key(row: KeyType, problem: str) -> HsmBridgeError:
    return ProviderError(
        Status.PROVIDER_FAILED,
        f"The token gave a public key that is none of type {row.name}; destroy the key and make another.",
        origin=problem,
    )
