"""Frames: what the native socket and the sockets of provider hosts carry. Bytes in, frames out; no socket.

    0       4            8        10      12             16
    | length | request id | opcode | flags | word         | body: `length` bytes of MessagePack
      u32 LE   u32          u16      u16     u32

`word` is a request's deadline in milliseconds (0: none) and a reply's status (0: OK). A reply echoes request id
and opcode; replies come in any order. What a body means is `hsmbridge.wire.codec`'s business.
"""

from collections.abc import Iterable, Iterator
from enum import IntFlag
from struct import Struct
from typing import Final

import msgspec

from hsmbridge.core.errors import Status, WireError

HEADER: Final = Struct("<IIHHI")
HEADER_SIZE: Final = HEADER.size
_unpack_from: Final = HEADER.unpack_from
_SHORT: Final = 2048

REPLY: Final = 0x1
"""Flag: this frame answers a request."""
BATCH: Final = 0x2
"""Flag: the body is an array of requests, or of the items that answer them."""


class FrameFlags(IntFlag):
    """The flag bits, for people and logs; the code compares plain integers."""

    REPLY = REPLY
    BATCH = BATCH


_KNOWN_FLAGS: Final = REPLY | BATCH

DEFAULT_MAX_FRAME: Final = 16 * 1024 * 1024
"""How much data one frame may carry unless the configuration says otherwise."""
FRAME_ALLOWANCE: Final = 64 * 1024
"""What a body may hold besides the data: names, parameters, associated data."""
MAX_BODY: Final = 0xFFFF_FFFF
MAX_REQUEST_ID: Final = 0xFFFF_FFFF
MAX_DEADLINE_MS: Final = 0xFFFF_FFFF


def body_limit(max_frame: int = DEFAULT_MAX_FRAME) -> int:
    """The longest body, in bytes, where `max_frame` bytes of data are allowed."""
    return max_frame + FRAME_ALLOWANCE


def deadline_word(seconds: float | None) -> int:
    """A time limit as a request carries it: at least 1 ms, 0 where there is none."""
    if seconds is None:
        return 0
    return min(max(1, int(seconds * 1000)), MAX_DEADLINE_MS)


class Frame(msgspec.Struct, frozen=True, gc=False):
    """One frame. `body` lives in memory that nobody writes to any more; `word` is deadline or status."""

    opcode: int
    request_id: int
    flags: int
    word: int
    body: bytes | memoryview


def encode_frame(opcode: int, request_id: int, flags: int, word: int, body: bytes | bytearray | memoryview) -> bytes:
    """The bytes of one frame. Raises WireError (FRAME_TOO_LARGE) past 4 GiB."""
    if len(body) > MAX_BODY:
        raise WireError(Status.FRAME_TOO_LARGE)
    return HEADER.pack(len(body), request_id, opcode, flags, word) + body


class FrameReader:
    """Cuts a stream into frames.

    Holds at most one unfinished frame, and never more than `max_body` plus a header. What cannot be this protocol
    raises one error, WireError (FRAME_TOO_LARGE or MALFORMED_FRAME), at the first byte that shows it, and again
    on every later call: the stream has no boundary any more and its connection must be closed.
    """

    __slots__ = ("_buffer", "_direction", "_failure", "_max_body", "_need", "_skipping")

    def __init__(self, max_body: int, *, replies: bool = False) -> None:
        """`max_body` in bytes. `replies` says which end this is: a client reads replies, a server requests."""
        self._max_body = max_body
        self._direction = REPLY if replies else 0
        self._buffer = bytearray()
        self._need = HEADER_SIZE
        self._failure: WireError | None = None
        self._skipping = False

    def feed(self, data: bytes) -> Iterable[Frame]:
        """The frames that `data` completes, to be consumed before the next call.

        Raises WireError, from here or while the frames are consumed; those before the fault come first.
        """
        size = len(data)
        if size >= HEADER_SIZE and not self._buffer and self._failure is None:
            # Nearly always one read is one frame. A short body is cheaper to copy than to view.
            length, request_id, opcode, flags, word = _unpack_from(data)
            if length == size - HEADER_SIZE and flags == self._direction and length <= self._max_body:
                body = data[HEADER_SIZE:] if size <= _SHORT else memoryview(data)[HEADER_SIZE:]
                return (Frame(opcode, request_id, flags, word, body),)
        return self._cut(data)

    @property
    def missing(self) -> int:
        """How many bytes the unfinished frame still needs, as far as is known; 0 at a boundary between frames."""
        return self._need - len(self._buffer) if self._buffer else 0

    @property
    def unfinished(self) -> tuple[int, int, int] | None:
        """Request id, opcode and length of the body of the unfinished frame, once its header is there."""
        if len(self._buffer) < HEADER_SIZE or self._skipping:
            return None
        length, request_id, opcode, _, _ = HEADER.unpack_from(self._buffer)
        return request_id, opcode, length

    def skip(self) -> None:
        """Drop the unfinished frame, with what is still to come of it."""
        self._need -= len(self._buffer) - HEADER_SIZE
        self._buffer = self._buffer[:HEADER_SIZE]
        self._skipping = True

    def end(self) -> None:
        """To be called when the stream ends. Raises WireError (MALFORMED_FRAME) inside a frame."""
        if self._failure is not None:
            raise self._failure
        if self._buffer:
            raise self._fail(Status.MALFORMED_FRAME, "The connection ended in the middle of a frame.")

    def _cut(self, data: bytes) -> Iterator[Frame]:
        if self._failure is not None:
            raise self._failure
        view = memoryview(data)
        position = 0
        end = len(view)
        buffer = self._buffer
        while position < end:
            if not buffer and end - position >= HEADER_SIZE:
                header = HEADER.unpack_from(view, position)
                stop = position + self._check(header[0], header[3])
                if stop <= end:
                    yield Frame(header[2], header[1], header[3], header[4], view[position + HEADER_SIZE : stop])
                    position = stop
                    continue
            take = min(self._need - len(buffer), end - position)
            if self._skipping:
                position += take
                self._need -= take
                if self._need > HEADER_SIZE:
                    return
                buffer = self._buffer = bytearray()
                self._skipping = False
                continue
            buffer += view[position : position + take]
            position += take
            if len(buffer) < self._need:
                return
            header = HEADER.unpack_from(buffer)
            self._need = self._check(header[0], header[3])
            if len(buffer) == self._need:
                body = memoryview(buffer)[HEADER_SIZE:]
                buffer = self._buffer = bytearray()
                self._need = HEADER_SIZE
                yield Frame(header[2], header[1], header[3], header[4], body)

    def _check(self, length: int, flags: int) -> int:
        if length > self._max_body:
            raise self._fail(
                Status.FRAME_TOO_LARGE,
                f"A frame of {length} bytes was announced; at most {self._max_body} are taken (max_frame).",
            )
        if flags & ~_KNOWN_FLAGS:
            raise self._fail(Status.MALFORMED_FRAME, f"A frame has unknown flags ({flags:#06x}).")
        if flags & REPLY != self._direction:
            found, wanted = ("reply", "request") if flags & REPLY else ("request", "reply")
            raise self._fail(Status.MALFORMED_FRAME, f"A {found} came where a {wanted} belongs.")
        return HEADER_SIZE + length

    def _fail(self, status: Status, message: str) -> WireError:
        self._buffer = bytearray()
        self._need = HEADER_SIZE
        self._failure = WireError(status, message)
        return self._failure
