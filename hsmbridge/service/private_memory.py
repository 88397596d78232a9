"""Memory of the daemon alone, into which messages are decrypted that lie in memory shared with a client.

It is used again and again: fresh pages for every message would cost more than the decryption. Clients never see it;
what a message left there lies there until the next one overwrites it, as in any memory that was given back.
"""

import mmap
from typing import Final

KEPT: Final = 2
"""Buffers that are kept: decryptions at once are few."""

KEPT_BYTES: Final = 4 * 1024 * 1024
"""Larger ones are made anew each time."""


class PrivateMemory:
    """Gives out buffers. May be used from any thread: list operations are atomic."""

    def __init__(self) -> None:
        self._kept: list[memoryview] = []

    def take(self, length: int) -> memoryview:
        """At least `length` bytes with anything in them, for the caller alone."""
        try:
            buffer = self._kept.pop()
        except IndexError:
            return _new(length)
        return buffer if len(buffer) >= length else _new(length)

    def give_back(self, buffer: memoryview) -> None:
        """The caller needs it no more. One that never comes back, because its call hangs, is no loss."""
        if len(buffer) <= KEPT_BYTES and len(self._kept) < KEPT:
            self._kept.append(buffer)


def copy_out(private: memoryview, target: memoryview) -> None:
    """Copy all of it into memory that is as long.

    The second half first, for it was written last: at 1 MiB, which with its ciphertext fills a processor's cache, that
    takes a fifth less time than the other way round.
    """
    half = len(private) // 2
    target[half:] = private[half:]
    target[:half] = private[:half]


def _new(length: int) -> memoryview:
    # Whole pages: what begins at an odd place is copied and decrypted more slowly.
    return memoryview(mmap.mmap(-1, max(length, mmap.PAGESIZE)))
