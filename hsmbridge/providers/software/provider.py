"""The provider contract over keys in software.

References: a persistent key's is its material under the store's seal, so that `destroy` has nothing to remove but
what is loaded; an ephemeral key's is a random name that only this provider instance knows. Permissions are not kept:
software has no place for them that the daemon, which checks them, does not own itself.
"""

import itertools
import secrets
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from hmac import compare_digest

import cryptography
from cryptography.hazmat.backends.openssl.backend import backend

from hsmbridge.core import calls
from hsmbridge.core.algorithms import Algorithm, Kind
from hsmbridge.core.errors import HsmBridgeError, ProviderError, RequestError, Status, StoreError
from hsmbridge.core.key_types import KeyType, key_type
from hsmbridge.core.params import KdfParameters, SignatureParameters
from hsmbridge.core.policy import Protection
from hsmbridge.core.protocols import MaterialSeal
from hsmbridge.providers.base import Provider
from hsmbridge.providers.software import families
from hsmbridge.providers.software.bound_key import BoundKey, mismatch
from hsmbridge.providers.software.derivation import derive, row_of
from hsmbridge.providers.software.digests import digest
from hsmbridge.providers.software.material import KeyMaterial, SecretKey, from_clear, from_stored
from hsmbridge.providers.software.probe import abilities
from hsmbridge.providers.software.schemes import SCHEMES

_EPHEMERAL = b"ephemeral:"


@dataclass(slots=True, eq=False)
class _LoadedKey:
    """A key behind a handle, with what was prepared of it, by name of the algorithm."""

    key_id: bytes
    row: KeyType
    material: KeyMaterial
    bound: dict[str, BoundKey] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _EphemeralKey:
    reference: bytes
    row: KeyType
    binding: bytes
    material: KeyMaterial


class SoftwareProvider(Provider):
    """Keys in software. Calls may come from any number of threads; only loading and forgetting keys takes a lock."""

    def __init__(self, seal: MaterialSeal) -> None:
        self._seal = seal
        self._lock = threading.Lock()
        self._keys: dict[int, _LoadedKey] = {}
        self._handles: dict[bytes, dict[tuple[str, bytes, bytes], int]] = {}
        """By key id: (key type, binding, reference) → handle."""
        self._ephemeral: dict[bytes, _EphemeralKey] = {}
        # Random, so that a handle of another run means nothing here.
        self._next_handle = itertools.count(secrets.randbits(60))

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

    def load(self, key_id: bytes, row: KeyType, permissions: int, reference: bytes, binding: bytes) -> int:
        with self._lock:
            place = (row.name, binding, reference)
            handle = self._handles.get(key_id, {}).get(place)
            if handle is None:
                key = _LoadedKey(key_id, row, self._open(key_id, row, reference, binding))
                handle = next(self._next_handle)
                self._keys[handle] = key
                self._handles.setdefault(key_id, {})[place] = handle
            return handle

    def unload(self, handle: int) -> None:
        with self._lock:
            key = self._keys.pop(handle, None)
            if key is None:
                return
            handles = self._handles.get(key.key_id, {})
            for place in [place for place, known in handles.items() if known == handle]:
                del handles[place]
            if not handles:
                self._handles.pop(key.key_id, None)

    def destroy(self, key_id: bytes, row: KeyType, reference: bytes) -> None:
        with self._lock:
            self._ephemeral.pop(key_id, None)
            for handle in self._handles.pop(key_id, {}).values():
                self._keys.pop(handle, None)

    def close(self) -> None:
        with self._lock:
            self._ephemeral.clear()
            self._handles.clear()
            self._keys.clear()

    # Use of keys

    def sign(self, handle: int, row: Algorithm, message: bytes, parameters: SignatureParameters) -> bytes:
        return self._bound(handle, row).sign(message, parameters)

    def sign_many(
        self, handle: int, row: Algorithm, messages: Sequence[bytes], parameters: SignatureParameters
    ) -> list[bytes]:
        sign = self._bound(handle, row).sign
        return [sign(message, parameters) for message in messages]

    def verify(
        self, handle: int, row: Algorithm, message: bytes, signature: bytes, parameters: SignatureParameters
    ) -> None:
        self._bound(handle, row).verify(message, signature, parameters)

    def encrypt(self, handle: int, row: Algorithm, nonce: bytes, plaintext: bytes, aad: bytes) -> calls.Encrypted:
        return self._bound(handle, row).encrypt(nonce, plaintext, aad)

    def decrypt(self, handle: int, row: Algorithm, nonce: bytes, ciphertext: bytes, aad: bytes, tag: bytes) -> bytes:
        return self._bound(handle, row).decrypt(nonce, ciphertext, aad, tag)

    def encapsulate(self, handle: int, row: Algorithm) -> calls.Encapsulated:
        return self._bound(handle, row).encapsulate()

    def decapsulate(self, handle: int, row: Algorithm, ciphertext: bytes) -> bytes:
        return self._bound(handle, row).decapsulate(ciphertext)

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

    def digest(self, row: Algorithm, data: bytes) -> bytes:
        if row.kind is not Kind.DIGEST or row.name not in abilities().claims:
            raise _not_supported(row)
        return digest(row.hash, data)

    def random(self, length: int) -> bytes:
        if length < 0:
            raise RequestError(Status.INVALID_ARGUMENT, "A number of random bytes is not negative.")
        return secrets.token_bytes(length)

    # Inside

    def _keep(self, target: calls.KeyTarget, material: KeyMaterial) -> calls.MadeKey:
        if not target.ephemeral:
            reference = self._seal.seal(material.stored(), target.binding)
            return calls.MadeKey(reference, material.public_key, Protection.FILE)
        reference = _EPHEMERAL + secrets.token_bytes(16)
        key = _EphemeralKey(reference, key_type(target.key_type), target.binding, material)
        with self._lock:
            self._ephemeral[target.key_id] = key
        return calls.MadeKey(reference, material.public_key, Protection.MEMORY)

    def _open(self, key_id: bytes, row: KeyType, reference: bytes, binding: bytes) -> KeyMaterial:
        if reference.startswith(_EPHEMERAL):
            key = self._ephemeral.get(key_id)
            if key is None or not compare_digest(key.reference, reference):
                raise ProviderError(Status.KEY_MATERIAL_MISSING, "The ephemeral key is gone; make a new one.")
            if key.row != row or key.binding != binding:
                raise _tampered()
            return key.material
        material = from_stored(self._seal.open(reference, binding))
        if not families.fits(row, material):
            raise _tampered()
        return material

    def _loaded(self, handle: int) -> _LoadedKey:
        key = self._keys.get(handle)
        if key is None:
            raise ProviderError(Status.HANDLE_UNKNOWN)
        return key

    def _bound(self, handle: int, row: Algorithm) -> BoundKey:
        try:
            return self._keys[handle].bound[row.name]
        except KeyError:
            return self._bind(self._loaded(handle), row)

    def _bind(self, key: _LoadedKey, row: Algorithm) -> BoundKey:
        bind = SCHEMES.get(row.scheme)
        if bind is None or row.name not in abilities().claims:
            raise _not_supported(row)
        if not row.takes(key.row):
            raise mismatch(row)
        bound = key.bound[row.name] = bind(key.material, row)
        return bound


def _not_supported(row: Algorithm) -> HsmBridgeError:
    return RequestError(Status.NOT_SUPPORTED, f"The software provider does not offer {row.name}.")


def _tampered() -> StoreError:
    return StoreError(Status.STORE_TAMPERED, "The stored key is not the one that its record describes.")
