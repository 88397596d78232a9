"""A pool of sessions on one token: one call, one session.

Last in, first out, so that few sessions stay warm: each keeps the objects that it has found, and finding is what
costs. Sessions are opened when they are needed and closed when their epoch is over.

Taking and giving back are the hot path and take no lock: `list.pop` and `list.append` are atomic. Whoever must
wait says so in `_waiting` under the condition, before looking once more; whoever gives back looks at `_waiting`
after the append. One of the two therefore sees the other.
"""

import threading
import time
from collections.abc import Callable
from contextlib import suppress

from pkcs11 import Session
from pkcs11.exceptions import PKCS11Error

from hsmbridge.core.errors import ProviderError, Status
from hsmbridge.providers.pkcs11.objects import KeyObjects

PATIENCE = 30.0
"""Seconds that a call waits for a session."""


class Seat:
    """A session with what was found in it. One thread at a time sits on it."""

    __slots__ = ("epoch", "keys", "session")

    def __init__(self, session: Session, epoch: int) -> None:
        self.session = session
        self.epoch = epoch
        self.keys: dict[bytes, KeyObjects] = {}

    def close(self) -> None:
        """Close the session; one that is closed already is fine."""
        self.keys.clear()
        with suppress(PKCS11Error):
            self.session.close()


class SessionPool:
    """At most `size` seats, made by `open_seat(epoch)`, which logs in where that is needed."""

    def __init__(self, size: int, open_seat: Callable[[int], Seat], patience: float = PATIENCE) -> None:
        self._size = size
        self._open_seat = open_seat
        self._patience = patience
        self._idle: list[Seat] = []
        self._seats: set[Seat] = set()
        self._changed = threading.Condition()
        self._opened = 0
        self._waiting = 0
        self._epoch = 0
        self._suspended = False

    def take(self) -> Seat:
        """A seat, to be given back or discarded. Raises ProviderError (PROVIDER_UNAVAILABLE) after PATIENCE."""
        try:
            return self._idle.pop()
        except IndexError:
            return self._wait_for_seat()

    def give(self, seat: Seat) -> None:
        """A seat that is fit for the next call."""
        if seat.epoch != self._epoch:
            self.discard(seat)
            return
        self._idle.append(seat)
        if self._waiting:
            with self._changed:
                self._changed.notify()

    def discard(self, seat: Seat) -> None:
        """A seat that nobody should use any more."""
        seat.close()
        self._leave(seat)

    def forget(self, *key_ids: bytes) -> None:
        """Drop what seats have found of keys; who is using one keeps his own until the call ends."""
        with self._changed:
            seats = list(self._seats)
        gone = frozenset(key_ids)
        for seat in seats:
            # A copy is made in one step; others may use the seat.
            for key_id in gone.intersection(tuple(seat.keys)):
                seat.keys.pop(key_id, None)

    def void(self) -> None:
        """Close every seat: idle ones now, the others when they come back."""
        with self._changed:
            self._epoch += 1
        self._close_idle()

    def suspend(self) -> None:
        """Let nobody take a seat until `resume`."""
        with self._changed:
            self._suspended = True
        self.void()

    def quiesce(self, seconds: float) -> bool:
        """Wait until every seat is closed; False where a call did not end in time."""
        deadline = time.monotonic() + seconds
        while True:
            self._close_idle()
            with self._changed:
                self._waiting += 1
                try:
                    if not self._opened:
                        return True
                    left = deadline - time.monotonic()
                    if left <= 0:
                        return False
                    if not self._idle:
                        self._changed.wait(left)
                finally:
                    self._waiting -= 1

    def resume(self) -> None:
        """Let seats be taken again."""
        with self._changed:
            self._suspended = False
            self._changed.notify_all()

    def _close_idle(self) -> None:
        while True:
            try:
                seat = self._idle.pop()
            except IndexError:
                return
            self.discard(seat)

    def _leave(self, seat: Seat | None) -> None:
        with self._changed:
            self._opened -= 1
            if seat is not None:
                self._seats.discard(seat)
            self._changed.notify_all()

    def _wait_for_seat(self) -> Seat:
        got = self._idle_or_room()
        if isinstance(got, Seat):
            return got
        try:
            seat = self._open_seat(got)
        except BaseException:
            self._leave(None)
            raise
        with self._changed:
            self._seats.add(seat)
        return seat

    def _idle_or_room(self) -> Seat | int:
        """An idle seat, or the epoch for a new one, for which there is room now."""
        deadline = time.monotonic() + self._patience
        with self._changed:
            self._waiting += 1
            try:
                while True:
                    if not self._suspended:
                        with suppress(IndexError):
                            return self._idle.pop()
                        if self._opened < self._size:
                            self._opened += 1
                            return self._epoch
                    left = deadline - time.monotonic()
                    if left <= 0:
                        raise ProviderError(
                            Status.PROVIDER_UNAVAILABLE,
                            "All sessions on the token are busy; try again, or raise `sessions` of this provider.",
                        )
                    self._changed.wait(left)
            finally:
                self._waiting -= 1
