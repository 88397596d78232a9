"""What names a key in a call: a slot's name, a slot handle, a guard, or a bare CryptoResourceId."""

from abc import ABC, abstractmethod

from hsmbridge.client.connection import Connection
from hsmbridge.core.identifiers import CryptoResourceId


class KeyHolder(ABC):
    """An object that stands for a key."""

    __slots__ = ()

    @property
    @abstractmethod
    def slot_name(self) -> str:
        """The slot's name, under which it is found again on any connection; "" for an ephemeral key."""

    @abstractmethod
    def resource_on(self, connection: Connection) -> CryptoResourceId | None:
        """Its id on this connection; None for a slot that was not resolved there yet.

        Raises ConnectionLost for an ephemeral key of another connection.
        """


Key = str | KeyHolder | CryptoResourceId
"""A slot by its name (NAME or NAMESPACE/NAME) or handle, an ephemeral key by its guard, either by its id."""


def slot_name(key: Key) -> str:
    """The name of the slot that `key` stands for, or "" where it is tied to one connection."""
    if isinstance(key, str):
        return key
    return key.slot_name if isinstance(key, KeyHolder) else ""
