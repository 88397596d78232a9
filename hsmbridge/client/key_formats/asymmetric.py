"""Between DER, the key type table and the objects of cryptography: which key type it is, and its plain parts.

SubjectPublicKeyInfo is RFC 5280 section 4.1, PrivateKeyInfo RFC 5958. The key type follows from the algorithm
identifier, so types are known here too of which cryptography has no class.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Protocol

from asn1crypto.core import BitString, Integer, ObjectIdentifier, OctetString, Sequence
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, rsa, x448, x25519
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
    load_der_public_key,
)

from hsmbridge.core.errors import RequestError, Status
from hsmbridge.core.key_types import KEY_TYPES, Family, KeyType
from hsmbridge.core.public_keys import checked

CURVES: Mapping[str, ec.EllipticCurve] = MappingProxyType(
    {"EC-P256": ec.SECP256R1(), "EC-P384": ec.SECP384R1(), "EC-P521": ec.SECP521R1()}
)


class _PublicClass(Protocol):
    def from_public_bytes(self, data: bytes, /) -> PublicKeyTypes: ...


class _RawPublicKey(Protocol):
    def public_bytes_raw(self) -> bytes: ...


_PUBLIC: Mapping[str, _PublicClass] = MappingProxyType(
    {
        "Ed25519": ed25519.Ed25519PublicKey,
        "Ed448": ed448.Ed448PublicKey,
        "X25519": x25519.X25519PublicKey,
        "X448": x448.X448PublicKey,
        "ML-DSA-44": mldsa.MLDSA44PublicKey,
        "ML-DSA-65": mldsa.MLDSA65PublicKey,
        "ML-DSA-87": mldsa.MLDSA87PublicKey,
    }
)


def type_of_spki(spki: bytes) -> KeyType:
    """The key type of a SubjectPublicKeyInfo. Raises RequestError (INVALID_ARGUMENT, UNKNOWN_KEY_TYPE)."""
    identifier, key = _two(spki, "public key")
    if not isinstance(identifier, Sequence) or not isinstance(key, BitString):
        raise unreadable("public key")
    row = _type_of(identifier, "public key", lambda: _rsa_bits(load_public(spki)))
    load_public(spki, row)
    return row


def type_of_pkcs8(pkcs8: bytes) -> KeyType:
    """The key type of a PrivateKeyInfo. Raises RequestError (INVALID_ARGUMENT, UNKNOWN_KEY_TYPE)."""
    version, identifier = _two(pkcs8, "private key")
    if not isinstance(version, Integer) or not isinstance(identifier, Sequence):
        raise unreadable("private key")
    return _type_of(identifier, "private key", lambda: _rsa_bits(_load_private(pkcs8)))


def form_of_der(der: bytes) -> str:
    """Which structure it is: "spki", "pkcs8" or "encrypted pkcs8". Raises RequestError (INVALID_ARGUMENT)."""
    first, second = _two(der, "key")
    shape = (type(first), type(second))
    form = {
        (Sequence, BitString): "spki",
        (Integer, Sequence): "pkcs8",
        (Sequence, OctetString): "encrypted pkcs8",
    }.get(shape)
    if form is None:
        raise RequestError(
            Status.INVALID_ARGUMENT,
            "The DER is neither a public key (SubjectPublicKeyInfo) nor a private one (PKCS#8);"
            " `openssl pkey` and `openssl pkcs8 -topk8` make those.",
        )
    return form


def load_public(spki: bytes, row: KeyType | None = None) -> PublicKeyTypes | None:
    """The key, checked; None where cryptography has no class for a type that the table knows.

    Raises RequestError (INVALID_ARGUMENT) for one that cannot be, such as a point that is not on its curve.
    """
    try:
        return checked(load_der_public_key(spki))
    except UnsupportedAlgorithm:
        if row is None:
            raise unreadable("public key") from None
        return None
    except (ValueError, TypeError):
        if row is not None and row.postquantum and row.name not in _PUBLIC:
            return None
        raise unreadable("public key") from None


def public_parts(spki: bytes, row: KeyType) -> bytes:
    """The value of a key that is a string of octets: Edwards, Montgomery, ML-DSA.

    Raises RequestError (NOT_SUPPORTED) for other types.
    """
    key = load_public(spki, row)
    if row.name not in _PUBLIC or key is None:
        raise RequestError(Status.NOT_SUPPORTED, f"This format has no form for keys of type {row.name}.")
    raw: _RawPublicKey = key  # type: ignore[assignment]  # every class of _PUBLIC has it
    return raw.public_bytes_raw()


def spki_of_raw(row: KeyType, value: bytes) -> bytes:
    """The SubjectPublicKeyInfo of such a value. Raises RequestError (INVALID_ARGUMENT)."""
    try:
        return spki_of(_PUBLIC[row.name].from_public_bytes(value))
    except ValueError:
        raise RequestError(
            Status.INVALID_ARGUMENT, f"The value is not a public key of type {row.name}: {len(value)} bytes."
        ) from None


def spki_of(key: PublicKeyTypes) -> bytes:
    """SubjectPublicKeyInfo in DER."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def pkcs8_of(key: PrivateKeyTypes) -> bytes:
    """PrivateKeyInfo in DER, for the daemon and nobody else."""
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def spki_of_point(row: KeyType, point: bytes) -> bytes:
    """The SubjectPublicKeyInfo of an elliptic-curve point (SEC 1). Raises RequestError (INVALID_ARGUMENT)."""
    try:
        return spki_of(ec.EllipticCurvePublicKey.from_encoded_point(CURVES[row.name], point))
    except ValueError:
        raise RequestError(Status.INVALID_ARGUMENT, f"The point is not on the curve of {row.name}.") from None


def spki_of_rsa(n: int, e: int) -> bytes:
    """The SubjectPublicKeyInfo of an RSA key. Raises RequestError (INVALID_ARGUMENT)."""
    try:
        return spki_of(checked(rsa.RSAPublicNumbers(e, n).public_key()))
    except ValueError:
        raise unreadable("RSA public key") from None


def unreadable(what: str) -> RequestError:
    """The refusal of what is damaged, or something else altogether."""
    return RequestError(Status.INVALID_ARGUMENT, f"The {what} cannot be read: it is damaged, or something else.")


def _two(der: bytes, what: str) -> tuple[object, object]:
    try:
        sequence = Sequence.load(der, strict=True)
        return sequence[0], sequence[1]
    except (ValueError, TypeError, IndexError, KeyError):
        raise unreadable(what) from None


def _type_of(identifier: Sequence, what: str, rsa_bits: Callable[[], int]) -> KeyType:
    try:
        oid = _dotted(identifier[0])
        curve = _dotted(identifier[1]) if len(identifier) > 1 else ""
    except (ValueError, TypeError, IndexError, KeyError):
        raise unreadable(what) from None
    rows = [row for row in KEY_TYPES.values() if oid and row.spki_oid == oid]
    if rows and rows[0].family is Family.EC:
        rows = [row for row in rows if row.ec_parameters == curve]
    elif rows and rows[0].family is Family.RSA:
        bits = rsa_bits()
        rows = [row for row in rows if row.bits == bits]
        oid = f"RSA of {bits} bits"
    if not rows:
        raise RequestError(
            Status.UNKNOWN_KEY_TYPE, f"No key type here fits this {what} ({oid}{f', {curve}' if curve else ''})."
        )
    return rows[0]


def _dotted(value: object) -> str:
    return str(value.dotted) if isinstance(value, ObjectIdentifier) else ""


def _rsa_bits(key: PublicKeyTypes | PrivateKeyTypes | None) -> int:
    return key.key_size if isinstance(key, rsa.RSAPublicKey | rsa.RSAPrivateKey) else 0


def _load_private(pkcs8: bytes) -> PrivateKeyTypes:
    try:
        return load_der_private_key(pkcs8, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise unreadable("private key") from None
