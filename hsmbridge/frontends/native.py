"""The native front end: frames on a unix stream socket, many requests under way on each connection.

It knows the wire, the loop and who the peer is; what a request means is the dispatcher's business. Requests
run where the runner takes them and replies leave from whatever thread has them.
"""

import asyncio
import os
import socket
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import msgspec
import structlog

from hsmbridge.core.errors import HsmBridgeError, LimitError, Status
from hsmbridge.core.identifiers import uid_principal
from hsmbridge.core.messages import HelloReply
from hsmbridge.core.operations import HELLO_OPCODE
from hsmbridge.engine.runner import Runner
from hsmbridge.frontends.outbox import Outbox
from hsmbridge.service.dispatcher import Dispatcher, Outcome
from hsmbridge.service.session import Session
from hsmbridge.wire.codec import (
    decode_batch,
    decode_request,
    encode_batch_reply,
    encode_error,
    encode_reply,
)
from hsmbridge.wire.frames import BATCH, Frame, FrameReader, body_limit
from hsmbridge.wire.hello import negotiate, read_hello

EXPIRY_INTERVAL = 0.02
"""Seconds between looks at the deadlines of waiting operations."""

HELLO_TIMEOUT = 10.0
"""Seconds that a new connection has to say hello."""

INLINE_BATCH = 4
"""A longer batch leaves the event loop, so that it holds nobody up."""

_PEER_CREDENTIALS = struct.Struct("3i")
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one daemon process grants; sizes in bytes, times in seconds."""

    max_frame: int
    max_connections: int
    max_connections_per_principal: int
    max_in_flight: int
    default_timeout: float


class NativeFrontEnd:
    """Makes and counts connections."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        dispatcher: Dispatcher,
        runner: Runner,
        limits: Limits,
        *,
        elsewhere: Callable[[Callable[[], None]], None],
        connections_changed: Callable[[int], None],
        daemon: str,
    ) -> None:
        """Prepare to take connections.

        Args:
            loop: the event loop that it lives on.
            dispatcher: what requests mean.
            runner: what carries them out.
            limits: what is granted.
            elsewhere: runs long batches off the loop.
            connections_changed: told the number of connections whenever it changes.
            daemon: the daemon's version.
        """
        self._connections_changed = connections_changed
        self.loop = loop
        self.dispatcher = dispatcher
        self.runner = runner
        self.limits = limits
        self.elsewhere = elsewhere
        self.daemon = daemon
        self.connections: set[NativeConnection] = set()
        self._per_principal: Counter[str] = Counter()
        self._expiring = False
        self._left = asyncio.Event()

    def connection(self) -> "NativeConnection":
        """A protocol for one new connection."""
        return NativeConnection(self)

    def admit(self, connection: "NativeConnection", principal: str) -> None:
        """Count a connection in. Raises LimitError (TOO_MANY_CONNECTIONS)."""
        if len(self.connections) >= self.limits.max_connections:
            raise LimitError(Status.TOO_MANY_CONNECTIONS, "The daemon has as many connections as it takes; try later.")
        if self._per_principal[principal] >= self.limits.max_connections_per_principal:
            raise LimitError(
                Status.TOO_MANY_CONNECTIONS,
                f"You have {self._per_principal[principal]} connections, as many as one user may; close some.",
            )
        self.connections.add(connection)
        self._per_principal[principal] += 1
        self._connections_changed(len(self.connections))

    def leave(self, connection: "NativeConnection", principal: str) -> None:
        """Count a connection out."""
        if connection in self.connections:
            self.connections.discard(connection)
            self._left.set()
            self._per_principal[principal] -= 1
            if not self._per_principal[principal]:
                del self._per_principal[principal]
            self._connections_changed(len(self.connections))

    def watch_deadlines(self) -> None:
        """Look at deadlines regularly from now on until nothing waits."""
        if not self._expiring and self.runner.waiting:
            self._expiring = True
            self.loop.call_later(EXPIRY_INTERVAL, self._expire)

    def _expire(self) -> None:
        self.runner.expire()
        self._expiring = False
        self.watch_deadlines()

    async def drain(self) -> None:
        """Take no further requests, answer those under way, and close every connection."""
        for connection in tuple(self.connections):
            connection.finish()
        while self.connections:
            self._left.clear()
            await self._left.wait()


class NativeConnection(asyncio.Protocol):
    """One client."""

    def __init__(self, front_end: NativeFrontEnd) -> None:
        self._front_end = front_end
        self._reader = FrameReader(body_limit(front_end.limits.max_frame))
        self._session: Session | None = None
        self._greeted = False
        self._hello_timer: asyncio.TimerHandle | None = None
        self.in_flight: set[int] = set()
        self._paused = False
        self._failed = False
        self._finishing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Learn who the peer is from the kernel, and count it in."""
        self._transport = cast(asyncio.Transport, transport)  # a stream's; uvloop's own class is not a subclass
        peer: socket.socket = transport.get_extra_info("socket")
        credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size)
        _, uid, _ = _PEER_CREDENTIALS.unpack(credentials)
        self._principal = uid_principal(uid)
        self._outbox = Outbox(self._front_end.loop, socket.socket(fileno=os.dup(peer.fileno())), self._transport.close)
        try:
            self._front_end.admit(self, self._principal)
        except HsmBridgeError as refusal:
            self._refuse(0, HELLO_OPCODE, refusal)
            return
        self._session = self._front_end.dispatcher.open(self._principal)
        self._hello_timer = self._front_end.loop.call_later(HELLO_TIMEOUT, self.shut)

    def connection_lost(self, exc: Exception | None) -> None:
        """Free everything that belongs to the connection."""
        if self._hello_timer is not None:
            self._hello_timer.cancel()
        self._outbox.close()
        self._front_end.leave(self, self._principal)
        if self._session is not None:
            self._front_end.runner.run(self._front_end.dispatcher.close(self._session), None, _closed)

    def data_received(self, data: bytes) -> None:
        """Take requests; a stream that is no stream of frames is answered once and closed."""
        if self._failed:
            return
        try:
            for frame in self._reader.feed(data):
                self._take(frame)
        except HsmBridgeError as problem:
            self._refuse(0, HELLO_OPCODE, problem)
        self._front_end.watch_deadlines()

    def finish(self) -> None:
        """Take no further requests, and close when those under way are answered."""
        self._finishing = True
        self._pause_reading()
        if not self.in_flight:
            self.shut()

    def shut(self) -> None:
        """Close after what is queued was sent."""
        self._failed = True
        self._outbox.close_when_sent()

    def _refuse(self, request_id: int, opcode: int, problem: HsmBridgeError) -> None:
        _log.info("connection refused", principal=self._principal, status=problem.status.name)
        self._outbox.send(encode_error(request_id, opcode, problem))
        self.shut()

    def _take(self, frame: Frame) -> None:
        session = self._session
        if session is None or self._failed:
            return
        if not self._greeted:
            self._greet(frame)
            return
        request_id, opcode = frame.request_id, frame.opcode
        if request_id in self.in_flight:
            self._refuse(
                request_id, opcode, LimitError(Status.MALFORMED_FRAME, "Two requests under way have the same id.")
            )
            return
        front_end = self._front_end
        deadline = front_end.runner.deadline(frame.word)
        self._begin(request_id)
        try:
            if frame.flags & BATCH:
                self._run_batch(session, frame, deadline)
                return
            operation, request = decode_request(frame)
        except HsmBridgeError as problem:
            self._reply(request_id, encode_error(request_id, opcode, problem))
            return

        def done(reply: msgspec.Struct | None, failure: HsmBridgeError | None) -> None:
            if failure is None and reply is not None:
                self._reply(request_id, encode_reply(request_id, opcode, reply))
            elif failure is not None:
                self._reply(request_id, encode_error(request_id, opcode, failure))

        front_end.runner.run(front_end.dispatcher.steps(session, operation, request), deadline, done)

    def _run_batch(self, session: Session, frame: Frame, deadline: float | None) -> None:
        front_end = self._front_end
        request_id, opcode = frame.request_id, frame.opcode
        operation, requests = decode_batch(frame)
        steps = front_end.dispatcher.batch(session, operation, requests, deadline)

        def done(outcomes: list[Outcome] | None, failure: HsmBridgeError | None) -> None:
            if failure is None and outcomes is not None:
                self._reply(request_id, encode_batch_reply(request_id, opcode, outcomes))
            elif failure is not None:
                self._reply(request_id, encode_error(request_id, opcode, failure))

        if len(requests) <= INLINE_BATCH:
            front_end.runner.run(steps, deadline, done)
        else:
            front_end.elsewhere(lambda: front_end.runner.run(steps, deadline, done))

    def _greet(self, frame: Frame) -> None:
        try:
            version = negotiate(read_hello(frame))
        except HsmBridgeError as problem:
            self._refuse(frame.request_id, HELLO_OPCODE, problem)
            return
        self._greeted = True
        if self._hello_timer is not None:
            self._hello_timer.cancel()
        limits = self._front_end.limits
        reply = HelloReply(
            version, self._front_end.daemon, self._principal, limits.max_frame, int(limits.default_timeout * 1000)
        )
        self._outbox.send(encode_reply(frame.request_id, HELLO_OPCODE, reply))

    def _begin(self, request_id: int) -> None:
        self.in_flight.add(request_id)
        if len(self.in_flight) >= self._front_end.limits.max_in_flight and not self._paused:
            self._paused = True
            self._pause_reading()

    def _reply(self, request_id: int, frame: bytes) -> None:
        """Answer, from any thread."""
        self.in_flight.discard(request_id)
        self._outbox.send(frame)
        if self._finishing and not self.in_flight:
            self._front_end.loop.call_soon_threadsafe(self.shut)
        elif self._paused and len(self.in_flight) < self._front_end.limits.max_in_flight // 2:
            self._front_end.loop.call_soon_threadsafe(self._resume_reading)

    def _pause_reading(self) -> None:
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        if self._paused and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()


def _closed(_: None, failure: HsmBridgeError | None) -> None:
    if failure is not None:
        _log.warning("a closed connection left something behind", status=failure.status.name)
