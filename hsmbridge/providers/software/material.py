"""Key material in this process, and its stored form.

The stored form, which the store's seal encrypts, is one format byte and then
    0x01  the value of a secret key;
    0x02  a private key: PKCS#8 in DER, ML-DSA, ML-KEM and X-Wing as their seed (RFC 5958, RFC 9881, RFC 9935);
    0x03  a public key alone: SubjectPublicKeyInfo in DER (RFC 5280).
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
    load_der_public_key,
)

from hsmbridge.core.errors import KeyUseError, RequestError, Status, StoreError
from hsmbridge.core.public_keys import checked
from hsmbridge.providers.software import xwing

PrivateKey = PrivateKeyTypes | xwing.XWingPrivateKey
PublicKey = PublicKeyTypes | xwing.XWingPublicKey

_SECRET = 0x01
_PRIVATE = 0x02
_PUBLIC = 0x03


class SecretKey:
    """The value of a symmetric key. It is overwritten when the last object that uses it is gone."""

    __slots__ = ("__weakref__", "value")

    def __init__(self, value: bytes) -> None:
        self.value = bytearray(value)

    def __del__(self) -> None:
        self.value[:] = bytes(len(self.value))

    def __repr__(self) -> str:
        return f"SecretKey({len(self.value)} bytes)"

    @property
    def public_key(self) -> bytes:
        return b""

    def stored(self) -> bytes:
        """The stored form."""
        return bytes((_SECRET,)) + self.value


class KeyPair:
    """An asymmetric key; `private` is None where only the public key is there."""

    __slots__ = ("private", "public")

    def __init__(self, private: PrivateKey | None, public: PublicKey) -> None:
        self.private = private
        self.public = public

    @classmethod
    def of(cls, private: PrivateKey) -> "KeyPair":
        return cls(private, private.public_key())

    @property
    def public_key(self) -> bytes:
        """SubjectPublicKeyInfo in DER."""
        if isinstance(self.public, xwing.XWingPublicKey):
            return self.public.spki()
        return self.public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def stored(self) -> bytes:
        """The stored form."""
        pkcs8 = self.pkcs8()
        return bytes((_PUBLIC,)) + self.public_key if pkcs8 is None else bytes((_PRIVATE,)) + pkcs8

    def pkcs8(self) -> bytes | None:
        """The private key as PrivateKeyInfo in DER, or None where only the public one is there."""
        if self.private is None:
            return None
        if isinstance(self.private, xwing.XWingPrivateKey):
            return self.private.pkcs8()
        return self.private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


KeyMaterial = SecretKey | KeyPair


def to_wrap(material: KeyMaterial) -> bytes:
    """What of a key is wrapped: its value, or PKCS#8 in DER. Raises KeyUseError for a public key alone."""
    value = bytes(material.value) if isinstance(material, SecretKey) else material.pkcs8()
    if value is None:
        raise KeyUseError(
            Status.KEY_OPERATION_NOT_PERMITTED, "Only the public half of this key is here; there is nothing to wrap."
        )
    return value


def from_stored(stored: bytes) -> KeyMaterial:
    """The key of a stored form that the seal has authenticated. Raises StoreError (STORE_TAMPERED)."""
    read = _STORED.get(stored[0]) if stored else None
    if read is None:
        raise StoreError(
            Status.STORE_TAMPERED, "The stored key has a form that this version of hsmbridge does not know."
        )
    try:
        return read(stored[1:])
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise StoreError(
            Status.STORE_TAMPERED, "The stored key cannot be read; restore it from a backup.", origin=repr(error)
        ) from error


def from_clear(format_: str, material: bytes) -> KeyMaterial:
    """A key that a caller gives as "raw", "pkcs8" or "spki". Raises RequestError (INVALID_ARGUMENT)."""
    read = _FORMATS.get(format_)
    if read is None:
        raise RequestError(
            Status.INVALID_ARGUMENT, f"A key is imported as one of {', '.join(_FORMATS)}, not {format_[:16]!r}."
        )
    try:
        return read(material)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise RequestError(
            Status.INVALID_ARGUMENT,
            f"The material is not a key in {format_} form that can be read.",
            origin=repr(error),
        ) from None


def public_key_from(spki: bytes) -> PublicKeyTypes:
    """The public key in a SubjectPublicKeyInfo. Raises RequestError (INVALID_ARGUMENT)."""
    try:
        return checked(load_der_public_key(spki))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise RequestError(
            Status.INVALID_ARGUMENT,
            "The public key is not a valid SubjectPublicKeyInfo in DER of a supported algorithm.",
            origin=repr(error),
        ) from None


def _trusted_private_key(pkcs8: bytes) -> KeyPair:
    hybrid = xwing.private_key(pkcs8)
    if hybrid is not None:
        return KeyPair.of(hybrid)
    # The seal has authenticated it, and checking an RSA key takes longer than a hundred signatures.
    return KeyPair.of(load_der_private_key(pkcs8, None, unsafe_skip_rsa_key_validation=True))


def _private_key(pkcs8: bytes) -> KeyPair:
    return KeyPair.of(xwing.private_key(pkcs8) or load_der_private_key(pkcs8, None))


def _trusted_public_key(spki: bytes) -> KeyPair:
    return KeyPair(None, xwing.public_key(spki) or load_der_public_key(spki))


def _public_key(spki: bytes) -> KeyPair:
    return KeyPair(None, xwing.public_key(spki) or checked(load_der_public_key(spki)))


_STORED: Mapping[int, Callable[[bytes], KeyMaterial]] = MappingProxyType(
    {_SECRET: SecretKey, _PRIVATE: _trusted_private_key, _PUBLIC: _trusted_public_key}
)
_FORMATS: Mapping[str, Callable[[bytes], KeyMaterial]] = MappingProxyType(
    {"raw": SecretKey, "pkcs8": _private_key, "spki": _public_key}
)
