"""Content under AES in CBC mode (RFC 3565), as EnvelopedData carries it, and the lengths that go with the names."""

import os
from dataclasses import dataclass

from cryptography.hazmat.primitives import padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from est import oids

KEY_LENGTHS = {oids.AES128_CBC: 16, oids.AES256_CBC: 32}
"""Octets of the key of each algorithm that content comes under."""

WRAP_LENGTHS = {oids.AES128_WRAP: 16, oids.AES256_WRAP: 32}
"""Octets of the key that wraps by each algorithm (RFC 3394)."""

_BLOCK_BITS = 128


@dataclass(frozen=True, slots=True)
class EncryptedContent:
    """Content that only a key of `key_length` octets opens."""

    key_length: int
    iv: bytes
    ciphertext: bytes

    def decrypt(self, secret: bytes) -> bytes:
        """The content.

        Raises:
            ValueError: the key has another length, or what comes out was not encrypted under it.
        """
        if len(secret) != self.key_length:
            raise ValueError
        decryptor = Cipher(algorithms.AES(secret), modes.CBC(self.iv)).decryptor()
        unpadder = padding.PKCS7(_BLOCK_BITS).unpadder()
        return unpadder.update(decryptor.update(self.ciphertext) + decryptor.finalize()) + unpadder.finalize()


def encrypt(content: bytes) -> tuple[bytes, EncryptedContent]:
    """Content under a new AES-256 key, and that key."""
    secret, iv = os.urandom(32), os.urandom(16)
    padder = padding.PKCS7(_BLOCK_BITS).padder()
    encryptor = Cipher(algorithms.AES256(secret), modes.CBC(iv)).encryptor()
    ciphertext = encryptor.update(padder.update(content) + padder.finalize()) + encryptor.finalize()
    return secret, EncryptedContent(len(secret), iv, ciphertext)
