"""The writing half of a connection, usable from every thread.

The thread that has a frame writes it at once, without waking the event loop; only what the kernel does not take is
queued and left to the loop. The queue itself has no bound: who reads requests looks at `queued` and stops reading
from a peer that does not take its replies.
"""

import asyncio
import socket
import threading
from collections import deque
from collections.abc import Callable

_RECEIVE_SIZE = 64 * 1024
_SEND_FLAGS = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


class Outbox:
    """Sends whole frames on a stream socket, in the order of the calls.

    Attributes:
        queued: bytes that the kernel has not taken yet; read it from any thread, as of a moment ago.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        peer: socket.socket,
        ended: Callable[[], None],
        relieved: Callable[[], None] | None = None,
    ) -> None:
        """Prepare to write.

        Args:
            loop: finishes writes that the kernel did not take whole.
            peer: a socket of its own, a duplicate of the transport's.
            ended: called on the loop when there is nothing to send any more: everything was sent after
                `close_when_sent`, or the peer is gone. Its business is to close the transport.
            relieved: called on the loop whenever the queue became empty.
        """
        self.queued = 0
        self._loop = loop
        self._socket = peer
        self._ended = ended
        self._relieved = relieved
        self._lock = threading.Lock()
        self._backlog: deque[memoryview] = deque()
        self._closed = False
        self._closing = False

    def send(self, frame: bytes) -> None:
        """Send a frame; after `close` and `close_when_sent` it is dropped."""
        with self._lock:
            self._put(frame)

    def send_descriptor(self, frame: bytes, descriptor: int) -> bool:
        """Send a frame with a file descriptor, at once or not at all; the descriptor stays the caller's.

        False where something else is still queued, so that nothing was sent.
        """
        with self._lock:
            if self._closed or self._closing or self._backlog:
                return False
            try:
                sent = socket.send_fds(self._socket, [frame], [descriptor], _SEND_FLAGS)
            except OSError:
                return False
            if sent < len(frame):
                self._backlog.append(memoryview(frame)[sent:])
                self.queued = len(frame) - sent
                self._loop.call_soon_threadsafe(self._watch)
            return True

    def close_when_sent(self) -> None:
        """Take nothing more, and end after what is queued."""
        with self._lock:
            self._end_when_sent()

    def close(self) -> None:
        """Drop what is queued. Called on the loop, when the connection is gone."""
        with self._lock:
            if self._backlog:
                self._loop.remove_writer(self._socket)
            self._give_up()
            self._socket.close()

    # With the lock held

    def _put(self, frame: bytes) -> None:
        if self._closed or self._closing:
            return
        if self._backlog:
            self._backlog.append(memoryview(frame))
            self.queued += len(frame)
            return
        try:
            sent = self._socket.send(frame, _SEND_FLAGS)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._lost()
            return
        if sent < len(frame):
            self._backlog.append(memoryview(frame)[sent:])
            self.queued = len(frame) - sent
            self._loop.call_soon_threadsafe(self._watch)

    def _end_when_sent(self) -> None:
        if not (self._closing or self._closed):
            self._closing = True
            if not self._backlog:
                self._loop.call_soon_threadsafe(self._ended)

    def _lost(self) -> None:
        # The transport may have been told not to read, and would never learn that the peer is gone.
        self._give_up()
        self._loop.call_soon_threadsafe(self._ended)

    def _give_up(self) -> None:
        self._closed = True
        self._backlog.clear()
        self.queued = 0

    # On the loop

    def _watch(self) -> None:
        with self._lock:
            if self._backlog:
                self._loop.add_writer(self._socket, self._flush)

    def _flush(self) -> None:
        with self._lock:
            while self._backlog:
                data = self._backlog[0]
                try:
                    sent = self._socket.send(data, _SEND_FLAGS)
                except BlockingIOError:
                    return
                except OSError:
                    self._loop.remove_writer(self._socket)
                    self._lost()
                    return
                self.queued -= sent
                if sent < len(data):
                    self._backlog[0] = data[sent:]
                    return
                self._backlog.popleft()
            self._loop.remove_writer(self._socket)
            ended = self._closing
        if ended:
            self._ended()
        elif self._relieved is not None:
            self._relieved()


class ReplyOutbox(Outbox):
    """Sends replies, and knows which requests are still owed one.

    A request's id is free again before its reply can be read, for its caller may use it again at once; and that the
    last reply is out is decided under the same lock, so that none is dropped by an end that comes at that moment.

    Attributes:
        owed: ids of the requests under way. `add` is the loop's, everything else this class's.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        peer: socket.socket,
        ended: Callable[[], None],
        relieved: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(loop, peer, ended, relieved)
        self.owed: set[int] = set()
        self._finishing = False

    def received(self) -> bytes:
        """What the peer has sent by now. Raises OSError, BlockingIOError where it is nothing."""
        return self._socket.recv(_RECEIVE_SIZE, socket.MSG_DONTWAIT)

    def answer(self, request_id: int, frame: bytes) -> None:
        """Send the reply to a request, from any thread."""
        with self._lock:
            self.owed.discard(request_id)
            self._put(frame)
            if self._finishing and not self.owed:
                self._end_when_sent()

    def finish(self) -> None:
        """End when everything owed was sent."""
        with self._lock:
            self._finishing = True
            if not self.owed:
                self._end_when_sent()
