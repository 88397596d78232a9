"""The provider contract over keys in software; how they are kept is in `hsmbridge.providers.sealed_keys`."""

import secrets
from collections.abc import Sequence
from itertools import repeat

import cryptography
from cryptography.hazmat.backends.openssl.backend import backend

from hsmbridge.core import calls
from hsmbridge.core.algorithms import Algorithm, KeyOperation, Kind
from hsmbridge.core.errors import DecryptionFailed, HsmBridgeError, RequestError, Status
from hsmbridge.core.key_types import KeyType, key_type
from hsmbridge.core.params import KdfParameters, SignatureParameters
from hsmbridge.core.policy import Protection
from hsmbridge.providers.sealed_keys import LoadedKey, SealedKeysProvider, not_as_described
from hsmbridge.providers.software import families, streams
from hsmbridge.providers.software.bound_key import BoundKey, mismatch
from hsmbridge.providers.software.derivation import derive, row_of
from hsmbridge.providers.software.digests import digest
from hsmbridge.providers.software.material import KeyMaterial, SecretKey, from_clear, from_stored, to_wrap
from hsmbridge.providers.software.probe import abilities
from hsmbridge.providers.software.schemes import SCHEMES
from hsmbridge.providers.streams import ProviderStream


class SoftwareProvider(SealedKeysProvider[KeyMaterial, BoundKey]):
    """Keys in software. Calls may come from any number of threads; only loading and forgetting keys takes a lock."""

    def describe(self) -> calls.Description:
        found = abilities()
        return calls.Description(
            scheme="software",
            token=calls.TokenIdentity(
                label="software",
                serial="",
                manufacturer="pyca/cryptography",
                model=backend.openssl_version_text(),
                firmware=cryptography.__version__,
            ),
            key_types=found.key_types,
            imports=found.key_types,
            claims=tuple(found.claims.values()),
            random=True,
            lists=False,
            protection=Protection.FILE,
            notes=("Keys in use are in the memory of the daemon.",),
        )

    # Keys

    def generate(self, target: calls.KeyTarget) -> calls.MadeKey:
        return self._keep(target, families.generate(key_type(target.key_type)))

    def import_key(self, target: calls.KeyTarget, format_: str, material: bytes) -> calls.MadeKey:
        row = key_type(target.key_type)
        families.check_supported(row)
        key = from_clear(format_, material)
        if not families.fits(row, key):
            raise RequestError(Status.KEY_TYPE_MISMATCH, f"The imported key is not of type {row.name}.")
        return self._keep(target, key)

    def derive_from_secret(self, secret: bytes, kdf: KdfParameters | None, target: calls.KeyTarget) -> calls.MadeKey:
        row = key_type(target.key_type)
        families.check_derivable(row)
        if kdf is not None:
            return self._keep(target, SecretKey(derive(secret, kdf, row.bytes)))
        if len(secret) != row.bytes:
            raise RequestError(
                Status.INVALID_ARGUMENT,
                f"The secret has {len(secret)} bytes, and a key of type {row.name} {row.bytes};"
                " use a KDF or a key type of that size.",
            )
        return self._keep(target, SecretKey(secret))

    def derive_key(self, handle: int, kdf: KdfParameters, target: calls.KeyTarget) -> calls.MadeKey:
        key = self._loaded(handle)
        row = row_of(kdf)
        if row.name not in abilities().claims:
            raise _not_supported(row)
        if not row.takes(key.row) or not isinstance(key.material, SecretKey):
            raise mismatch(row)
        target_row = key_type(target.key_type)
        families.check_derivable(target_row)
        return self._keep(target, SecretKey(derive(key.material.value, kdf, target_row.bytes)))

    # Use of keys

    def sign(self, handle: int, row: Algorithm, message: bytes, parameters: SignatureParameters) -> bytes:
        return self._bound(handle, row).sign(message, parameters)

    def sign_many(
        self, handle: int, row: Algorithm, messages: Sequence[bytes], parameters: SignatureParameters
    ) -> list[bytes]:
        return self._bound(handle, row).sign_many(messages, parameters)

    def verify(
        self, handle: int, row: Algorithm, message: bytes, signature: bytes, parameters: SignatureParameters
    ) -> None:
        self._bound(handle, row).verify(message, signature, parameters)

    def encrypt(self, handle: int, row: Algorithm, nonce: bytes, plaintext: bytes, aad: bytes) -> calls.Encrypted:
        return self._bound(handle, row).encrypt(nonce, plaintext, aad)

    def decrypt(self, handle: int, row: Algorithm, nonce: bytes, ciphertext: bytes, aad: bytes, tag: bytes) -> bytes:
        return self._bound(handle, row).decrypt(nonce, ciphertext, aad, tag)

    def encrypt_into(
        self, handle: int, row: Algorithm, nonce: bytes, plaintext: memoryview, aad: bytes, target: memoryview
    ) -> calls.Encrypted:
        return self._bound(handle, row).encrypt_into(nonce, plaintext, aad, target)

    def encrypt_many_into(
        self,
        handle: int,
        row: Algorithm,
        nonces: Sequence[bytes],
        messages: Sequence[memoryview],
        aads: Sequence[bytes],
    ) -> None:
        self._bound(handle, row).encrypt_many_into(nonces, messages, aads or repeat(b"", len(messages)))

    def decrypt_into(
        self, handle: int, row: Algorithm, nonce: bytes, sealed: memoryview, aad: bytes, target: memoryview
    ) -> int:
        return self._bound(handle, row).decrypt_into(nonce, sealed, aad, target)

    def encapsulate(self, handle: int, row: Algorithm) -> calls.Encapsulated:
        return self._bound(handle, row).encapsulate()

    def decapsulate(self, handle: int, row: Algorithm, ciphertext: bytes) -> bytes:
        return self._bound(handle, row).decapsulate(ciphertext)

    def wrap(self, handle: int, row: Algorithm, wrapped: int, iv: bytes, aad: bytes) -> bytes:
        return self._bound(handle, row).wrap(to_wrap(self._loaded(wrapped).material), iv, aad)

    def unwrap(
        self,
        handle: int,
        row: Algorithm,
        material: bytes,
        format_: str,
        iv: bytes,
        aad: bytes,
        target: calls.KeyTarget,
    ) -> calls.MadeKey:
        bound = self._bound(handle, row)
        target_row = key_type(target.key_type)
        families.check_supported(target_row)
        fitting = "raw" if target_row.symmetric else "pkcs8"
        if format_ != fitting:
            raise RequestError(
                Status.INVALID_ARGUMENT,
                f"A key of type {target_row.name} is unwrapped as {fitting}, not as {format_[:16]!r}.",
            )
        value = bound.unwrap(material, iv, aad)
        try:
            key = from_clear(format_, value)
        except RequestError:
            raise DecryptionFailed(Status.DECRYPTION_FAILED) from None
        if not families.fits(target_row, key):
            raise DecryptionFailed(Status.DECRYPTION_FAILED)
        return self._keep(target, key)

    def agree_secret(self, handle: int, row: Algorithm, peer_public_key: bytes) -> bytes:
        return self._bound(handle, row).agree(peer_public_key)

    def agree_key(
        self,
        handle: int,
        row: Algorithm,
        peer_public_key: bytes,
        kdf: KdfParameters | None,
        target: calls.KeyTarget,
    ) -> calls.MadeKey:
        return self.derive_from_secret(self._bound(handle, row).agree(peer_public_key), kdf, target)

    def open_stream(
        self,
        handle: int,
        row: Algorithm,
        operation: KeyOperation,
        nonce: bytes,
        aad: bytes,
        parameters: SignatureParameters,
    ) -> ProviderStream:
        if row.kind is Kind.DIGEST:
            if row.name not in abilities().claims:
                raise _not_supported(row)
            return streams.open_digest(row)
        bound = self._bound(handle, row)
        return streams.open_with_key(row, operation, self._loaded(handle).material, bound, nonce, aad, parameters)

    def digest(self, row: Algorithm, data: bytes) -> bytes:
        if row.kind is not Kind.DIGEST or row.name not in abilities().claims:
            raise _not_supported(row)
        return digest(row.hash, data)

    def random(self, length: int) -> bytes:
        if length < 0:
            raise RequestError(Status.INVALID_ARGUMENT, "A number of random bytes is not negative.")
        return secrets.token_bytes(length)

    # Inside

    def _from_stored(self, row: KeyType, stored: bytes) -> KeyMaterial:
        material = from_stored(stored)
        if not families.fits(row, material):
            raise not_as_described()
        return material

    def _bound(self, handle: int, row: Algorithm) -> BoundKey:
        try:
            return self._keys[handle].bound[row.name]
        except KeyError:
            return self._bind(self._loaded(handle), row)

    def _bind(self, key: LoadedKey[KeyMaterial, BoundKey], row: Algorithm) -> BoundKey:
        bind = SCHEMES.get(row.scheme)
        if bind is None or row.name not in abilities().claims:
            raise _not_supported(row)
        if not row.takes(key.row):
            raise mismatch(row)
        bound = key.bound[row.name] = bind(key.material, row)
        return bound


def _not_supported(row: Algorithm) -> HsmBridgeError:
    return RequestError(Status.NOT_SUPPORTED, f"The software provider does not offer {row.name}.")
