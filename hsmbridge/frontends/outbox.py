"""The writing half of a connection, usable from every thread.

The thread that has a reply writes it at once, without waking the event loop; only what the kernel does not take
is queued and left to the loop. A peer that sends requests and reads no replies is paused, so what it makes the
daemon hold is bounded by the number of its requests in flight.
"""

import asyncio
import socket
import threading
from collections import deque
from collections.abc import Callable

_SEND_FLAGS = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


class Outbox:
    """Sends whole frames on a stream socket, in the order of the calls."""

    def __init__(self, loop: asyncio.AbstractEventLoop, peer: socket.socket, sent_all: Callable[[], None]) -> None:
        """Prepare to write.

        Args:
            loop: finishes writes that the kernel did not take whole.
            peer: a socket of its own, a duplicate of the transport's.
            sent_all: called on the loop, once, when `close_when_sent` was asked for and nothing is left to send.
        """
        self._loop = loop
        self._socket = peer
        self._sent_all = sent_all
        self._lock = threading.Lock()
        self._backlog: deque[memoryview] = deque()
        self._closed = False
        self._closing = False

    def send(self, frame: bytes) -> None:
        """Send a frame; after `close` it is dropped."""
        with self._lock:
            if self._closed or self._closing:
                return
            if self._backlog:
                self._backlog.append(memoryview(frame))
                return
            sent = self._write(frame)
            if sent < len(frame) and not self._closed:
                self._backlog.append(memoryview(frame)[sent:])
                self._loop.call_soon_threadsafe(self._watch)

    def close_when_sent(self) -> None:
        """Take nothing more, and close after what is queued."""
        with self._lock:
            if self._closing or self._closed:
                return
            self._closing = True
            if not self._backlog:
                self._loop.call_soon_threadsafe(self._sent_all)

    def close(self) -> None:
        """Drop what is queued. Called on the loop, when the connection is gone."""
        with self._lock:
            if not self._closed:
                if self._backlog:
                    self._loop.remove_writer(self._socket)
                self._closed = True
            self._backlog.clear()
            self._socket.close()

    def _write(self, data: bytes | memoryview) -> int:
        try:
            return self._socket.send(data, _SEND_FLAGS)
        except BlockingIOError:
            return 0
        except OSError:  # the peer is gone; the transport learns it by itself
            self._closed = True
            return 0

    def _watch(self) -> None:
        with self._lock:
            if self._backlog and not self._closed:
                self._loop.add_writer(self._socket, self._flush)

    def _flush(self) -> None:
        with self._lock:
            while self._backlog and not self._closed:
                data = self._backlog[0]
                sent = self._write(data)
                if sent < len(data):
                    self._backlog[0] = data[sent:]
                    break
                self._backlog.popleft()
            if not self._backlog or self._closed:
                self._loop.remove_writer(self._socket)
                if self._closing:
                    self._sent_all()
