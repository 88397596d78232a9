"""Ephemeral keys of a connection: counted here and nowhere else, freed at zero, gone with the connection.

    generate, derive, agree, unwrap, import, load    the key exists, count 1 (its guard)
    a context or a call acquires it                  alive? else RESOURCE_NOT_FOUND; count + 1, atomically
    the guard is released                            count - 1; the id is dead
    the context is closed, the call ended            count - 1
    at 0                                             handed back, to be destroyed at its provider
    the connection ends                              everything is handed back at once

Nothing here calls a provider: who gets a key handed back destroys it.
"""

import secrets
import threading

from hsmbridge.core.algorithms import Algorithm
from hsmbridge.core.errors import LimitError, ResourceError, Status, error
from hsmbridge.core.identifiers import CryptoResourceId, ResourceKind
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.core.policy import NoncePolicy
from hsmbridge.core.room import Room
from hsmbridge.keys.access import check_algorithm, not_permitted
from hsmbridge.keys.acquired import NO_SLOT, AcquiredKey, EphemeralKey
from hsmbridge.keys.nonces import REMEMBERED_MAX, REMEMBERED_SIZE, ChosenNonces, NonceSequence

__all__ = ["EphemeralKey", "EphemeralKeys"]

LIMIT = 1024
"""Ephemeral keys alive on one connection."""


class _Live:
    __slots__ = ("chosen", "count", "key", "nonces", "number")

    def __init__(self, number: int, key: EphemeralKey, remembered: Room) -> None:
        self.number = number
        self.key = key
        self.count = 1
        by_service = key.nonce_policy is NoncePolicy.SERVICE
        self.nonces = NonceSequence.whole() if by_service else None
        self.chosen = None if by_service else ChosenNonces(key.nonce_policy, remembered)

    def end(self) -> EphemeralKey:
        """Nobody holds it any more: the key, to be destroyed. Many nonces take a while to be forgotten."""
        if self.chosen is not None:
            self.chosen.forget()
        return self.key


class EphemeralKeys:
    """The ephemeral keys of one connection. May be used from any thread."""

    def __init__(self, limit: int = LIMIT, everywhere: Room | None = None, data: Room | None = None) -> None:
        """What they have is bounded.

        Args:
            limit: alive at once.
            everywhere: room for those of all connections of the principal, in keys.
            data: room for the nonces that the principal chose for them, in bytes.
        """
        self._limit = limit
        self._everywhere = Room(limit) if everywhere is None else everywhere
        self._data = Room(REMEMBERED_MAX * REMEMBERED_SIZE) if data is None else data
        self._lock = threading.Lock()
        self._guarded: dict[int, _Live] = {}
        self._holds: dict[int, _Live] = {}
        self._alive: dict[int, _Live] = {}
        self._reserved = 0
        self._last_hold = 0
        self._closed = False

    def __len__(self) -> int:
        """How many are alive."""
        return len(self._alive)

    def reserve(self) -> None:
        """Take room for a key that is about to be made.

        Raises LimitError (TOO_MANY_RESOURCES), or WireError (CONNECTION_LOST) where the connection has ended.
        """
        with self._lock:
            if self._closed:
                raise error(Status.CONNECTION_LOST)
            if len(self._alive) + self._reserved >= self._limit:
                raise LimitError(
                    Status.TOO_MANY_RESOURCES,
                    f"{self._limit} ephemeral keys live on this connection, which is its limit; release some.",
                )
            if not self._everywhere.take(1):
                raise self._everywhere.refusal()
            self._reserved += 1

    def cancel(self) -> None:
        """Give the room back: the key could not be made."""
        with self._lock:
            self._reserved -= 1
        self._everywhere.give_back(1)

    def add(self, key: EphemeralKey) -> CryptoResourceId:
        """The id of a new key, in the room that was reserved; its guard counts once.

        Raises:
            WireError: CONNECTION_LOST where the connection has ended; the key is to be destroyed.
        """
        with self._lock:
            self._reserved -= 1
            if self._closed:
                self._everywhere.give_back(1)
                raise error(Status.CONNECTION_LOST)
            number = secrets.randbits(64)
            while number in self._alive:
                number = secrets.randbits(64)
            self._guarded[number] = self._alive[number] = _Live(number, key, self._data)
            return CryptoResourceId(number, ResourceKind.KEY)

    def acquire(self, resource: CryptoResourceId, permission: P, row: Algorithm | None) -> AcquiredKey:
        """Hold a key for a call or a context; `AcquiredKey.release` ends that.

        Raises:
            ResourceError: RESOURCE_NOT_FOUND.
            KeyUseError: KEY_OPERATION_NOT_PERMITTED, ALGORITHM_NOT_ALLOWED.
            RequestError: KEY_TYPE_MISMATCH, INVALID_ARGUMENT.
        """
        with self._lock:
            live = self._guarded_key(resource)
            key = live.key
            if permission & ~key.permissions:
                raise not_permitted("This key", permission, key.permissions)
            check_algorithm(permission, row, key.key_type, ())
            live.count += 1
            self._last_hold += 1
            hold = self._last_hold
            self._holds[hold] = live
        return AcquiredKey(
            key_id=key.key_id,
            slot_id=NO_SLOT,
            name="",
            version=0,
            provider=key.provider,
            reference=key.reference,
            binding=key.binding,
            key_type=key.key_type,
            public_key=key.public_key,
            permissions=key.permissions,
            protection=key.protection,
            nonces=live.nonces,
            chosen=live.chosen,
            holder=self,
            hold=hold,
        )

    def get(self, resource: CryptoResourceId) -> EphemeralKey:
        """The key behind an id. Raises ResourceError (RESOURCE_NOT_FOUND)."""
        with self._lock:
            return self._guarded_key(resource).key

    def release(self, resource: CryptoResourceId) -> EphemeralKey | None:
        """The guard is released: the key where nothing holds it any more. Raises ResourceError (RESOURCE_NOT_FOUND)."""
        with self._lock:
            live = self._guarded_key(resource)
            del self._guarded[live.number]
            over = self._count_down(live)
        return None if over is None else over.end()

    def give_back(self, hold: int) -> EphemeralKey | None:
        """A hold of `acquire` ends: the key where it was the last one. Repeating it changes nothing."""
        with self._lock:
            live = self._holds.pop(hold, None)
            over = None if live is None else self._count_down(live)
        return None if over is None else over.end()

    def close(self) -> list[EphemeralKey]:
        """The connection ended: every key that was alive, to be destroyed. None is added any more."""
        with self._lock:
            self._closed = True
            ended = list(self._alive.values())
            for table in (self._guarded, self._holds, self._alive):
                table.clear()
            self._everywhere.give_back(len(ended))
        return [live.end() for live in ended]

    def _guarded_key(self, resource: CryptoResourceId) -> _Live:
        live = self._guarded.get(resource.number) if resource.kind is ResourceKind.KEY else None
        if live is None:
            raise ResourceError(
                Status.RESOURCE_NOT_FOUND, "There is no such key on this connection, or it was released already."
            )
        return live

    def _count_down(self, live: _Live) -> _Live | None:
        """The key where nobody holds it any more; it is ended without the lock."""
        live.count -= 1
        if live.count:
            return None
        del self._alive[live.number]
        self._everywhere.give_back(1)
        return live
