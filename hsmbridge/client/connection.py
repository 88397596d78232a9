"""One connection to the daemon: request frames out, reply frames in, each reply to the thread that waits for it.

There is no reader thread. Of the threads that wait, one leads: it reads the socket, hands other threads their
replies, and passes the lead on when its own has come. A thread that is alone sends and receives, and nothing
else. A connection that failed once stays failed; `hsmbridge.client.shared` opens the next one.
"""

import socket
import struct
from _thread import LockType, allocate_lock
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from itertools import count
from pathlib import Path
from time import monotonic
from typing import Final, TypeVar

from hsmbridge.client.deadline import GRACE
from hsmbridge.core.errors import (
    ConnectionLost,
    HsmBridgeError,
    LimitError,
    ProviderError,
    Status,
    WireError,
    error,
)
from hsmbridge.core.identifiers import CryptoResourceId
from hsmbridge.core.messages import ContextCloseRequest, ContextReply, KeyReply, ReleaseRequest
from hsmbridge.core.operations import OPERATIONS
from hsmbridge.wire.codec import decode_error, decode_reply, encode_request
from hsmbridge.wire.frames import HEADER_SIZE, MAX_REQUEST_ID, Frame, FrameReader, body_limit, deadline_word

SEND_TIMEOUT: Final = 30.0
"""Seconds that the daemon may take no byte at all of a frame before the connection counts as lost."""

_RECEIVE_SIZE: Final = 64 * 1024
_RECEIVE_SIZE_MAX: Final = 1024 * 1024
_REARM_AFTER: Final = 0.05
"""Seconds by which a timeout may be late before the socket is told the time that is left."""

_Body = TypeVar("_Body")
_deadline_word = lru_cache(deadline_word)


class _Waiter:
    """One call that waits. A thread that follows makes `wake`, and holds it while nothing has happened."""

    __slots__ = ("outcome", "wake")

    def __init__(self) -> None:
        self.outcome: Frame | HsmBridgeError | None = None
        self.wake: LockType | None = None

    def settle(self, outcome: Frame | HsmBridgeError) -> None:
        # In this order, for the follower makes its lock first and looks for an outcome then.
        self.outcome = outcome
        if self.wake is not None:
            self.rouse(self.wake)

    @staticmethod
    def rouse(wake: LockType) -> None:
        with suppress(RuntimeError):  # roused before and not yet awake: once is enough
            wake.release()


class Connection:
    """A connected socket and the calls under way on it. Safe for any number of threads.

    Attributes:
        failure: why it is over; None while it can be used.
        max_frame: bytes of data that one frame may carry.
        slots: ids of slots by the name that they were resolved from; they live and die with the connection.
        released, contexts_left: ids that guards and contexts gave up without a call; the next call tells the daemon.
            Appending is all that a finaliser does, for it may run inside any line of this class.
        descriptors: takes the file descriptors that the daemon sends, while somebody waits for one.
        sharing, shared_asked, shared: of `hsmbridge.client.data_plane`, which keeps what it shares here.
    """

    def __init__(self, path: Path, *, connect_timeout: float) -> None:
        """Connect to the daemon's socket; `connect_timeout` in seconds.

        Raises WireError (DAEMON_UNREACHABLE), saying what is wrong at the path.
        """
        self._socket = _connect(path, connect_timeout)
        self.set_max_frame(0)
        self._ids = count(1)
        self._send_lock = allocate_lock()
        self._lead_lock = allocate_lock()
        self._waiting: dict[int, _Waiter] = {}
        self._followers: dict[int, LockType] = {}
        self.failure: HsmBridgeError | None = None
        self._patience = 0.0
        self._last_sent = 0
        self._cut_off = False
        self.slots: dict[str, CryptoResourceId] = {}
        self.released: deque[CryptoResourceId] = deque()
        self.contexts_left: deque[int] = deque()
        self.descriptors: deque[int] | None = None
        self.sharing = allocate_lock()
        self.shared_asked = False
        self.shared: object = None

    def set_max_frame(self, max_frame: int) -> None:
        """Send and take up to `max_frame` bytes of data in one frame, as the hello allows. Before any other call."""
        self.max_frame = max_frame
        self._frame_limit = HEADER_SIZE + body_limit(max_frame)
        self._reader = FrameReader(body_limit(max_frame), replies=True)

    def exchange(self, encode: Callable[[int, _Body, int], bytes], body: _Body, timeout: float | None) -> Frame:
        """Send one frame and wait for its reply.

        Args:
            encode: makes the frame of a request id, a body and a deadline in milliseconds.
            body: a request, or the requests of a batch.
            timeout: seconds that the daemon is told; the reply is waited for a little longer. None is no limit.

        Raises:
            SafeToRepeat: it died before the daemon had read all of the request.
            ConnectionLost: it died later; the daemon may have carried the request out.
            ProviderError: OPERATION_TIMED_OUT; the connection goes on, a late reply is dropped.
            LimitError: DATA_TOO_LARGE; nothing was sent.
            WireError: the daemon sent what is not this protocol; the connection is over.
        """
        request_id = next(self._ids) & MAX_REQUEST_ID or self._new_id()
        frame = encode(request_id, body, _deadline_word(timeout))
        if len(frame) > self._frame_limit:
            raise LimitError(
                Status.DATA_TOO_LARGE,
                f"The data of this call makes {len(frame):,} bytes; the daemon takes {self.max_frame:,} in one call"
                " (max_frame).",
            )
        waiter = _Waiter()
        wait = end = None
        if timeout is not None:
            wait = timeout + GRACE
            end = monotonic() + wait
        with self._send_lock:
            if self.failure is not None:
                raise SafeToRepeat(Status.CONNECTION_LOST)
            if self.released or self.contexts_left:
                frame = self._release_frames() + frame
            self._waiting[request_id] = waiter
            self._last_sent = request_id
            self._send(frame)
        try:
            if self._lead_lock.acquire(False) or self._follow(request_id, waiter, end):
                self._lead(waiter, wait, end)
        finally:
            self._waiting.pop(request_id, None)
        outcome = waiter.outcome
        if isinstance(outcome, Frame):
            return outcome
        if self._cut_off and self._last_sent == request_id:
            raise SafeToRepeat(Status.CONNECTION_LOST)
        raise _copy(outcome)

    def close(self) -> None:
        """End the connection; calls under way fail with ConnectionLost. Idempotent."""
        self._fail(ConnectionLost(Status.CONNECTION_LOST, "The connection to the daemon was closed."))
        # Both roles end at once on a socket that was shut down; then nobody uses the descriptor any more.
        with self._send_lock, self._lead_lock:
            self._socket.close()

    def abandon(self) -> None:
        """Forget the connection in a child process: the parent goes on using it, so nothing is sent or shut down."""
        self.failure = ConnectionLost(
            Status.CONNECTION_LOST, "The connection belongs to the parent process; its keys cannot be used after fork."
        )
        self._send_lock = allocate_lock()
        self._lead_lock = allocate_lock()
        self._socket.close()

    def _new_id(self) -> int:
        # 0 is the daemon's, for what it says of the connection as a whole.
        return next(self._ids) & MAX_REQUEST_ID or self._new_id()

    def _release_frames(self) -> bytes:
        frames = []
        while self.released:
            # Nobody waits for the answers: replies under an id that no call has are dropped.
            frames.append(encode_request(self._new_id(), ReleaseRequest(self.released.popleft())))
        while self.contexts_left:
            frames.append(encode_request(self._new_id(), ContextCloseRequest(self.contexts_left.popleft())))
        return b"".join(frames)

    def _send(self, frame: bytes) -> None:
        try:
            sent = self._socket.send(frame, socket.MSG_NOSIGNAL)
            if sent != len(frame):
                self._socket.sendall(memoryview(frame)[sent:], socket.MSG_NOSIGNAL)
        except OSError as problem:
            if not isinstance(problem, BlockingIOError):
                self._hear_last_words()
            failure = self._fail(_lost(problem))
            # A request that did not go out whole is not carried out.
            raise (
                SafeToRepeat(Status.CONNECTION_LOST) if isinstance(failure, ConnectionLost) else _copy(failure)
            ) from None
        except BaseException:
            # A frame that was cut leaves no boundary for the next one.
            self._fail(ConnectionLost(Status.CONNECTION_LOST))
            raise

    def _hear_last_words(self) -> None:
        """Read what a daemon that closed the connection had said before: replies, or why it closed it."""
        if not self._lead_lock.acquire(blocking=False):
            return
        try:
            while self.failure is None:
                self._receive(SEND_TIMEOUT)
        finally:
            self._lead_lock.release()

    def _follow(self, request_id: int, waiter: _Waiter, end: float | None) -> bool:
        """Wait until the call is settled (False) or the lead has come to this thread (True)."""
        wake = waiter.wake = allocate_lock()
        wake.acquire()
        lead = False
        try:
            while waiter.outcome is None:
                self._followers[request_id] = wake
                # Again, for the leader may have left before it could see this follower.
                lead = self._lead_lock.acquire(blocking=False)
                if lead:
                    break
                left = -1.0 if end is None else max(0.0, end - monotonic())
                if not wake.acquire(timeout=left) and waiter.outcome is None:
                    raise ProviderError(Status.OPERATION_TIMED_OUT)
        finally:
            self._followers.pop(request_id, None)
            if not lead and not self._lead_lock.locked():
                # The lead was passed to this thread when it had no use for it any more.
                self._pass_lead()
        return lead

    def _pass_lead(self) -> None:
        for wake in list(self._followers.values()):
            _Waiter.rouse(wake)
            return

    def _lead(self, waiter: _Waiter, wait: float | None, end: float | None) -> None:
        """Read replies until this thread's own has come. The caller has the lead; it is passed on at the end."""
        patience = wait or 0.0
        try:
            while waiter.outcome is None:
                if self.failure is not None:
                    # It failed before this call was among those that wait.
                    waiter.settle(self.failure)
                    return
                self._receive(patience)
                if waiter.outcome is None and end is not None:
                    patience = end - monotonic()
                    if patience <= 0:
                        raise ProviderError(Status.OPERATION_TIMED_OUT)
        finally:
            self._lead_lock.release()
            if self._followers:
                self._pass_lead()

    def _receive(self, patience: float) -> None:
        """Read once, for at most `patience` seconds (0: for ever), and hand out what came."""
        if patience != self._patience:
            self._set_patience(patience)
        try:
            missing = self._reader.missing
            size = _RECEIVE_SIZE if missing <= _RECEIVE_SIZE else min(missing, _RECEIVE_SIZE_MAX)
            descriptors = self.descriptors
            if descriptors is None:
                data = self._socket.recv(size)
            else:
                data, sent, _, _ = socket.recv_fds(self._socket, size, 1, socket.MSG_CMSG_CLOEXEC)
                descriptors.extend(sent)
            if not data:
                raise _lost(None)
            for frame in self._reader.feed(data):
                waiter = self._waiting.get(frame.request_id)
                if waiter is None:
                    self._take_unasked(frame)
                    continue
                if self._followers:
                    self._followers.pop(frame.request_id, None)
                waiter.settle(frame)
        except BlockingIOError:
            return
        except OSError as problem:
            # The kernel resets a connection whose last bytes the other end had not read.
            self._cut_off = isinstance(problem, ConnectionResetError)
            self._fail(_lost(problem))
        except HsmBridgeError as problem:
            self._fail(problem)
        except BaseException:
            # An exception from a signal handler may have taken bytes with it.
            self._fail(ConnectionLost(Status.CONNECTION_LOST))
            raise

    def _set_patience(self, seconds: float) -> None:
        if self._patience and 0 <= self._patience - seconds < _REARM_AFTER and seconds:
            return
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(seconds))
        self._patience = seconds

    def _take_unasked(self, frame: Frame) -> None:
        if frame.request_id == 0 and frame.word:
            raise decode_error(frame)
        row = OPERATIONS.get(frame.opcode)
        if row is None or row.response not in (KeyReply, ContextReply) or frame.word:
            return
        # The reply to a call that gave up waiting: the key or context that it made belongs to nobody.
        reply = decode_reply(frame)
        if isinstance(reply, ContextReply):
            self.contexts_left.append(reply.context)
        if isinstance(reply, KeyReply) and reply.resource is not None:
            self.released.append(reply.resource)

    def _fail(self, failure: HsmBridgeError) -> HsmBridgeError:
        if self.failure is None:
            self.failure = failure
            with suppress(OSError):  # not connected any more, which is what is wanted
                self._socket.shutdown(socket.SHUT_RDWR)
            for waiter in list(self._waiting.values()):
                waiter.settle(failure)
        return self.failure


class SafeToRepeat(ConnectionLost):
    """The connection is lost, and sending the request on another one does no harm, as when it was not read."""


def _connect(path: Path, timeout: float) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(timeout))
        connection.connect(str(path))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(SEND_TIMEOUT))
    except OSError as problem:
        connection.close()
        raise WireError(Status.DAEMON_UNREACHABLE, _unreachable(path, problem)) from None
    return connection


def _unreachable(path: Path, problem: OSError) -> str:
    if isinstance(problem, PermissionError):
        return f"You may not connect to {path}; ask who runs the daemon to let you (socket_mode)."
    if isinstance(problem, BlockingIOError):
        return f"The daemon at {path} accepts no connection; it may be overloaded or stopped."
    if isinstance(problem, FileNotFoundError | ConnectionRefusedError):
        return f"No daemon answers at {path}; start it with `hsmbridge serve` or name another socket."
    return f"The socket {path} cannot be used: {problem.strerror or problem}."


def _lost(problem: OSError | None) -> ConnectionLost:
    if isinstance(problem, BlockingIOError):
        return ConnectionLost(
            Status.CONNECTION_LOST,
            "The daemon stopped reading; whether the last operation took place is not known.",
        )
    return ConnectionLost(Status.CONNECTION_LOST)


def _copy(failure: HsmBridgeError | None) -> HsmBridgeError:
    # Each thread raises an exception of its own: a traceback belongs to one.
    return (
        ConnectionLost(Status.CONNECTION_LOST)
        if failure is None
        else error(failure.status, failure.message, incident=failure.incident)
    )


def _timeval(seconds: float) -> bytes:
    # As struct timeval; 0 is no timeout, so the least time is one microsecond.
    microseconds = 0 if seconds == 0 else max(1, round(seconds * 1_000_000))
    return struct.pack("@ll", *divmod(microseconds, 1_000_000))
