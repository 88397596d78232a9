"""Reading ahead on a unix stream socket: what is there is looked at now, and taken later in one piece.

Each piece that is taken wakes a peer that sleeps in read(): the kernel tells it that there is room to write, which is
not what it waits for, so that it goes to sleep again. p11-kit's client sends a call and sleeps until the reply is
there; two such wake-ups for each signature took as long as all that the daemon does for one of its calls. Where the
kernel has no offset for looking (SO_PEEK_OFF, Linux 3.4), everything is taken at once.
"""

import socket
from contextlib import suppress
from typing import Final

AHEAD_MAX: Final = 2048
"""Bytes that may lie there looked at and not taken; the peer can send no more than its buffer holds."""

_SO_PEEK_OFF: Final = 42
_NO_OFFSET: Final = -1
_SIZE: Final = 64 * 1024
_LOOK: Final = int(socket.MSG_DONTWAIT | socket.MSG_PEEK)
_TAKE: Final = int(socket.MSG_DONTWAIT)


class ReadAhead:
    """The receiving half of a non-blocking reader. Whoever reads in another way must `take` first."""

    __slots__ = ("_ahead", "_peeks", "_socket")

    def __init__(self, peer: socket.socket) -> None:
        self._socket = peer
        self._ahead = 0
        self._peeks = False
        with suppress(OSError):
            # From here on the kernel moves the offset with whatever is looked at or taken.
            peer.setsockopt(socket.SOL_SOCKET, _SO_PEEK_OFF, 0)
            self._peeks = peer.getsockopt(socket.SOL_SOCKET, _SO_PEEK_OFF) != _NO_OFFSET

    def look(self) -> bytes:
        """What has come since the last time; b"" at the end. Raises BlockingIOError where nothing has, or OSError."""
        if not self._peeks:
            return self._socket.recv(_SIZE, _TAKE)
        if self._ahead > AHEAD_MAX:
            self.take()
        data = self._socket.recv(_SIZE, _LOOK)
        self._ahead += len(data)
        return data

    def take(self) -> None:
        """Take what was looked at. Raises OSError where that cannot be: the stream must not be read any further."""
        while self._ahead:
            taken = len(self._socket.recv(self._ahead, _TAKE))
            if not taken:
                raise ConnectionResetError
            self._ahead -= taken
