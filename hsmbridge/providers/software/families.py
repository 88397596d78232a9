"""Families of keys: how one is made, and how to tell that a key is of the type that its row says.

A family or parameter set that is missing here is not supported. Secret keys need no entry: they are random bytes.
"""

import secrets
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, mlkem, rsa, x448, x25519

from hsmbridge.core.errors import RequestError, Status
from hsmbridge.core.key_types import Family, KeyType
from hsmbridge.providers.software.material import KeyMaterial, KeyPair, PrivateKey, PublicKey, SecretKey
from hsmbridge.providers.software.xwing import XWingPrivateKey, XWingPublicKey

_PUBLIC_EXPONENT = 65537


def generate(row: KeyType) -> KeyMaterial:
    """A random key. Raises RequestError (NOT_SUPPORTED)."""
    if row.symmetric:
        return SecretKey(secrets.token_bytes(row.bytes))
    return KeyPair.of(_family(row).generate(row))


def check_supported(row: KeyType) -> None:
    """Refuse a type that software has not. Raises RequestError (NOT_SUPPORTED)."""
    if not row.symmetric:
        _family(row)


def fits(row: KeyType, material: KeyMaterial) -> bool:
    """Whether a key is of a type. Raises RequestError (NOT_SUPPORTED)."""
    if isinstance(material, SecretKey):
        return row.symmetric and len(material.value) == row.bytes
    return not row.symmetric and _family(row).fits(row, material.public)


def check_derivable(row: KeyType) -> None:
    """Refuse to make an asymmetric key from a secret. Raises RequestError (NOT_SUPPORTED)."""
    if not row.symmetric:
        raise RequestError(
            Status.NOT_SUPPORTED, f"Only secret keys are made from a secret; {row.name} is a type of key pairs."
        )


class _AsymmetricFamily(Protocol):
    def supports(self, row: KeyType) -> bool: ...

    def generate(self, row: KeyType) -> PrivateKey: ...

    def fits(self, row: KeyType, public: PublicKey) -> bool: ...


def _family(row: KeyType) -> _AsymmetricFamily:
    family = _FAMILIES.get(row.family)
    if family is None or not family.supports(row):
        raise RequestError(Status.NOT_SUPPORTED, f"The software provider has no keys of type {row.name}.")
    return family


class _Rsa:
    def supports(self, row: KeyType) -> bool:
        return True

    def generate(self, row: KeyType) -> PrivateKey:
        return rsa.generate_private_key(_PUBLIC_EXPONENT, row.bits)

    def fits(self, row: KeyType, public: PublicKey) -> bool:
        return isinstance(public, rsa.RSAPublicKey) and public.key_size == row.bits


class _Ec:
    """NIST curves, by the name that SEC 2 and the table give them."""

    _curves: Mapping[str, ec.EllipticCurve] = MappingProxyType(
        {curve.name: curve for curve in (ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1())}
    )

    def supports(self, row: KeyType) -> bool:
        return row.parameter_set in self._curves

    def generate(self, row: KeyType) -> PrivateKey:
        return ec.generate_private_key(self._curves[row.parameter_set])

    def fits(self, row: KeyType, public: PublicKey) -> bool:
        return isinstance(public, ec.EllipticCurvePublicKey) and public.curve.name == row.parameter_set


class _ParameterSets:
    """A family whose parameter sets are classes of their own: parameter set → (generate, class of public key)."""

    def __init__(self, sets: Mapping[str, tuple[Callable[[], PrivateKey], type]]) -> None:
        self._sets = sets

    def supports(self, row: KeyType) -> bool:
        return row.parameter_set in self._sets

    def generate(self, row: KeyType) -> PrivateKey:
        make, _ = self._sets[row.parameter_set]
        return make()

    def fits(self, row: KeyType, public: PublicKey) -> bool:
        _, public_class = self._sets[row.parameter_set]
        return isinstance(public, public_class)


_FAMILIES: Mapping[Family, _AsymmetricFamily] = MappingProxyType(
    {
        Family.RSA: _Rsa(),
        Family.EC: _Ec(),
        Family.EDWARDS: _ParameterSets(
            {
                "Ed25519": (ed25519.Ed25519PrivateKey.generate, ed25519.Ed25519PublicKey),
                "Ed448": (ed448.Ed448PrivateKey.generate, ed448.Ed448PublicKey),
            }
        ),
        Family.MONTGOMERY: _ParameterSets(
            {
                "X25519": (x25519.X25519PrivateKey.generate, x25519.X25519PublicKey),
                "X448": (x448.X448PrivateKey.generate, x448.X448PublicKey),
            }
        ),
        Family.ML_DSA: _ParameterSets(
            {
                "ML-DSA-44": (mldsa.MLDSA44PrivateKey.generate, mldsa.MLDSA44PublicKey),
                "ML-DSA-65": (mldsa.MLDSA65PrivateKey.generate, mldsa.MLDSA65PublicKey),
                "ML-DSA-87": (mldsa.MLDSA87PrivateKey.generate, mldsa.MLDSA87PublicKey),
            }
        ),
        Family.ML_KEM: _ParameterSets(
            {
                "ML-KEM-768": (mlkem.MLKEM768PrivateKey.generate, mlkem.MLKEM768PublicKey),
                "ML-KEM-1024": (mlkem.MLKEM1024PrivateKey.generate, mlkem.MLKEM1024PublicKey),
            }
        ),
        Family.HYBRID_KEM: _ParameterSets({"X-Wing": (XWingPrivateKey.generate, XWingPublicKey)}),
    }
)
