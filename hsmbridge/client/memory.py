"""MemoryAllocator: hands out parts of one block of memory, such as the one that client and daemon share.

It needs no connection: over a buffer of its own it is an allocator like any other. Parts never overlap, begin at
multiples of 64 bytes, and come back when they are released; neighbours that are free become one again.
"""

import mmap
import threading
from bisect import insort
from typing import Self

from hsmbridge.core.errors import LimitError, RequestError, Status

ALIGNMENT = 64
"""Bytes: of a cache line, which two parts never share."""


class Allocation:
    """A part of an allocator's memory; a context manager.

    Attributes:
        offset: where it begins.
        length: bytes asked for.
        view: the bytes asked for; dead when the part is released, as is `spare`.
        spare: those behind them that belong to it too, for what is put behind a message.
    """

    __slots__ = ("_allocator", "length", "offset", "spare", "view")

    def __init__(self, allocator: "MemoryAllocator", offset: int, view: memoryview, spare: memoryview) -> None:
        self._allocator: MemoryAllocator | None = allocator
        self.offset = offset
        self.length = len(view)
        self.view = view
        self.spare = spare

    @property
    def allocator(self) -> "MemoryAllocator | None":
        """Whose memory it is; None once it was given back."""
        return self._allocator

    @property
    def provider_compatible(self) -> bool:
        """Whether the daemon sees it, so that a provider can read it without a copy before."""
        return self._allocator is not None and self._allocator.shared

    def release(self) -> None:
        """Give it back; a second time does nothing. Views of it that the caller made must be gone (BufferError)."""
        allocator = self._allocator
        if allocator is not None:
            taken = self.length + len(self.spare)
            self.view.release()
            self.spare.release()
            self._allocator = None
            allocator.take_back(self.offset, taken)

    def abandon(self) -> None:
        """Never give it back: somebody may still write to it, and nobody else is to get it."""
        self._allocator = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"<Allocation of {self.length} bytes at {self.offset}>"


class MemoryAllocator:
    """Parts of one block, the first that is large enough. Safe for any number of threads."""

    def __init__(self, memory: memoryview, *, shared: bool = False) -> None:
        """Args: memory: all of it, writable bytes. shared: the daemon sees it too."""
        if memory.readonly or memory.format != "B" or memory.ndim != 1 or not memory.contiguous:
            raise RequestError(Status.INVALID_ARGUMENT, "An allocator needs one block of writable bytes.")
        self._memory = memory
        self.shared = shared
        self._lock = threading.Lock()
        self._free: list[tuple[int, int]] = [(0, len(memory))] if len(memory) else []

    @classmethod
    def private(cls, size: int) -> Self:
        """Over memory of its own, zero at first. Raises RequestError (INVALID_ARGUMENT)."""
        if size < 1:
            raise RequestError(Status.INVALID_ARGUMENT, "An allocator has at least one byte.")
        return cls(memoryview(mmap.mmap(-1, size)))

    @property
    def size(self) -> int:
        """Bytes of the whole block."""
        return len(self._memory)

    @property
    def available(self) -> int:
        """Bytes that are free, perhaps not in one piece."""
        with self._lock:
            return sum(length for _, length in self._free)

    def allocate(self, length: int, spare: int = 0) -> Allocation:
        """A part of `length` bytes and so many to spare, with whatever was there before.

        Raises:
            RequestError: INVALID_ARGUMENT below one byte.
            LimitError: TOO_MANY_RESOURCES where no free piece is as large.
        """
        if length < 1 or spare < 0:
            raise RequestError(Status.INVALID_ARGUMENT, "A part has at least one byte.")
        with self._lock:
            for index, (offset, free) in enumerate(self._free):
                if free >= length + spare:
                    taken = min(_rounded(length + spare), free)
                    if taken == free:
                        del self._free[index]
                    else:
                        self._free[index] = offset + taken, free - taken
                    whole = self._memory[offset : offset + length + spare]
                    return Allocation(self, offset, whole[:length], whole[length:])
        raise LimitError(Status.TOO_MANY_RESOURCES, f"There are no {length:,} bytes in one piece; release some parts.")

    def take_back(self, offset: int, length: int) -> None:
        """A part is free again; `Allocation.release` calls this once."""
        taken = min(_rounded(length), len(self._memory) - offset)
        with self._lock:
            insort(self._free, (offset, taken))
            merged: list[tuple[int, int]] = []
            for start, free in self._free:
                if merged and merged[-1][0] + merged[-1][1] == start:
                    merged[-1] = merged[-1][0], merged[-1][1] + free
                else:
                    merged.append((start, free))
            self._free = merged


def _rounded(length: int) -> int:
    return -(-length // ALIGNMENT) * ALIGNMENT
