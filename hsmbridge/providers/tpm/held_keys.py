"""The keys that the provider holds, by handle and by where the store has them; independent of any connection."""

import itertools
import secrets
from dataclasses import dataclass

from tpm2_pytss import TPM2B_PRIVATE, TPM2B_PUBLIC

from hsmbridge.core.errors import ProviderError, Status
from hsmbridge.core.key_types import KeyType
from hsmbridge.providers.tpm.references import Reference

Place = tuple[str, bytes, bytes]
"""Key type, binding and reference, as the store gave them."""


@dataclass(frozen=True, slots=True, eq=False)
class HeldKey:
    """A loaded key, in the form that outlives connections.

    Attributes:
        handle: what the provider's callers name it by.
        key_id: the store's.
        row: its key type.
        reference: what the store keeps of it, complete for an ephemeral key too; it names the TPM.
        binding: what the store says of it.
        public: its public area.
        private: its sensitive area, encrypted by the TPM; None for a key in the TPM's own memory.
    """

    handle: int
    key_id: bytes
    row: KeyType
    reference: Reference
    binding: bytes
    private: TPM2B_PRIVATE | None
    public: TPM2B_PUBLIC

    @property
    def parent_name(self) -> bytes:
        """Of the storage root key of the TPM that the key belongs to."""
        return self.reference.parent_name


class HeldKeys:
    """Handle → key. Not thread-safe, save for `get`."""

    def __init__(self) -> None:
        self._by_handle: dict[int, HeldKey] = {}
        self._places: dict[bytes, dict[Place, int]] = {}
        # Random, so that a handle of another run means nothing here.
        self._next_handle = itertools.count(secrets.randbits(60))

    def get(self, handle: int) -> HeldKey:
        """Raises ProviderError (HANDLE_UNKNOWN)."""
        key = self._by_handle.get(handle)
        if key is None:
            raise ProviderError(Status.HANDLE_UNKNOWN)
        return key

    def find(self, key_id: bytes, place: Place) -> HeldKey | None:
        """The key that was loaded from just there."""
        handle = self._places.get(key_id, {}).get(place)
        return None if handle is None else self._by_handle[handle]

    def new_handle(self) -> int:
        """A handle that was never given out."""
        return next(self._next_handle)

    def add(self, key: HeldKey, place: Place) -> None:
        self._by_handle[key.handle] = key
        self._places.setdefault(key.key_id, {})[place] = key.handle

    def remove(self, handle: int) -> None:
        """Forget one handle; an unknown one is fine."""
        key = self._by_handle.pop(handle, None)
        if key is None:
            return
        places = self._places[key.key_id]
        for place in [place for place, known in places.items() if known == handle]:
            del places[place]
        if not places:
            del self._places[key.key_id]

    def handles_of(self, key_id: bytes) -> list[int]:
        """Every handle of a key."""
        return list(self._places.get(key_id, {}).values())

    def clear(self) -> None:
        self._by_handle.clear()
        self._places.clear()
