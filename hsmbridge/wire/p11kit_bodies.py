"""Reading and writing the body of a p11-kit message: integers, byte strings, and what cannot be read.

All integers are big-endian. Every length is checked against the rest of the body before anything is taken or
allocated, and what does not fit raises WireError (MALFORMED_FRAME).
"""

import struct
from typing import Final

from hsmbridge.core.errors import Status, WireError

ABSENT: Final = 0xFFFFFFFF
"""As a length: NULL."""

UNAVAILABLE: Final = 0xFFFFFFFFFFFFFFFF
"""CK_UNAVAILABLE_INFORMATION."""

_U32 = struct.Struct(">I")
_U64 = struct.Struct(">Q")
U32 = _U32.pack
U64 = _U64.pack


def malformed(what: str) -> WireError:
    """What is raised for a body that does not follow the protocol."""
    return WireError(Status.MALFORMED_FRAME, f"Not a message of the p11-kit protocol: {what}.")


class BodyReader:
    """A place in a body, going forward.

    Attributes:
        place: bytes read so far.
    """

    __slots__ = ("_data", "_end", "place")

    def __init__(self, data: bytes, place: int = 0) -> None:
        self._data = data
        self._end = len(data)
        self.place = place

    @property
    def left(self) -> int:
        """Bytes not read yet."""
        return self._end - self.place

    def byte(self) -> int:
        """One byte."""
        place = self.place
        if place >= self._end:
            raise malformed("it ends too early")
        self.place = place + 1
        return self._data[place]

    def u32(self) -> int:
        """Four bytes."""
        place = self.place
        if place + 4 > self._end:
            raise malformed("it ends too early")
        self.place = place + 4
        return _U32.unpack_from(self._data, place)[0]  # type: ignore[no-any-return]  # struct knows no types

    def u64(self) -> int:
        """Eight bytes: a CK_ULONG."""
        place = self.place
        if place + 8 > self._end:
            raise malformed("it ends too early")
        self.place = place + 8
        return _U64.unpack_from(self._data, place)[0]  # type: ignore[no-any-return]  # struct knows no types

    def take(self, size: int) -> bytes:
        """So many bytes."""
        place = self.place
        if size > self._end - place:
            raise malformed("a length is larger than what follows")
        self.place = place + size
        return self._data[place : place + size]

    def string(self) -> bytes | None:
        """A length and as many bytes; None for NULL."""
        size = self.u32()
        return None if size == ABSENT else self.take(size)

    def count(self, least: int, most: int) -> int:
        """A number of elements of at least so many bytes each."""
        number = self.u32()
        if number > most or number * least > self.left:
            raise malformed("a count is larger than what follows, or than is taken")
        return number


def string(value: bytes) -> bytes:
    """A length and the bytes."""
    return _U32.pack(len(value)) + value
