"""Keys that have no home of their own: sealed under the store's master key, or in this process alone.

What the providers in software share: references, handles and the life of keys. A persistent key's reference is its
stored form under the store's seal, so that `destroy` has nothing to remove but what is loaded, and who loses the
reference has lost the key. An ephemeral key's is a random name that only this provider instance knows. Permissions
are not kept: there is no place for them that the daemon, which checks them, does not own itself.
"""

import itertools
import secrets
import threading
from abc import abstractmethod
from dataclasses import dataclass, field
from hmac import compare_digest
from typing import Generic, Protocol, TypeVar

from hsmbridge.core import calls
from hsmbridge.core.errors import ProviderError, RequestError, Status, StoreError
from hsmbridge.core.key_types import KeyType, key_type
from hsmbridge.core.policy import Protection
from hsmbridge.core.protocols import MaterialSeal
from hsmbridge.providers.base import Provider
from hsmbridge.providers.owned_keys import OwnedKeys

_EPHEMERAL = b"ephemeral:"


class Material(Protocol):
    """What a provider holds of a key while it is loaded."""

    @property
    def public_key(self) -> bytes:
        """SubjectPublicKeyInfo in DER, or b"" for secret keys."""
        ...

    def stored(self) -> bytes:
        """The form that is sealed."""
        ...


MaterialT = TypeVar("MaterialT", bound=Material)
BoundT = TypeVar("BoundT")


@dataclass(slots=True, eq=False)
class LoadedKey(Generic[MaterialT, BoundT]):
    """A key behind a handle, with what was prepared of it, by name of the algorithm."""

    key_id: bytes
    row: KeyType
    material: MaterialT
    bound: dict[str, BoundT] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _EphemeralKey(Generic[MaterialT]):
    reference: bytes
    row: KeyType
    binding: bytes
    material: MaterialT


class SealedKeysProvider(Provider, Generic[MaterialT, BoundT]):
    """The half of a provider that keeps keys. Only loading and forgetting them takes a lock."""

    def __init__(self, seal: MaterialSeal) -> None:
        self._seal = seal
        self._lock = threading.Lock()
        self._keys: dict[int, LoadedKey[MaterialT, BoundT]] = {}
        self._handles: dict[bytes, dict[tuple[str, bytes, bytes], int]] = {}
        """By key id: (key type, binding, reference) → handle."""
        self._ephemeral: dict[bytes, _EphemeralKey[MaterialT]] = {}
        self._owned = OwnedKeys()
        # Random, so that a handle of another run means nothing here.
        self._next_handle = itertools.count(secrets.randbits(60))

    @abstractmethod
    def _from_stored(self, row: KeyType, stored: bytes) -> MaterialT:
        """The key of a stored form that the seal has authenticated. Raises StoreError (STORE_TAMPERED)."""

    def copy(self, handle: int, target: calls.KeyTarget) -> calls.MadeKey:
        key = self._loaded(handle)
        if key.row.name != target.key_type:
            raise RequestError(Status.KEY_TYPE_MISMATCH, f"The key is not of type {target.key_type}.")
        return self._keep(target, key.material)

    def load(self, key_id: bytes, row: KeyType, permissions: int, reference: bytes, binding: bytes) -> int:
        with self._lock:
            place = (row.name, binding, reference)
            handle = self._handles.get(key_id, {}).get(place)
            if handle is None:
                key = LoadedKey[MaterialT, BoundT](key_id, row, self._open(key_id, row, reference, binding))
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
            self._owned.discard(key_id)
            self._forget(key_id)

    def release_owner(self, owner: bytes) -> None:
        super().release_owner(owner)
        with self._lock:
            for key_id in self._owned.take(owner):
                self._forget(key_id)

    def close(self) -> None:
        with self._lock:
            self._ephemeral.clear()
            self._owned.clear()
            self._handles.clear()
            self._keys.clear()

    def _keep(self, target: calls.KeyTarget, material: MaterialT) -> calls.MadeKey:
        if not target.ephemeral:
            reference = self._seal.seal(material.stored(), target.binding)
            return calls.MadeKey(reference, material.public_key, Protection.FILE)
        reference = _EPHEMERAL + secrets.token_bytes(16)
        key = _EphemeralKey(reference, key_type(target.key_type), target.binding, material)
        with self._lock:
            self._ephemeral[target.key_id] = key
            self._owned.add(target.owner, target.key_id)
        return calls.MadeKey(reference, material.public_key, Protection.MEMORY)

    def _forget(self, key_id: bytes) -> None:
        self._ephemeral.pop(key_id, None)
        for handle in self._handles.pop(key_id, {}).values():
            self._keys.pop(handle, None)

    def _open(self, key_id: bytes, row: KeyType, reference: bytes, binding: bytes) -> MaterialT:
        if reference.startswith(_EPHEMERAL):
            key = self._ephemeral.get(key_id)
            if key is None or not compare_digest(key.reference, reference):
                raise ProviderError(Status.KEY_MATERIAL_MISSING, "The ephemeral key is gone; make a new one.")
            if key.row != row or key.binding != binding:
                raise not_as_described()
            return key.material
        return self._from_stored(row, self._seal.open(reference, binding))

    def _loaded(self, handle: int) -> LoadedKey[MaterialT, BoundT]:
        key = self._keys.get(handle)
        if key is None:
            raise ProviderError(Status.HANDLE_UNKNOWN)
        return key


def not_as_described() -> StoreError:
    """What a stored key that is of another type than its record says is answered with."""
    return StoreError(Status.STORE_TAMPERED, "The stored key is not the one that its record describes.")
