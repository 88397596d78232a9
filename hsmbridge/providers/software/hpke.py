"""HPKE (RFC 9180) in base mode, one message at a time: the ciphertext is `enc` followed by what the AEAD sealed.

The caller's associated data is HPKE's `info`, and HPKE's own `aad` is empty: section 8.1 has applications that use
the single-shot interface authenticate what is theirs there, and not in both places. A peer that uses another library
gives our associated data as `info` to its Seal or Open.
"""

from collections.abc import Mapping
from types import MappingProxyType

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric import ec, x25519

from hsmbridge.core.algorithms import Algorithm
from hsmbridge.core.calls import Encrypted
from hsmbridge.core.errors import RequestError, Status
from hsmbridge.core.key_types import key_type
from hsmbridge.providers.software.bound_key import BoundKey, mismatch, public_half_only
from hsmbridge.providers.software.ciphers import check_nonce, failed
from hsmbridge.providers.software.material import KeyMaterial, KeyPair
from hsmbridge.providers.software.xwing import XWingPrivateKey, XWingPublicKey

_PublicKey = x25519.X25519PublicKey | ec.EllipticCurvePublicKey | hpke.MLKEM768X25519PublicKey
_PrivateKey = x25519.X25519PrivateKey | ec.EllipticCurvePrivateKey | hpke.MLKEM768X25519PrivateKey

# By parameter set of the key.
_KEMS: Mapping[str, hpke.KEM] = MappingProxyType(
    {
        "X25519": hpke.KEM.X25519,
        "secp256r1": hpke.KEM.P256,
        "secp384r1": hpke.KEM.P384,
        "secp521r1": hpke.KEM.P521,
        "X-Wing": hpke.KEM.MLKEM768_X25519,
    }
)
_KDFS: Mapping[str, hpke.KDF] = MappingProxyType(
    {"SHA-256": hpke.KDF.HKDF_SHA256, "SHA-384": hpke.KDF.HKDF_SHA384, "SHA-512": hpke.KDF.HKDF_SHA512}
)
_AEADS: Mapping[str, hpke.AEAD] = MappingProxyType(
    {
        "AES-128-GCM": hpke.AEAD.AES_128_GCM,
        "AES-256-GCM": hpke.AEAD.AES_256_GCM,
        "ChaCha20-Poly1305": hpke.AEAD.CHACHA20_POLY1305,
    }
)


class Hpke(BoundKey):
    """Encryption to a public key; by wrapping, of another key."""

    __slots__ = ("_private", "_public", "_suite")

    def __init__(self, material: KeyMaterial, row: Algorithm) -> None:
        super().__init__(material, row)
        if not isinstance(material, KeyPair):
            raise mismatch(row)
        self._public = _public(material, row)
        self._private = _private(material)
        (kem,) = (_KEMS[key_type(name).parameter_set] for name in row.key_types)
        self._suite = hpke.Suite(kem, _KDFS[row.hash], _AEADS[row.aead])

    def encrypt(self, nonce: bytes, plaintext: bytes, aad: bytes) -> Encrypted:
        check_nonce(self._row, nonce)
        try:
            return Encrypted(b"", self._suite.encrypt(plaintext, self._public, aad))
        except ValueError:
            raise RequestError(
                Status.INVALID_ARGUMENT, "Nothing can be encrypted to this public key: everybody would know the secret."
            ) from None

    def decrypt(self, nonce: bytes, ciphertext: bytes, aad: bytes, tag: bytes) -> bytes:
        if self._private is None:
            raise public_half_only(self._row)
        check_nonce(self._row, nonce)
        if tag:
            raise failed()
        try:
            return self._suite.decrypt(ciphertext, self._private, aad)
        except (InvalidTag, ValueError):
            raise failed() from None

    def wrap(self, value: bytes, iv: bytes, aad: bytes) -> bytes:
        return self.encrypt(iv, value, aad).ciphertext

    def unwrap(self, wrapped: bytes, iv: bytes, aad: bytes) -> bytes:
        return self.decrypt(iv, wrapped, aad, b"")


def _public(material: KeyPair, row: Algorithm) -> _PublicKey:
    key = material.public
    if isinstance(key, XWingPublicKey):
        return hpke.MLKEM768X25519PublicKey(key.ml_kem, key.x25519)
    if isinstance(key, x25519.X25519PublicKey | ec.EllipticCurvePublicKey):
        return key
    raise mismatch(row)


def _private(material: KeyPair) -> _PrivateKey | None:
    key = material.private
    if isinstance(key, XWingPrivateKey):
        return hpke.MLKEM768X25519PrivateKey(key.ml_kem, key.x25519)
    return key if isinstance(key, x25519.X25519PrivateKey | ec.EllipticCurvePrivateKey) else None
