"""Who is at the other end of a unix socket: what the kernel noted when it connected or listened (unix(7))."""

import socket
import struct
from typing import Final, NamedTuple

_UCRED: Final = struct.Struct("3i")


class PeerCredentials(NamedTuple):
    """A process, as it was then. A pid that has ended may be another's by now."""

    pid: int
    uid: int
    gid: int


def peer_credentials(connection: socket.socket) -> PeerCredentials:
    """Of the other side of a connected socket. Raises OSError."""
    return PeerCredentials(*_UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)))
