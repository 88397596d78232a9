"""The public half of a key: from CKA_* attributes to SubjectPublicKeyInfo (RFC 5280, 5480, 8410)."""

from asn1crypto.core import OctetString
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import ObjectIdentifier
from pkcs11 import Attribute, Object

from hsmbridge.core.errors import HsmBridgeError, ProviderError, Status
from hsmbridge.core.key_types import Family, KeyType


def public_key_info(row: KeyType, public: Object) -> bytes:
    """SubjectPublicKeyInfo, DER. Raises ProviderError (PROVIDER_FAILED) where the token's attributes make none."""
    try:
        key = _public_key(row, public)
    except ValueError as problem:
        raise _broken_public_key(row, str(problem)) from problem
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _public_key(
    row: KeyType, public: Object
) -> rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | ed448.Ed448PublicKey:
    if row.family is Family.RSA:
        exponent, modulus = bytes(public[Attribute.PUBLIC_EXPONENT]), bytes(public[Attribute.MODULUS])
        return rsa.RSAPublicNumbers(int.from_bytes(exponent), int.from_bytes(modulus)).public_key()
    point = bytes(public[Attribute.EC_POINT])
    if row.family is Family.EC:
        size = 1 + 2 * ((row.bits + 7) // 8)
        return ec.EllipticCurvePublicKey.from_encoded_point(curve_of(row), _unwrapped(point, size))
    if row.parameter_set == "Ed25519":
        return ed25519.Ed25519PublicKey.from_public_bytes(_unwrapped(point, 32))
    return ed448.Ed448PublicKey.from_public_bytes(_unwrapped(point, 57))


def curve_of(row: KeyType) -> ec.EllipticCurve:
    """The curve of an EC key type."""
    return ec.get_curve_for_oid(ObjectIdentifier(row.ec_parameters))()


def _unwrapped(point: bytes, size: int) -> bytes:
    # The standard says a DER OCTET STRING; some tokens give the bare point.
    if len(point) == size:
        return point
    value: object = OctetString.load(point, strict=True).native
    if not isinstance(value, bytes):
        raise ValueError("CKA_EC_POINT is not an OCTET STRING")
    return value


def _broken_public_key(row: KeyType, problem: str) -> HsmBridgeError:
    return ProviderError(
        Status.PROVIDER_FAILED,
        f"The token gave a public key that is none of type {row.name}; destroy the key and make another.",
        origin=problem,
    )
