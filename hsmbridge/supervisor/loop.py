"""An event loop of one thread: file descriptors, timers, signals. No more than a supervisor needs.

A fault in an action is logged and the loop goes on: whoever watches over others must not fall with one of them.
"""

import heapq
import itertools
import selectors
import signal
import socket
import time
from collections.abc import Callable, Mapping
from typing import Final

import structlog

from hsmbridge.core.identifiers import new_incident_id

Action = Callable[[], None]

READ: Final = selectors.EVENT_READ
WRITE: Final = selectors.EVENT_WRITE

_log = structlog.get_logger(__name__)


class Timer:
    """An action that is to come."""

    __slots__ = ("_action",)

    def __init__(self, action: Action) -> None:
        self._action: Action | None = action

    def cancel(self) -> None:
        """Do not do it. Harmless when it was done."""
        self._action = None

    @property
    def cancelled(self) -> bool:
        """There is nothing left to do."""
        return self._action is None

    def take(self) -> Action | None:
        """The action, once."""
        action, self._action = self._action, None
        return action


class EventLoop:
    """Waits, and calls what was asked for, one after another."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._signals: dict[int, Action] = {}
        self._signals_in, self._signals_out = socket.socketpair()
        self._signals_in.setblocking(False)
        self._signals_out.setblocking(False)

    def watch(self, fd: int, action: Action, events: int = READ) -> None:
        """Call `action` whenever `fd` is ready, until `unwatch`. Watching again changes action and events."""
        if fd in self._selector.get_map():
            self._selector.modify(fd, events, action)
        else:
            self._selector.register(fd, events, action)

    def unwatch(self, fd: int) -> None:
        """To be called before `fd` is closed; one that is not watched is fine."""
        if fd in self._selector.get_map():
            self._selector.unregister(fd)

    def call_later(self, seconds: float, action: Action) -> Timer:
        """Call `action` once, after `seconds`."""
        timer = Timer(action)
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._order), timer))
        return timer

    def heed(self, actions: Mapping[signal.Signals, Action]) -> None:
        """Call an action in the loop when a signal comes. Only from the main thread, once."""
        signal.set_wakeup_fd(self._signals_out.fileno(), warn_on_full_buffer=False)
        for number, action in actions.items():
            self._signals[number] = action
            signal.signal(number, _ignore)
        self.watch(self._signals_in.fileno(), self._take_signals)

    def run(self, until: Callable[[], bool]) -> None:
        """Go on until `until` says so after some action."""
        while not until():
            for key, _ in self._selector.select(self._due_in()):
                # An action before this one may have taken it from the list.
                if self._selector.get_map().get(key.fd) is key:
                    self._do(key.data)
            while self._timers and self._timers[0][0] <= time.monotonic():
                action = heapq.heappop(self._timers)[2].take()
                if action is not None:
                    self._do(action)

    def close(self) -> None:
        """Free what the loop holds."""
        if self._signals:
            signal.set_wakeup_fd(-1)
        self._signals_in.close()
        self._signals_out.close()
        self._selector.close()

    def _due_in(self) -> float | None:
        while self._timers and self._timers[0][2].cancelled:
            heapq.heappop(self._timers)
        return max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else None

    def _take_signals(self) -> None:
        for number in self._signals_in.recv(4096):
            if number in self._signals:
                self._signals[number]()

    def _do(self, action: Action) -> None:
        try:
            action()
        except Exception:  # noqa: BLE001 - see the top: the supervisor goes on
            _log.exception("an action of the supervisor failed unexpectedly", incident=new_incident_id())


def _ignore(_: int, __: object) -> None:
    """The wake-up socket says which signal it was."""
