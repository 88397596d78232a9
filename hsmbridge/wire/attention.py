"""Staying awake a moment for the next request: when that is worth it, and for how long. No socket of its own.

A client that makes one call after another sends the next a few microseconds after the reply. A server that has gone to
sleep by then is woken through the scheduler, and on a virtual machine through the hypervisor, which takes about as
long as the whole of its own work on a request. So it looks a little longer before it sleeps; where that is in vain a
few times, it rests from looking, so that a client that thinks between its calls costs no processor time to speak of.
"""

import os
from collections.abc import Callable
from time import perf_counter
from typing import Final

MISSES: Final = 4
"""So many looks in vain, one after another, and then rest."""

REST: Final = 64
"""Requests without a look after that."""

_ALONE_ON_THE_MACHINE: Final = len(os.sched_getaffinity(0)) < 2
"""With one processor whoever looks keeps the client from sending."""


class Attention:
    """One connection's. `listen` is for one thread; `worthwhile` may be asked from any."""

    __slots__ = ("_misses", "_rest", "_time")

    def __init__(self, seconds: float) -> None:
        """Args: how long to look: about twice what the quickest peers take from a reply to their next request."""
        self._time = seconds
        self._misses = 0
        self._rest = 0

    def worthwhile(self) -> bool:
        """Whether to look after this reply; to be asked once a reply, for it counts them."""
        if self._rest > 0:  # two threads that reply at the same moment may both have taken one from it
            self._rest -= 1
            return False
        return not _ALONE_ON_THE_MACHINE

    def listen(self, receive: Callable[[], bytes]) -> bytes | None:
        """What arrives within the next moment; None where nothing did, or where it is not worth looking.

        Args:
            receive: what is there now; raises BlockingIOError where there is nothing. Other errors are passed on.
        """
        if not self.worthwhile():
            return None
        until = perf_counter() + self._time
        while True:
            try:
                data = receive()
            except BlockingIOError:
                if perf_counter() < until:
                    continue
                self._misses += 1
                if self._misses >= MISSES:
                    self._misses, self._rest = 0, REST
                return None
            self._misses = 0
            return data
