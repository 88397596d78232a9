"""The keys of a token that have handles here, and what the store's references to keys say.

A handle costs nothing on the token: its object is looked for when it is used.
"""

import itertools
import secrets
import threading
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from hsmbridge.core.errors import ProviderError, Status, StoreError
from hsmbridge.core.key_types import KeyType
from hsmbridge.providers.pkcs11.objects import Reference, Sought
from hsmbridge.providers.pkcs11.sessions import TokenSessions


@dataclass(frozen=True, slots=True)
class LoadedKey:
    """A key that has a handle: what is looked for on the token, and what the store says of it."""

    sought: Sought
    reference: bytes

    @property
    def row(self) -> KeyType:
        return self.sought.row

    def is_as(self, row: KeyType, reference: bytes) -> bool:
        return self.row is row and self.reference == reference


class LoadedKeys:
    """By handle and by key id. May be used from any thread."""

    def __init__(self, sessions: TokenSessions) -> None:
        self._sessions = sessions
        # Random, so that a handle of another run means nothing here.
        self._handles = itertools.count(secrets.randbits(60))
        self._held: dict[int, LoadedKey] = {}
        self._by_id: dict[bytes, int] = {}
        self._lock = threading.Lock()

    def key(self, handle: int) -> LoadedKey:
        """Raises ProviderError (HANDLE_UNKNOWN)."""
        held = self._held.get(handle)
        if held is None:
            raise ProviderError(Status.HANDLE_UNKNOWN)
        return held

    def load(self, key_id: bytes, row: KeyType, reference: bytes) -> int:
        """The handle of a key that is on the token. Raises as `reference`, and where it is not there."""
        known = self._by_id.get(key_id)
        if known is not None:
            held = self._held.get(known)
            if held is not None and held.is_as(row, reference) and not held.sought.ephemeral:
                return known
        told = self.reference(key_id, row, reference)
        if not told.run:
            self._sessions.seek(told.sought(row))
        with self._lock:
            if told.run and not self._sessions.ephemeral.lives(key_id, told.run):
                raise _ended()
            known = self._by_id.get(key_id)
            if known is None:
                known = next(self._handles)
                self._held[known] = LoadedKey(told.sought(row), reference)
                self._by_id[key_id] = known
            return known

    def unload(self, handle: int) -> None:
        """A handle means nothing any more; one that did not changes nothing."""
        with self._lock:
            held = self._held.pop(handle, None)
            if held is not None:
                self._by_id.pop(held.sought.key_id, None)
        if held is not None:
            self._sessions.forget(held.sought.key_id)

    def unload_key(self, key_id: bytes) -> None:
        """The handle of a key, where it has one."""
        handle = self._by_id.get(key_id)
        if handle is not None:
            self.unload(handle)

    def drop(self, key_ids: Iterable[bytes]) -> None:
        """Keys that have ended; their sessions are somebody else's business."""
        with self._lock:
            for key_id in self._by_id.keys() & key_ids:
                del self._held[self._by_id.pop(key_id)]

    def clear(self) -> None:
        """No handle means anything any more."""
        with self._lock:
            self._held.clear()
            self._by_id.clear()

    def reference(self, key_id: bytes, row: KeyType, reference: bytes) -> Reference:
        """What the store says of a key. Raises as `told`, and StoreError (STORE_TAMPERED) if it is another."""
        told = self.told(reference)
        if told.key_id != key_id or told.key_type != row.name:
            raise _tampered("is of another key")
        return told

    def told(self, reference: bytes) -> Reference:
        """A reference, of this token. Raises StoreError, or ProviderError (WRONG_TOKEN)."""
        try:
            told = msgspec.msgpack.decode(reference, type=Reference)
        except msgspec.DecodeError:
            raise _tampered("cannot be read") from None
        if told.version != 1:
            raise StoreError(Status.STORE_VERSION)
        if told.serial != self._sessions.identity:
            raise ProviderError(
                Status.WRONG_TOKEN,
                f"This key is on the token with serial {told.serial!r}; connected is"
                f" {self._sessions.label!r} with serial {self._sessions.serial!r}. Connect the right one.",
            )
        return told


def _ended() -> ProviderError:
    return ProviderError(
        Status.KEY_MATERIAL_MISSING,
        "This key was ephemeral, and has been destroyed or has ended with the provider that made it.",
    )


def _tampered(what: str) -> StoreError:
    return StoreError(Status.STORE_TAMPERED, f"The reference of this key {what}; restore the store from a backup.")
