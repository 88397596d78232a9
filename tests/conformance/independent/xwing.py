"""X-Wing by the text of its draft: ML-KEM-768 of pqcrypto, X25519 of openssl, the hashes of hashlib."""

import hashlib
from importlib import import_module
from typing import Protocol

from hsmbridge.core.key_types import KEY_TYPES
from tests.conformance.independent import derivation, openssl, spki

_X_WING = KEY_TYPES["X-Wing"]
_X25519 = KEY_TYPES["X25519"]
_ML_KEM_PUBLIC = 1184
_ML_KEM_CIPHERTEXT = 1088
_PKCS8 = 48


class _MlKem(Protocol):
    def keygen(self) -> tuple[bytes, bytes]: ...

    def encaps(self, pk: bytes, /) -> tuple[bytes, bytes]: ...

    def decaps(self, sk: bytes, ct: bytes, /) -> bytes: ...


def _ml_kem() -> _MlKem:
    module: _MlKem = import_module("pqcrypto.kem.ml_kem_768")
    return module


def _combined(lattice: bytes, curve: bytes, point: bytes, public: bytes) -> bytes:
    return hashlib.sha3_256(lattice + curve + point + public + rb"\.//^" + b"\\").digest()


def recipient() -> tuple[bytes, bytes]:
    """SubjectPublicKeyInfo, and what `decapsulate` takes: pqcrypto's private key and that of X25519 in PKCS#8."""
    public, private = _ml_kem().keygen()
    x25519 = openssl.genpkey("X25519")
    key_bits = public + spki.key_bits(openssl.public_half(x25519))
    return spki.encode(_X_WING, key_bits), private + x25519


def encapsulate(public_key: bytes) -> tuple[bytes, bytes]:
    """(ciphertext, shared secret) for the holder of a public key."""
    key = spki.key_bits(public_key)
    lattice_ciphertext, lattice = _ml_kem().encaps(key[:_ML_KEM_PUBLIC])
    ephemeral = openssl.genpkey("X25519")
    point = spki.key_bits(openssl.public_half(ephemeral))
    curve = derivation.agree(ephemeral, spki.encode(_X25519, key[_ML_KEM_PUBLIC:]))
    return lattice_ciphertext + point, _combined(lattice, curve, point, key[_ML_KEM_PUBLIC:])


def decapsulate(private: bytes, ciphertext: bytes) -> bytes:
    x25519 = private[-_PKCS8:]
    point = ciphertext[_ML_KEM_CIPHERTEXT:]
    lattice = _ml_kem().decaps(private[:-_PKCS8], ciphertext[:_ML_KEM_CIPHERTEXT])
    curve = derivation.agree(x25519, spki.encode(_X25519, point))
    return _combined(lattice, curve, point, spki.key_bits(openssl.public_half(x25519)))
