"""The state of a context, and the data that one holds back. No I/O, no keys, no provider.

The states and their order stand in `hsmbridge.core.contexts`. A call that does not belong where the context stands is
refused and changes nothing, whatever the algorithm. One call at a time works on a context. A context that fails, or
is closed, while a call is under way is freed when that call ends: both sides ask `ContextMachine` whose part it is.
"""

import threading
from typing import Final

from hsmbridge.core.contexts import NEXT, ContextCall, ContextState
from hsmbridge.core.errors import ContextError, HsmBridgeError, LimitError, Status
from hsmbridge.core.room import Room

DEFAULT_HELD_MAX: Final = 64 * 1024 * 1024
"""Bytes that one context holds back at most, unless the configuration says otherwise."""


class ContextMachine:
    """The state of one context. May be used from any thread."""

    __slots__ = ("_busy", "_lock", "_state")

    def __init__(self) -> None:
        """It is CREATED."""
        self._lock = threading.Lock()
        self._state = ContextState.CREATED
        self._busy = False

    @property
    def state(self) -> ContextState:
        return self._state

    def begin(self, call: ContextCall) -> None:
        """A call is about to work on the context; `end` or `fail` follows.

        Raises ContextError: INVALID_OPERATION where it does not belong here, or another call is under way;
        CONTEXT_FAILED where only closing is left.
        """
        with self._lock:
            if self._state in (ContextState.ERROR, ContextState.CLOSED):
                raise ContextError(Status.CONTEXT_FAILED)
            if self._busy:
                raise ContextError(
                    Status.INVALID_OPERATION, "Another call on this context is under way; wait for its answer."
                )
            if self._state not in NEXT[call]:
                places = " or ".join(NEXT[call])
                raise ContextError(
                    Status.INVALID_OPERATION,
                    f"This context is {self._state}; one can {call} a context that is {places}.",
                )
            self._busy = True

    def end(self, call: ContextCall) -> bool:
        """The call succeeded. False where the context failed or was closed meanwhile: the caller frees it."""
        with self._lock:
            self._busy = False
            if self._state not in NEXT[call]:
                return False
            self._state = NEXT[call][self._state]
            return True

    def fail(self) -> None:
        """The call under way failed; the caller frees what the context holds."""
        with self._lock:
            self._busy = False
            if self._state is not ContextState.CLOSED:
                self._state = ContextState.ERROR

    def give_up(self) -> None:
        """The deadline of its call passed: that call may still be under way, and frees it when it ends."""
        with self._lock:
            if self._state is not ContextState.CLOSED:
                self._state = ContextState.ERROR

    def close(self) -> bool:
        """It is not needed any more. True where no call is under way, so that the caller frees it; once."""
        with self._lock:
            closed_before, self._state = self._state is ContextState.CLOSED, ContextState.CLOSED
            return not closed_before and not self._busy


class Spool:
    """Data that is held back until all of it is there, within a bound."""

    __slots__ = ("_everywhere", "_held", "_most", "_pieces", "_size")

    def __init__(self, most: int, held: Room, everywhere: Room) -> None:
        """Args: most: bytes that this one may hold; held, everywhere: what those of connection and principal may."""
        self._most = most
        self._held = held
        self._everywhere = everywhere
        self._pieces: list[bytes] = []
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, data: bytes) -> None:
        """Hold more. Raises LimitError (DATA_TOO_LARGE, TOO_MANY_RESOURCES); nothing of `data` is held then."""
        size = self._size + len(data)
        if size > self._most:
            raise too_large(self._most)
        if not self._held.take(len(data)):
            raise LimitError(
                Status.DATA_TOO_LARGE,
                "The contexts of this connection hold back as much data as they may together; close some.",
            )
        if not self._everywhere.take(len(data)):
            self._held.give_back(len(data))
            raise self._everywhere.refusal()
        self._size = size
        if data:
            self._pieces.append(data)

    def take(self) -> bytes:
        """All that is held; it stays counted until `clear`."""
        if len(self._pieces) == 1:
            return self._pieces[0]
        whole = b"".join(self._pieces)
        self._pieces = [whole]
        return whole

    def replace(self, data: bytes) -> None:
        """Hold the result in place of what it was made of, which may be longer by a block."""
        self._held.exchange(self._size, len(data))
        self._everywhere.exchange(self._size, len(data))
        self._pieces = [data]
        self._size = len(data)

    def clear(self) -> None:
        """Hold nothing."""
        self._pieces.clear()
        self._held.give_back(self._size)
        self._everywhere.give_back(self._size)
        self._size = 0


def too_large(most: int) -> HsmBridgeError:
    """What data is refused with that would have to be held back beyond the bound."""
    return LimitError(
        Status.DATA_TOO_LARGE,
        f"This context has to hold all data back until its end, and holds at most {most:,} bytes (max_held of the"
        " daemon). Raise it there, or divide the data: files in chunks, as `hsmbridge encrypt` writes them, have"
        " no such bound.",
    )
