"""The calling end of a host connection: `HostChannel` without a socket for an event loop, `HostClient` with one.

A channel turns calls into bytes and bytes into answers; who sends, waits and keeps deadlines is its owner's
business. `peer_pidfd` finds the process behind a connection, to be killed when a call of it hangs.
"""

import os
import select
import signal
import socket
import threading
from pathlib import Path
from typing import Final, NamedTuple, Self

from hsmbridge.core import calls
from hsmbridge.core.errors import ConnectionLost, HsmBridgeError, Status, WireError
from hsmbridge.core.peer import peer_credentials
from hsmbridge.providers.host.messages import ATTACH_OPCODE, AttachReply, AttachRequest
from hsmbridge.wire.codec import (
    CALL_OPCODE,
    decode_body,
    decode_call_reply,
    decode_error,
    encode_call,
    encode_message,
)
from hsmbridge.wire.frames import DEFAULT_MAX_FRAME, FRAME_ALLOWANCE, MAX_REQUEST_ID, Frame, FrameReader, body_limit

_READ_SIZE: Final = 64 * 1024


class Answer(NamedTuple):
    """What came back for one call: a reply, or the error that it ended with."""

    request_id: int
    reply: calls.ProviderReply
    failure: HsmBridgeError | None


class HostChannel:
    """One connection's calls under way. Not thread-safe.

    Attributes:
        host: who answers, once the answer to `attach` was fed; key handles are valid for its incarnation only.
    """

    def __init__(self, max_frame: int = DEFAULT_MAX_FRAME) -> None:
        """`max_frame` in bytes, as in the host's specification."""
        self.host: AttachReply | None = None
        self._reader = FrameReader(body_limit(max_frame) + FRAME_ALLOWANCE, replies=True)
        self._calls: dict[int, type[calls.ProviderCall]] = {}
        self._last_id = 0

    @property
    def under_way(self) -> int:
        """How many calls wait for their answers."""
        return len(self._calls)

    def attach(self, client: str = "") -> bytes:
        """What to send first. Calls may follow at once, without waiting for the answer."""
        return encode_message(ATTACH_OPCODE, 0, AttachRequest(client))

    def call(self, call: calls.ProviderCall, deadline_ms: int = 0) -> tuple[int, bytes]:
        """A request id, and the bytes to send."""
        request_id = self._last_id = self._last_id % MAX_REQUEST_ID + 1
        data = encode_call(request_id, call, deadline_ms)
        self._calls[request_id] = type(call)
        return request_id, data

    def feed(self, data: bytes) -> list[Answer]:
        """The answers that `data` completes. Raises WireError where the connection must be closed."""
        answers = []
        take = self._calls.pop
        for frame in self._reader.feed(data):
            call = take(frame.request_id, None)
            if call is None or frame.opcode != CALL_OPCODE:
                self._attached(frame)
            elif frame.word:
                answers.append(Answer(frame.request_id, None, decode_error(frame)))
            else:
                answers.append(Answer(frame.request_id, decode_call_reply(call, frame.body), None))
        return answers

    def lost(self) -> list[int]:
        """The request ids that will have no answer, for the connection has ended."""
        unanswered = list(self._calls)
        self._calls.clear()
        return unanswered

    def _attached(self, frame: Frame) -> None:
        if self.host is not None or frame.opcode != ATTACH_OPCODE:
            raise WireError(Status.MALFORMED_FRAME, "The provider's host answered what it was not asked.")
        if frame.word:
            raise decode_error(frame)
        self.host = decode_body(AttachReply, frame.body)


class HostClient:
    """A blocking connection; its calls are made one at a time, from any thread."""

    def __init__(self, path: Path, *, max_frame: int = DEFAULT_MAX_FRAME, timeout: float | None = None) -> None:
        """Connect and attach.

        Args:
            path: of the host's socket.
            max_frame: in bytes, as in the host's specification.
            timeout: seconds that an answer may take, None for ever.

        Raises:
            ConnectionLost: nobody listens there, or the host went away.
        """
        self._channel = HostChannel(max_frame)
        self._lock = threading.Lock()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout)
        try:
            self._socket.connect(os.fspath(path))
            self._socket.sendall(self._channel.attach("client"))
            while self._channel.host is None:
                self._receive()
        except OSError as problem:
            self._socket.close()
            raise _gone(problem) from problem
        except BaseException:
            self._socket.close()
            raise
        self.host: AttachReply = self._channel.host

    def call(self, call: calls.ProviderCall, deadline_ms: int = 0) -> calls.ProviderReply:
        """Do one call. Raises what the provider raises, or ConnectionLost."""
        with self._lock:
            try:
                _, data = self._channel.call(call, deadline_ms)
                self._socket.sendall(data)
                while not (answers := self._receive()):
                    pass
            except OSError as problem:
                self._socket.close()
                raise _gone(problem) from problem
        _, reply, failure = answers[0]
        if failure is not None:
            raise failure
        return reply

    def fileno(self) -> int:
        """The socket's file descriptor, for `peer_pidfd`."""
        return self._socket.fileno()

    def close(self) -> None:
        """End the connection."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _receive(self) -> list[Answer]:
        data = self._socket.recv(_READ_SIZE)
        if not data:
            raise ConnectionResetError
        return self._channel.feed(data)


def peer_pidfd(fd: int) -> int:
    """A pidfd of the process that serves a connected unix socket. Raises ProcessLookupError where it has ended.

    The process id comes from the kernel. As the connection is still up after the pidfd was opened, the process has
    lived all the time, and the id cannot have passed to another.
    """
    with socket.socket(fileno=os.dup(fd)) as connection:
        pidfd = os.pidfd_open(peer_credentials(connection).pid)
    poll = select.poll()
    poll.register(fd, select.POLLRDHUP)
    if poll.poll(0):
        os.close(pidfd)
        raise ProcessLookupError
    return pidfd


def kill_host(fd: int) -> None:
    """Kill the process that serves a connected unix socket; one that has ended already is fine."""
    try:
        pidfd = peer_pidfd(fd)
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        pass
    finally:
        os.close(pidfd)


def _gone(problem: OSError) -> ConnectionLost:
    if isinstance(problem, TimeoutError):
        return ConnectionLost(Status.CONNECTION_LOST, "The provider's process did not answer in time.")
    return ConnectionLost(Status.CONNECTION_LOST, "The provider's process is not there.", origin=str(problem))
