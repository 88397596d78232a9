"""What all connections of one principal have together in this worker, whatever front end they came by."""

from hsmbridge.core.room import Room

KEYS_MAX = 16_384
"""Ephemeral keys of one principal, where the configuration says nothing."""

BYTES_MAX = 1 << 30
"""Bytes that are held for one principal, where the configuration says nothing."""


class Shares:
    """Of one principal.

    Attributes:
        keys: ephemeral keys that are alive.
        data: bytes of requests that come in or are under way, of what contexts hold back, of shared memory, and of
            nonces that are remembered with ephemeral keys.
        connections: how many there are.
    """

    __slots__ = ("connections", "data", "keys")

    def __init__(self, keys: int = KEYS_MAX, data: int = BYTES_MAX) -> None:
        self.keys = Room(
            keys,
            f"{keys} ephemeral keys live on your connections to this worker, as many as one user may have"
            " (max_keys_per_principal); release some.",
        )
        self.data = Room(
            data,
            f"A worker would hold more than {data:,} bytes for you with this (max_bytes_per_principal): requests under"
            " way, data held back by contexts, shared memory, nonces that you chose for ephemeral keys. Wait for"
            " replies, close contexts, or release such keys.",
        )
        self.connections = 0

    @property
    def unused(self) -> bool:
        """Whether nothing is left of any connection, not even an operation that outlived it."""
        return not self.connections and self.keys.empty and self.data.empty
