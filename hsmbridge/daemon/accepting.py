"""One worker's part in accepting: all wait on the same listening socket, and who has fewer clients comes first.

Whichever worker woke first used to take a connection, and on a machine at rest that is nearly always the same one: of
four clients it had three or all, and served them on one processor. So a worker that has more clients of this socket
than another leaves a new one to it for a moment. A worker that is busy or stopped does not come by then, and the
connection is taken after all.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Final

import structlog

from hsmbridge.frontends.refusal_log import RefusalLog

YIELDING_TIME: Final = 0.002
"""Seconds that a connection is left to a worker with fewer clients."""

RETRY_TIME: Final = 0.1
"""Seconds until the next try where a connection could not be accepted: file descriptors are short."""

_log = structlog.get_logger(__name__)


class Acceptor:
    """Accepts connections on one listening socket. On the loop's own thread."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listener: socket.socket,
        connection: Callable[[], asyncio.BaseProtocol],
        has_most: Callable[[], bool],
    ) -> None:
        """Begin to accept.

        Args:
            loop: the event loop that connections live on.
            listener: a listening socket; it is closed at the end.
            connection: makes the protocol of a new connection.
            has_most: whether another worker has fewer clients of this socket.
        """
        self._loop = loop
        self._listener = listener
        self._connection = connection
        self._has_most = has_most
        self._waiting: asyncio.TimerHandle | None = None
        self._arriving: set[asyncio.Task[object]] = set()
        self._refusals = RefusalLog()
        listener.setblocking(False)
        loop.add_reader(listener, self._ready)

    def close(self) -> None:
        """Accept no more."""
        if self._waiting is None:
            self._loop.remove_reader(self._listener)
        else:
            self._waiting.cancel()
        self._listener.close()

    def _ready(self) -> None:
        if self._has_most():
            self._wait(YIELDING_TIME, self._after_all)
        else:
            self._accept()

    def _after_all(self) -> None:
        self._go_on()
        self._accept()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):  # another worker has it, or its client is gone
            return
        except OSError as problem:
            self._refusals.tell(
                _log.error, "a connection could not be accepted", str(problem.errno), reason=problem.strerror
            )
            self._wait(RETRY_TIME, self._go_on)
            return
        arriving = self._loop.create_task(self._loop.connect_accepted_socket(self._connection, connection))
        self._arriving.add(arriving)
        arriving.add_done_callback(self._arriving.discard)

    def _wait(self, seconds: float, then: Callable[[], None]) -> None:
        """Look away for a moment; the loop would ask again at once, for the connection is still there."""
        self._loop.remove_reader(self._listener)
        self._waiting = self._loop.call_later(seconds, then)

    def _go_on(self) -> None:
        self._waiting = None
        self._loop.add_reader(self._listener, self._ready)
