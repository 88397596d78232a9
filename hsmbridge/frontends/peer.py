"""Who is at the other end of a unix socket: what the kernel noted when it connected (unix(7), SO_PEERCRED)."""

import socket
import struct
from typing import Final

from hsmbridge.core.identifiers import uid_principal

_CREDENTIALS: Final = struct.Struct("3i")
"""struct ucred: pid, uid, gid."""


def principal_of(peer: socket.socket) -> str:
    """The principal of a connection's other side, by its uid."""
    _, uid, _ = _CREDENTIALS.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return uid_principal(uid)
