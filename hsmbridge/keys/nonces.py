"""Nonces: which one an encryption uses, so that no pair of key version and nonce ever encrypts twice.

The service's own are 12 bytes, SP 800-38D section 8.2.1 with the epoch as the fixed field: 8 random bytes chosen
anew by every process for every key version, and a 4-byte counter. Processes, restarts, crashes and restored backups
differ in the epoch; within one process the counter differs. Where an algorithm takes 16 bytes (CBC, CTR, CFB) they
are random. Either way each is paid for from a lease, so that no key version encrypts more than 2^32 times.
A caller's nonces are remembered, or must grow: those of a slot's key in the store (`hsmbridge.storage.leases`), those
of an ephemeral key here, because it does not outlive its connection.
"""

import secrets
import threading

from hsmbridge.core.errors import KeyUseError, Status, StoreError, error
from hsmbridge.core.identifiers import KeyId
from hsmbridge.core.policy import NoncePolicy
from hsmbridge.core.room import Room
from hsmbridge.storage.leases import MOST_ENCRYPTIONS, require_greater
from hsmbridge.storage.store import Store

NONCE_SIZE = 12
_EPOCH_SIZE = 8
_FIRST_LEASE = 1024
_GREATEST_LEASE = 65_536
_KEPT = 65_536

REMEMBERED_MAX = 1_000_000
"""Nonces of a caller's that are remembered of one key."""

REMEMBERED_SIZE = 192
"""Bytes that remembering a nonce takes: the bytes object, and its share of a set that has just grown."""


class NonceSequence:
    """The nonces of one key in one process. May be used from any thread."""

    __slots__ = ("_counter", "_epoch", "_lock", "_paid")

    def __init__(self, paid: int = 0) -> None:
        """Args: paid: how many may be taken before `pay` is needed."""
        self._epoch = secrets.token_bytes(_EPOCH_SIZE)
        self._counter = 0
        self._paid = min(paid, MOST_ENCRYPTIONS)
        self._lock = threading.Lock()

    @classmethod
    def whole(cls) -> "NonceSequence":
        """The nonces of a key that only this process has: as many as are safe."""
        return cls(MOST_ENCRYPTIONS)

    def next(self, size: int) -> bytes | None:
        """The next nonce of `size` bytes, or None where none is left that is paid for."""
        with self._lock:
            counter = self._counter
            if counter >= self._paid:
                return None
            self._counter = counter + 1
        if size == NONCE_SIZE:
            return self._epoch + counter.to_bytes(4, "big")
        return secrets.token_bytes(size)

    def take(self, count: int, size: int) -> list[bytes] | None:
        """The next `count` nonces of `size` bytes, or None where not so many are left that are paid for."""
        with self._lock:
            first = self._counter
            if count > self._paid - first:
                return None
            self._counter = first + count
        if size == NONCE_SIZE:
            epoch = self._epoch
            return [epoch + counter.to_bytes(4, "big") for counter in range(first, first + count)]
        return [secrets.token_bytes(size) for _ in range(count)]

    def pay(self, count: int) -> None:
        """`count` more may be taken."""
        with self._lock:
            self._paid = min(self._paid + count, MOST_ENCRYPTIONS)


class ServiceNonces:
    """The nonces that this process takes for key versions in slots."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._sequences: dict[KeyId, NonceSequence] = {}
        self._leases: dict[KeyId, int] = {}
        self._leasing = threading.Lock()

    def next(self, key_id: KeyId, size: int) -> bytes | None:
        """The next nonce, without I/O; None where `lease` must come first."""
        sequence = self._sequences.get(key_id)
        return None if sequence is None else sequence.next(size)

    def take(self, key_id: KeyId, count: int, size: int) -> list[bytes] | None:
        """The next `count` nonces, without I/O; None where `lease` must come first."""
        sequence = self._sequences.get(key_id)
        return None if sequence is None else sequence.take(count, size)

    def lease(self, key_id: KeyId) -> None:
        """Lease more encryptions from the store. Blocking.

        Raises:
            KeyUseError: KEY_ROTATION_REQUIRED.
            StoreError: STORE_TAMPERED, STORE_UNAVAILABLE.
        """
        with self._leasing:
            count = self._leases.get(key_id, _FIRST_LEASE)
            granted = self._store.lease_nonces(key_id, count)
            # A process that is restarted often gives away little; one that encrypts much rarely waits.
            self._leases[key_id] = min(count * 4, _GREATEST_LEASE)
            sequence = self._sequences.get(key_id)
            if sequence is None:
                if len(self._sequences) >= _KEPT:
                    self.forget(next(iter(self._sequences)))
                self._sequences[key_id] = NonceSequence(granted)
            else:
                sequence.pay(granted)

    def forget(self, key_id: KeyId) -> None:
        """The key version will not encrypt any more; if it does, it begins a new epoch."""
        self._sequences.pop(key_id, None)
        self._leases.pop(key_id, None)


class ChosenNonces:
    """The nonces that a caller chooses for one ephemeral key. May be used from any thread.

    They are of one algorithm, the first one that the key encrypts with: the counter blocks of another mode could be
    those that this one has used, although the nonces differ.
    """

    __slots__ = ("_algorithm", "_count", "_greatest", "_limit", "_lock", "_over", "_room", "_used", "policy")

    def __init__(self, policy: NoncePolicy, room: Room, limit: int = REMEMBERED_MAX) -> None:
        """Args: policy: CALLER or MONOTONIC; room: for what is remembered, in bytes; limit: nonces remembered."""
        self.policy = policy
        self._room = room
        self._limit = limit
        self._algorithm = ""
        self._used: set[bytes] = set()
        self._greatest = b""
        self._count = 0
        self._over = False
        self._lock = threading.Lock()

    def use(self, algorithm: str, nonce: bytes) -> None:
        """Take a nonce before it encrypts by an algorithm; it is spent even if the encryption then fails.

        Raises:
            KeyUseError: NONCE_REUSED, KEY_ROTATION_REQUIRED, ALGORITHM_NOT_ALLOWED.
            RequestError: INVALID_ARGUMENT where it must grow and does not have the length of those before.
            LimitError: TOO_MANY_RESOURCES where the principal has no room left.
            ConnectionLost: the connection has ended, and the key with it.
        """
        with self._lock:
            if self._over:
                raise error(Status.CONNECTION_LOST)
            if algorithm != (self._algorithm or algorithm):
                raise KeyUseError(
                    Status.ALGORITHM_NOT_ALLOWED,
                    f"This key has encrypted by {self._algorithm} with nonces that you chose, and does so by nothing"
                    f" else now; make another one for {algorithm}.",
                )
            if self.policy is NoncePolicy.MONOTONIC:
                self._advance(nonce)
            else:
                self._remember(nonce)
            self._algorithm = algorithm
            self._count += 1

    def forget(self) -> None:
        """The key is gone: give its room back. No nonce is taken any more."""
        with self._lock:
            self._over = True
            self._room.give_back(len(self._used) * REMEMBERED_SIZE)
            self._used.clear()

    def _advance(self, nonce: bytes) -> None:
        if self._greatest:
            require_greater(nonce, self._greatest)
        if self._count >= MOST_ENCRYPTIONS:
            raise KeyUseError(
                Status.KEY_ROTATION_REQUIRED, "This key has encrypted as often as is safe; make another one."
            )
        self._greatest = nonce

    def _remember(self, nonce: bytes) -> None:
        if nonce in self._used:
            raise KeyUseError(Status.NONCE_REUSED)
        if self._count >= self._limit:
            raise KeyUseError(
                Status.KEY_ROTATION_REQUIRED,
                f"{self._limit:,} nonces are remembered of this key, which is the limit; make another one, or one whose"
                " nonces grow (monotonic).",
            )
        if not self._room.take(REMEMBERED_SIZE):
            raise self._room.refusal()
        self._used.add(nonce)


class CallerNonces:
    """The nonces that callers choose, for slots whose policy says so."""

    def __init__(self, store: Store, limit: int = REMEMBERED_MAX) -> None:
        """Args: limit: nonces remembered of one key version."""
        self._store = store
        self._limit = limit

    def use(self, key_id: KeyId, policy: NoncePolicy, nonce: bytes) -> None:
        """Take a nonce before it encrypts; it is spent even if the encryption then fails. Blocking.

        Raises:
            KeyUseError: NONCE_REUSED, KEY_ROTATION_REQUIRED.
            RequestError: INVALID_ARGUMENT where it does not have the length of those before.
            StoreError: STORE_TAMPERED, STORE_UNAVAILABLE.
        """
        if policy is NoncePolicy.CALLER:
            self._store.record_nonce(key_id, nonce, self._limit)
        elif policy is NoncePolicy.MONOTONIC:
            self._store.advance_nonce(key_id, nonce)
        else:
            raise StoreError(Status.INTERNAL, origin=f"a caller's nonce under the policy {policy}")
