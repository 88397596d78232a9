"""Encryption: AEADs (SP 800-38D, SP 800-38C, RFC 8439), block modes (SP 800-38A), RSAES-OAEP (RFC 8017).

Whatever is wrong with data to be decrypted raises the same DecryptionFailed. AEADs decrypt into memory of their
own, so that nothing of a forged message is seen.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers import (
    AEADDecryptionContext,
    AEADEncryptionContext,
    Cipher,
    CipherContext,
    modes,
)
from cryptography.hazmat.primitives.ciphers import aead as aeads
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.padding import PKCS7

from hsmbridge.core.algorithms import Algorithm
from hsmbridge.core.calls import Encrypted
from hsmbridge.core.errors import DecryptionFailed, HsmBridgeError, LimitError, RequestError, Status
from hsmbridge.providers.software.bound_key import BoundKey, mismatch, public_half_only
from hsmbridge.providers.software.digests import HASHES
from hsmbridge.providers.software.material import KeyMaterial, KeyPair, SecretKey

_Mode = modes.ModeWithInitializationVector | modes.ModeWithNonce
_AES_BLOCK = 16
_OPENSSL_MAX = (1 << 31) - 1


def failed() -> DecryptionFailed:
    """What every wrong ciphertext is answered with."""
    return DecryptionFailed(Status.DECRYPTION_FAILED)


def _too_large(row: Algorithm, most: int) -> HsmBridgeError:
    return LimitError(Status.DATA_TOO_LARGE, f"{row.name} encrypts at most {most} bytes at once with this key.")


def check_nonce(row: Algorithm, nonce: bytes) -> None:
    """Refuse a nonce of the wrong size. Raises RequestError (INVALID_ARGUMENT)."""
    if len(nonce) != row.nonce_size:
        raise RequestError(
            Status.INVALID_ARGUMENT, f"{row.name} takes a nonce of {row.nonce_size} bytes; this one has {len(nonce)}."
        )


def refuse_aad(row: Algorithm, aad: bytes) -> None:
    """Refuse associated data. Raises RequestError (INVALID_ARGUMENT)."""
    if aad:
        raise RequestError(Status.INVALID_ARGUMENT, f"{row.name} authenticates no associated data.")


class _AeadObject(Protocol):
    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None, /) -> bytes: ...

    def encrypt_into(
        self, nonce: bytes, data: memoryview, associated_data: bytes | None, buf: memoryview, /
    ) -> int: ...

    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None, /) -> bytes: ...

    def decrypt_into(
        self, nonce: bytes, data: memoryview, associated_data: bytes | None, buf: memoryview, /
    ) -> int: ...


class _Aead(BoundKey):
    __slots__ = ("_cipher", "_most", "_secret", "_tag_size")

    def __init__(self, material: KeyMaterial, row: Algorithm) -> None:
        super().__init__(material, row)
        if not isinstance(material, SecretKey):
            raise mismatch(row)
        self._secret = material
        self._tag_size = row.tag_size
        self._most = self._limit()
        self._cipher = self._start(material)

    def _start(self, secret: SecretKey) -> _AeadObject:
        raise NotImplementedError

    def _limit(self) -> int:
        return _OPENSSL_MAX - self._tag_size

    def encrypt(self, nonce: bytes, plaintext: bytes, aad: bytes) -> Encrypted:
        check_nonce(self._row, nonce)
        if len(plaintext) > self._most:
            raise _too_large(self._row, self._most)
        sealed = self._cipher.encrypt(nonce, plaintext, aad)
        end = len(sealed) - self._tag_size
        return Encrypted(nonce, sealed[:end], sealed[end:])

    def encrypt_into(self, nonce: bytes, plaintext: memoryview, aad: bytes, target: memoryview) -> Encrypted:
        length = len(plaintext)
        end = length + self._tag_size
        if len(target) < end:
            return self._encrypt_beside(nonce, plaintext, aad, target)
        check_nonce(self._row, nonce)
        if length > self._most:
            raise _too_large(self._row, self._most)
        # The library puts the tag behind the ciphertext.
        self._cipher.encrypt_into(nonce, plaintext, aad, target[:end])
        return Encrypted(nonce, b"", bytes(target[length:end]))

    def _encrypt_beside(self, nonce: bytes, plaintext: memoryview, aad: bytes, target: memoryview) -> Encrypted:
        """Into a target without room for the tag."""
        made = self.encrypt(nonce, bytes(plaintext), aad)
        target[: len(made.ciphertext)] = made.ciphertext
        return Encrypted(nonce, b"", made.tag)

    def encrypt_many_into(self, nonces: Sequence[bytes], messages: Sequence[memoryview], aads: Iterable[bytes]) -> None:
        for nonce in nonces:
            check_nonce(self._row, nonce)
        if max(map(len, messages), default=0) - self._tag_size > self._most:
            raise _too_large(self._row, self._most)
        encrypt_into, without_tag = self._cipher.encrypt_into, slice(-self._tag_size)
        for nonce, message, aad in zip(nonces, messages, aads, strict=True):
            encrypt_into(nonce, message[without_tag], aad, message)

    def decrypt_into(self, nonce: bytes, sealed: memoryview, aad: bytes, target: memoryview) -> int:
        check_nonce(self._row, nonce)
        length = len(sealed) - self._tag_size
        if not 0 <= length <= self._most:
            raise failed()
        try:
            return self._cipher.decrypt_into(nonce, sealed, aad, target[:length])
        except InvalidTag:
            raise failed() from None

    def decrypt(self, nonce: bytes, ciphertext: bytes, aad: bytes, tag: bytes) -> bytes:
        check_nonce(self._row, nonce)
        if len(tag) != self._tag_size or len(ciphertext) > self._most:
            raise failed()
        try:
            return self._cipher.decrypt(nonce, ciphertext + tag, aad)
        except InvalidTag:
            raise failed() from None

    def wrap(self, value: bytes, iv: bytes, aad: bytes) -> bytes:
        sealed = self.encrypt(iv, value, aad)
        return sealed.ciphertext + sealed.tag

    def unwrap(self, wrapped: bytes, iv: bytes, aad: bytes) -> bytes:
        end = max(len(wrapped) - self._tag_size, 0)
        return self.decrypt(iv, wrapped[:end], aad, wrapped[end:])


class Gcm(_Aead):
    """AES-GCM. Past 128 KiB, taking the tag from the ciphertext (a copy) costs more than a cipher context does."""

    __slots__ = ("_aes",)
    _large = 128 * 1024

    def _start(self, secret: SecretKey) -> _AeadObject:
        self._aes = AES(secret.value)
        return aeads.AESGCM(secret.value)

    def encrypt(self, nonce: bytes, plaintext: bytes, aad: bytes) -> Encrypted:
        if len(plaintext) < self._large:
            return super().encrypt(nonce, plaintext, aad)
        context = self._encryptor(nonce, aad)
        ciphertext = _run(context, plaintext)
        return Encrypted(nonce, ciphertext, context.tag)

    def _encrypt_beside(self, nonce: bytes, plaintext: memoryview, aad: bytes, target: memoryview) -> Encrypted:
        context = self._encryptor(nonce, aad)
        _run_into(context, plaintext, target)
        return Encrypted(nonce, b"", context.tag)

    def decrypt(self, nonce: bytes, ciphertext: bytes, aad: bytes, tag: bytes) -> bytes:
        if len(ciphertext) < self._large:
            return super().decrypt(nonce, ciphertext, aad, tag)
        context = self._decryptor(nonce, aad, tag)
        try:
            return _run(context, ciphertext)
        except InvalidTag:
            raise failed() from None

    def _encryptor(self, nonce: bytes, aad: bytes) -> AEADEncryptionContext:
        check_nonce(self._row, nonce)
        context = Cipher(self._aes, modes.GCM(nonce)).encryptor()
        context.authenticate_additional_data(aad)
        return context

    def _decryptor(self, nonce: bytes, aad: bytes, tag: bytes) -> AEADDecryptionContext:
        check_nonce(self._row, nonce)
        if len(tag) != self._tag_size:
            raise failed()
        context = Cipher(self._aes, modes.GCM(nonce, tag)).decryptor()
        context.authenticate_additional_data(aad)
        return context


class Ccm(_Aead):
    """AES-CCM; the longer the nonce, the fewer bytes count the message."""

    __slots__ = ()

    def _start(self, secret: SecretKey) -> _AeadObject:
        return aeads.AESCCM(secret.value, self._tag_size)

    def _limit(self) -> int:
        return min((1 << 8 * (15 - self._row.nonce_size)) - 1, super()._limit())


class ChaCha20Poly1305(_Aead):
    """ChaCha20-Poly1305 as the IETF has it."""

    __slots__ = ()

    def _start(self, secret: SecretKey) -> _AeadObject:
        return aeads.ChaCha20Poly1305(secret.value)


class _AesMode(BoundKey):
    __slots__ = ("_aes", "_secret")

    def __init__(self, material: KeyMaterial, row: Algorithm) -> None:
        super().__init__(material, row)
        if not isinstance(material, SecretKey):
            raise mismatch(row)
        self._secret = material
        self._aes = AES(material.value)

    def _mode(self, nonce: bytes) -> _Mode:
        raise NotImplementedError

    def _pad(self, plaintext: bytes) -> bytes:
        return plaintext

    def _unpad(self, padded: bytes) -> bytes:
        return padded

    def encrypt(self, nonce: bytes, plaintext: bytes, aad: bytes) -> Encrypted:
        context = self._cipher(nonce, aad).encryptor()
        return Encrypted(nonce, _run(context, self._pad(plaintext)))

    def decrypt(self, nonce: bytes, ciphertext: bytes, aad: bytes, tag: bytes) -> bytes:
        cipher = self._cipher(nonce, aad)
        if tag:
            raise failed()
        try:
            return self._unpad(_run(cipher.decryptor(), ciphertext))
        except ValueError:
            raise failed() from None

    def _cipher(self, nonce: bytes, aad: bytes) -> Cipher[_Mode]:
        check_nonce(self._row, nonce)
        refuse_aad(self._row, aad)
        return Cipher(self._aes, self._mode(nonce))


def _run(context: CipherContext, data: bytes) -> bytes:
    done = context.update(data)
    rest = context.finalize()
    return done + rest if rest else done


def _run_into(context: CipherContext, data: memoryview, target: memoryview) -> int:
    done = context.update_into(data, target)
    context.finalize()  # of GCM, which has nothing left to give
    return done


class Cbc(_AesMode):
    """AES-CBC with PKCS#7 padding."""

    __slots__ = ()
    _pkcs7 = PKCS7(8 * _AES_BLOCK)

    def _mode(self, nonce: bytes) -> _Mode:
        return modes.CBC(nonce)

    def _pad(self, plaintext: bytes) -> bytes:
        missing = _AES_BLOCK - len(plaintext) % _AES_BLOCK
        return plaintext + bytes((missing,)) * missing

    def _unpad(self, padded: bytes) -> bytes:
        # The library's check takes the same time wherever the padding is wrong.
        unpadder = self._pkcs7.unpadder()
        last = unpadder.update(padded[-_AES_BLOCK:]) + unpadder.finalize()
        return padded[: len(padded) - _AES_BLOCK + len(last)]


class Ctr(_AesMode):
    """AES-CTR; the nonce is the first counter block."""

    __slots__ = ()

    def _mode(self, nonce: bytes) -> _Mode:
        return modes.CTR(nonce)


class Cfb(_AesMode):
    """AES-CFB with segments of a whole block (CFB128)."""

    __slots__ = ()

    def _mode(self, nonce: bytes) -> _Mode:
        return CFB(nonce)


class RsaOaep(BoundKey):
    """RSAES-OAEP with MGF1 over the same hash and an empty label."""

    __slots__ = ("_most", "_padding", "_private", "_public")

    def __init__(self, material: KeyMaterial, row: Algorithm) -> None:
        super().__init__(material, row)
        if not isinstance(material, KeyPair) or not isinstance(material.public, rsa.RSAPublicKey):
            raise mismatch(row)
        self._public = material.public
        self._private = material.private if isinstance(material.private, rsa.RSAPrivateKey) else None
        hash_ = HASHES[row.hash]
        self._padding = padding.OAEP(padding.MGF1(hash_), hash_, None)
        self._most = self._public.key_size // 8 - 2 * hash_.digest_size - 2

    def encrypt(self, nonce: bytes, plaintext: bytes, aad: bytes) -> Encrypted:
        check_nonce(self._row, nonce)
        refuse_aad(self._row, aad)
        if len(plaintext) > self._most:
            raise _too_large(self._row, self._most)
        return Encrypted(b"", self._public.encrypt(plaintext, self._padding))

    def decrypt(self, nonce: bytes, ciphertext: bytes, aad: bytes, tag: bytes) -> bytes:
        if self._private is None:
            raise public_half_only(self._row)
        check_nonce(self._row, nonce)
        refuse_aad(self._row, aad)
        if tag:
            raise failed()
        try:
            return self._private.decrypt(ciphertext, self._padding)
        except ValueError:
            raise failed() from None

    def wrap(self, value: bytes, iv: bytes, aad: bytes) -> bytes:
        return self.encrypt(iv, value, aad).ciphertext

    def unwrap(self, wrapped: bytes, iv: bytes, aad: bytes) -> bytes:
        return self.decrypt(iv, wrapped, aad, b"")


class RsaPkcs1(BoundKey):
    """RSAES-PKCS1-v1_5, decryption alone, with implicit rejection.

    A ciphertext whose padding is wrong yields what nobody can tell from a plaintext, the same each time
    (draft-irtf-cfrg-rsa-guidance): an error would let whoever asks often enough decrypt or sign with the key
    (Bleichenbacher). OpenSSL does it since 3.2; where it does not, `probe` does not offer the row.
    """

    __slots__ = ("_private",)

    def __init__(self, material: KeyMaterial, row: Algorithm) -> None:
        super().__init__(material, row)
        if not isinstance(material, KeyPair) or not isinstance(material.public, rsa.RSAPublicKey):
            raise mismatch(row)
        self._private = material.private if isinstance(material.private, rsa.RSAPrivateKey) else None

    def decrypt(self, nonce: bytes, ciphertext: bytes, aad: bytes, tag: bytes) -> bytes:
        if self._private is None:
            raise public_half_only(self._row)
        check_nonce(self._row, nonce)
        refuse_aad(self._row, aad)
        if tag:
            raise failed()
        try:
            return self._private.decrypt(ciphertext, padding.PKCS1v15())
        except ValueError:  # of another length than the modulus, or no number below it: no matter of padding
            raise failed() from None
