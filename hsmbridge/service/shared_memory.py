"""Memory that the daemon shares with one client: a memfd that the daemon makes, seals and maps.

The seals (fcntl(2): F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_SEAL) keep a client from truncating it under the daemon, which
would be a SIGBUS. How large it is, the daemon knows by itself; what lies in it may change at any moment, so no
range, key or algorithm is ever taken from it, and what must not change is copied first.
"""

import fcntl
import mmap
import os
import secrets

from hsmbridge.core.errors import LimitError, RequestError, Status
from hsmbridge.core.messages import SharedRange

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class SharedMemory:
    """One mapping. It goes when nobody has a view of it any more: an operation may outlive its connection.

    Attributes:
        buffer: its number in requests; random, so that those of a former mapping do not fit by chance.
        size: in bytes.
    """

    __slots__ = ("_map", "buffer", "size")

    def __init__(self, mapped: mmap.mmap, size: int) -> None:
        self._map = memoryview(mapped)
        self.size = size
        self.buffer = secrets.randbits(32)

    @classmethod
    def make(cls, size: int, most: int) -> "tuple[SharedMemory, int]":
        """New memory, all zero, and its file descriptor, which the caller sends and closes.

        Raises:
            RequestError: INVALID_ARGUMENT for no size.
            LimitError: DATA_TOO_LARGE past `most` bytes; TOO_MANY_RESOURCES where the system has no memory for it.
        """
        if size < 1:
            raise RequestError(Status.INVALID_ARGUMENT, "Shared memory has at least one byte.")
        if size > most:
            raise LimitError(Status.DATA_TOO_LARGE, f"One connection shares at most {most:,} bytes of memory.")
        descriptor = -1
        try:
            descriptor = os.memfd_create("hsmbridge-shared", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            os.ftruncate(descriptor, size)
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
            return cls(mmap.mmap(descriptor, size), size), descriptor
        except OSError as problem:
            if descriptor >= 0:
                os.close(descriptor)
            raise LimitError(
                Status.TOO_MANY_RESOURCES, "The daemon has no memory to share now.", origin=str(problem)
            ) from None

    def view(self, where: SharedRange) -> memoryview:
        """A live view of a range, which the client can change at any moment. Raises RequestError (INVALID_ARGUMENT)."""
        # The numbers are Python's and do not overflow; each is held against the daemon's own size.
        inside = 0 <= where.offset <= self.size and 0 <= where.length <= self.size - where.offset
        if where.buffer != self.buffer or not inside:
            raise RequestError(Status.INVALID_ARGUMENT, "There is no such range in the memory of this connection.")
        return self._map[where.offset : where.offset + where.length]

    def copy(self, where: SharedRange) -> bytes:
        """What lies in a range now, in memory that nobody else reaches. Raises as `view`."""
        return bytes(self.view(where))

    def put(self, where: SharedRange, data: bytes) -> None:
        """Write to the beginning of a range. Raises RequestError (INVALID_ARGUMENT) where it is too short."""
        target = self.view(where)
        if len(data) > len(target):
            raise RequestError(Status.INVALID_ARGUMENT, "The target range is too short for the result.")
        target[: len(data)] = data
