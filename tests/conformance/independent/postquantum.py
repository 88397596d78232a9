"""ML-DSA, SLH-DSA, ML-KEM and X-Wing by pqcrypto.

It keeps expanded private keys, so what crosses over is public keys and outputs.
"""

import hashlib
from functools import cache
from importlib import import_module
from typing import Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PublicKey, MLDSA65PublicKey, MLDSA87PublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key

from hsmbridge.core.algorithms import Algorithm, Scheme
from hsmbridge.core.key_types import Family, KeyType
from hsmbridge.core.params import SignatureParameters
from tests.conformance.independent import spki, xwing

_PQCRYPTO_MAX = 1 << 20
"""The longest message that it takes, in bytes."""


class _MlDsa(Protocol):
    """What the package, which has no types, offers for one parameter set."""

    def keygen(self) -> tuple[bytes, bytes]: ...

    def sign(self, sk: bytes, msg: bytes, context: bytes | None, /) -> bytes: ...

    def verify(self, pk: bytes, msg: bytes, sig: bytes, context: bytes | None, /) -> None: ...


class _MlKem(Protocol):
    def keygen(self) -> tuple[bytes, bytes]: ...

    def encaps(self, pk: bytes, /) -> tuple[bytes, bytes]: ...

    def decaps(self, sk: bytes, ct: bytes, /) -> bytes: ...


def _ml_dsa(name: str) -> _MlDsa:
    module: _MlDsa = getattr(import_module("pqcrypto.sign"), name.replace("-", "_").lower())
    return module


def _ml_kem(name: str) -> _MlKem:
    module: _MlKem = getattr(import_module("pqcrypto.kem"), name.replace("-", "_").lower())
    return module


def verifies(
    row: Algorithm, public_key: bytes, message: bytes, signature: bytes, parameters: SignatureParameters
) -> bool:
    if len(message) > _PQCRYPTO_MAX:
        return _verifies_mu(public_key, message, signature, parameters.context)
    try:
        _ml_dsa(row.name).verify(spki.key_bits(public_key), message, signature, parameters.context)
    except ValueError:
        return False
    return True


def _verifies_mu(public_key: bytes, message: bytes, signature: bytes, context: bytes) -> bool:
    """What the size of a message touches, the representative, is computed by hashlib."""
    key = load_der_public_key(public_key)
    assert isinstance(key, MLDSA44PublicKey | MLDSA65PublicKey | MLDSA87PublicKey)
    try:
        key.verify_mu(signature, representative(public_key, message, context))
    except InvalidSignature:
        return False
    return True


def representative(public_key: bytes, message: bytes, context: bytes) -> bytes:
    """mu, of FIPS 204 algorithms 2 and 7."""
    tr = hashlib.shake_256(spki.key_bits(public_key)).digest(64)
    formatted = bytes((0, len(context))) + context + message
    return hashlib.shake_256(tr + formatted).digest(64)


@cache
def signer(row: KeyType) -> tuple[bytes, bytes]:
    """A key pair of ML-DSA: SubjectPublicKeyInfo, and what `sign` takes."""
    public, private = _ml_dsa(row.name).keygen()
    return spki.encode(row, public), private


def sign(row: Algorithm, private: bytes, message: bytes, context: bytes) -> bytes:
    return _ml_dsa(row.name).sign(private, message, context)


def encapsulate(row: Algorithm, public_key: bytes) -> tuple[bytes, bytes]:
    """(ciphertext, shared secret) for the holder of a public key."""
    if row.scheme is Scheme.X_WING:
        return xwing.encapsulate(public_key)
    return _ml_kem(row.name).encaps(spki.key_bits(public_key))


@cache
def recipient(row: KeyType) -> tuple[bytes, bytes]:
    """A key pair of ML-KEM or X-Wing: SubjectPublicKeyInfo, and what `decapsulate` takes."""
    if row.family is Family.HYBRID_KEM:
        return xwing.recipient()
    public, private = _ml_kem(row.name).keygen()
    return spki.encode(row, public), private


def decapsulate(row: Algorithm, private: bytes, ciphertext: bytes) -> bytes:
    if row.scheme is Scheme.X_WING:
        return xwing.decapsulate(private, ciphertext)
    return _ml_kem(row.name).decaps(private, ciphertext)
