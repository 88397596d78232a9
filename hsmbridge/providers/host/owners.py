"""Which daemon process has which streams open in a host, so that they are closed when it is gone.

A daemon process has several connections and gives each call to any of them; its streams end with the last one.
"""

import socket
import threading
from typing import Final

from hsmbridge.core import calls
from hsmbridge.providers.streams import ProviderStreams

STREAMING: Final = frozenset({calls.StreamOpenCall, calls.StreamFinishCall, calls.StreamCloseCall})
"""The calls that `StreamOwner.note` wants to see."""


class StreamOwner:
    """One daemon process. Its threads note what they are about to do; single set operations are atomic."""

    def __init__(self) -> None:
        self.connections = 0
        self.streams: set[int] = set()

    def note(self, call: calls.ProviderCall) -> None:
        """A call of `STREAMING` is about to be made."""
        if isinstance(call, calls.StreamOpenCall):
            self.streams.add(call.stream)
        elif isinstance(call, calls.StreamFinishCall | calls.StreamCloseCall):
            self.streams.discard(call.stream)


class StreamOwners:
    """The daemon processes that are connected. May be used from any thread."""

    def __init__(self, streams: ProviderStreams) -> None:
        """Args: what is open in the provider."""
        self._streams = streams
        self._lock = threading.Lock()
        self._owners: dict[str, StreamOwner] = {}
        self._names: dict[socket.socket, str] = {}

    def arrive(self, connection: socket.socket, client: str) -> StreamOwner:
        """A connection of `client` began; connections of one name belong together."""
        with self._lock:
            owner = self._owners.setdefault(client, StreamOwner())
            owner.connections += 1
            self._names[connection] = client
            return owner

    def leave(self, connection: socket.socket) -> None:
        """A connection ended, and with the last one what its process had open. One that never arrived is fine."""
        with self._lock:
            client = self._names.pop(connection, None)
            if client is None:
                return
            owner = self._owners[client]
            owner.connections -= 1
            if owner.connections:
                return
            del self._owners[client]
        for stream in tuple(owner.streams):
            self._streams.close(stream)
