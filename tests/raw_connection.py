"""A connection to a daemon that sends what it is given and returns what comes: frames, and nothing of the client's."""

import socket
from pathlib import Path
from typing import Self

import msgspec

from hsmbridge.wire.codec import decode_reply, encode_request
from hsmbridge.wire.frames import DEFAULT_MAX_FRAME, Frame, FrameReader, body_limit


class RawConnection:
    """One request at a time, without a hello of its own."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(60)
        self._socket.connect(str(path))
        self._frames = FrameReader(body_limit(DEFAULT_MAX_FRAME), replies=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def exchange(self, data: bytes) -> tuple[bytes, Frame]:
        """Send the bytes of a frame: the bytes of the reply, and the reply. A descriptor that comes along is closed."""
        self._socket.sendall(data)
        received = b""
        while True:
            piece, descriptors, _, _ = socket.recv_fds(self._socket, 65536, 1)
            for descriptor in descriptors:
                socket.close(descriptor)
            if not piece:
                raise ConnectionError("The daemon closed the connection.")
            received += piece
            for frame in self._frames.feed(piece):
                return received, frame

    def ask(self, request: msgspec.Struct) -> msgspec.Struct:
        """The reply to a request. Raises the error that it carries."""
        return decode_reply(self.exchange(encode_request(1, request))[1])
