"""Wrapping keys: AES-KW and AES-KWP (SP 800-38F, RFC 3394, RFC 5649), and RSA-AES key wrap (PKCS#11 v3.2).

What else wraps - AEADs, RSAES-OAEP, HPKE - is in `ciphers` and `hpke`. What is wrapped are bytes here; that they are
a key of the right type is checked by the provider, where everything that is wrong is the same DecryptionFailed.
"""

import secrets

from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.keywrap import (
    InvalidUnwrap,
    aes_key_unwrap,
    aes_key_unwrap_with_padding,
    aes_key_wrap,
    aes_key_wrap_with_padding,
)

from hsmbridge.core.algorithms import Algorithm
from hsmbridge.core.errors import RequestError, Status
from hsmbridge.providers.software.bound_key import BoundKey, mismatch, public_half_only
from hsmbridge.providers.software.ciphers import check_nonce, failed, refuse_aad
from hsmbridge.providers.software.digests import HASHES
from hsmbridge.providers.software.material import KeyMaterial, KeyPair, SecretKey

_AES_256 = 32
_SEMIBLOCK = 8


class _AesWrap(BoundKey):
    __slots__ = ("_secret",)

    def __init__(self, material: KeyMaterial, row: Algorithm) -> None:
        super().__init__(material, row)
        if not isinstance(material, SecretKey):
            raise mismatch(row)
        self._secret = material

    def wrap(self, value: bytes, iv: bytes, aad: bytes) -> bytes:
        check_nonce(self._row, iv)
        refuse_aad(self._row, aad)
        return self._wrap(value)

    def unwrap(self, wrapped: bytes, iv: bytes, aad: bytes) -> bytes:
        check_nonce(self._row, iv)
        refuse_aad(self._row, aad)
        try:
            return self._unwrap(wrapped)
        except (InvalidUnwrap, ValueError):
            raise failed() from None

    def _wrap(self, value: bytes) -> bytes:
        raise NotImplementedError

    def _unwrap(self, wrapped: bytes) -> bytes:
        raise NotImplementedError


class AesKw(_AesWrap):
    """AES-KW, which wraps whole semiblocks."""

    __slots__ = ()

    def _wrap(self, value: bytes) -> bytes:
        if len(value) < 2 * _SEMIBLOCK or len(value) % _SEMIBLOCK:
            raise RequestError(
                Status.INVALID_ARGUMENT,
                f"{self._row.name} wraps keys of 16 bytes or more, in steps of 8; this one has {len(value)}."
                " KWP wraps any.",
            )
        return aes_key_wrap(self._secret.value, value)

    def _unwrap(self, wrapped: bytes) -> bytes:
        return aes_key_unwrap(self._secret.value, wrapped)


class AesKwp(_AesWrap):
    """AES-KWP, which pads."""

    __slots__ = ()

    def _wrap(self, value: bytes) -> bytes:
        return aes_key_wrap_with_padding(self._secret.value, value)

    def _unwrap(self, wrapped: bytes) -> bytes:
        return aes_key_unwrap_with_padding(self._secret.value, wrapped)


class RsaAesKeyWrap(BoundKey):
    """A fresh AES-256 key under RSAES-OAEP, followed by the wrapped key under that one with AES-KWP."""

    __slots__ = ("_padding", "_private", "_public")

    def __init__(self, material: KeyMaterial, row: Algorithm) -> None:
        super().__init__(material, row)
        if not isinstance(material, KeyPair) or not isinstance(material.public, rsa.RSAPublicKey):
            raise mismatch(row)
        self._public = material.public
        self._private = material.private if isinstance(material.private, rsa.RSAPrivateKey) else None
        hash_ = HASHES[row.hash]
        self._padding = padding.OAEP(padding.MGF1(hash_), hash_, None)

    def wrap(self, value: bytes, iv: bytes, aad: bytes) -> bytes:
        check_nonce(self._row, iv)
        refuse_aad(self._row, aad)
        between = secrets.token_bytes(_AES_256)
        return self._public.encrypt(between, self._padding) + aes_key_wrap_with_padding(between, value)

    def unwrap(self, wrapped: bytes, iv: bytes, aad: bytes) -> bytes:
        if self._private is None:
            raise public_half_only(self._row)
        check_nonce(self._row, iv)
        refuse_aad(self._row, aad)
        size = self._public.key_size // 8
        try:
            between = self._private.decrypt(wrapped[:size], self._padding)
            return aes_key_unwrap_with_padding(between, wrapped[size:])
        except (InvalidUnwrap, ValueError):
            raise failed() from None
