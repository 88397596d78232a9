"""What each daemon process has in a host, so that it is freed when the process is gone: streams, ephemeral keys.

A daemon process has several connections and gives each call to any of them; what it has ends with the last one.
"""

import socket
import threading
from collections.abc import Callable
from typing import Final

import structlog

from hsmbridge.core import calls
from hsmbridge.core.errors import HsmBridgeError
from hsmbridge.providers.host.making import MAKING, Making
from hsmbridge.providers.streams import ProviderStreams

NOTED: Final = MAKING | {
    calls.StreamOpenCall,
    calls.StreamFinishCall,
    calls.StreamCloseCall,
    calls.ReleaseOwnerCall,
}
"""The calls that `DaemonProcess.note` wants to see."""

_log = structlog.get_logger(__name__)


class DaemonProcess:
    """What one daemon process has here. Its threads note what they are about to do; single set operations are atomic.

    Attributes:
        streams: that are open.
        owners: the connections of its clients for whom it had keys made.
    """

    def __init__(self) -> None:
        self.connections = 0
        self.streams: set[int] = set()
        self.owners: set[bytes] = set()

    def note(self, call: calls.ProviderCall) -> None:
        """A call of `NOTED` is about to be made."""
        if isinstance(call, calls.StreamOpenCall):
            self.streams.add(call.stream)
        elif isinstance(call, calls.StreamFinishCall | calls.StreamCloseCall):
            self.streams.discard(call.stream)
        elif isinstance(call, calls.ReleaseOwnerCall):
            self.owners.discard(call.owner)
        elif isinstance(call, Making) and call.target.owner:
            self.owners.add(call.target.owner)


class DaemonProcesses:
    """The daemon processes that are connected. May be used from any thread."""

    def __init__(self, streams: ProviderStreams, release_owner: Callable[[bytes], None]) -> None:
        """Args: what is open in the provider, and what frees an owner's keys."""
        self._streams = streams
        self._release_owner = release_owner
        self._lock = threading.Lock()
        self._processes: dict[str, DaemonProcess] = {}
        self._names: dict[socket.socket, str] = {}

    def arrive(self, connection: socket.socket, client: str) -> DaemonProcess:
        """A connection of `client` began; connections of one name belong together."""
        with self._lock:
            process = self._processes.setdefault(client, DaemonProcess())
            process.connections += 1
            self._names[connection] = client
            return process

    def leave(self, connection: socket.socket) -> None:
        """A connection ended, and with the last one what its process had. One that never arrived is fine."""
        with self._lock:
            client = self._names.pop(connection, None)
            if client is None:
                return
            process = self._processes[client]
            process.connections -= 1
            if process.connections:
                return
            del self._processes[client]
        for stream in tuple(process.streams):
            self._streams.close(stream)
        for owner in tuple(process.owners):
            try:
                self._release_owner(owner)
            except HsmBridgeError as failure:
                _log.warning("keys of a daemon process that is gone were not freed", origin=failure.origin)
