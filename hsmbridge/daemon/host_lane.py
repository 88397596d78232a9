"""The lane to a provider host: several connections driven by the event loop itself, with no thread between.

Each connection is one thread of the host. A call goes to an idle connection if there is one, else behind a short
call that is under way, else it waits here. A call that passes its deadline while the host works on it takes the
host down: a hung vendor module cannot be stopped in any other way, and the supervisor starts a fresh host.
"""

import asyncio
import os
import signal
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable
from typing import cast

import structlog

from hsmbridge.core import calls
from hsmbridge.core.errors import HsmBridgeError, ProviderError, Status
from hsmbridge.engine.lanes import Ticket
from hsmbridge.frontends.outbox import Outbox
from hsmbridge.providers.host.messages import ATTACH_OPCODE, AttachReply, AttachRequest
from hsmbridge.wire.codec import decode_body, decode_call_reply, decode_error, encode_call, encode_message
from hsmbridge.wire.frames import Frame, FrameReader

PIPELINE_DEPTH = 2
"""Calls on one connection: one that the host works on, one that is there when it is done."""

_LONG = frozenset({calls.GenerateCall, calls.ListCall, calls.DescribeCall, calls.LoadCall, calls.DestroyCall})
_PEER_CREDENTIALS = struct.Struct("3i")
_log = structlog.get_logger(__name__)


class HostLane:
    """Calls to one provider host. Everything but `submit` and `inline` happens on the loop."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, name: str, *, connections: int, max_body: int, count: Callable[[], None]
    ) -> None:
        """Args: the loop, the provider's instance name, how many connections, the longest frame, and a counter."""
        self.name = name
        self.reason: HsmBridgeError | None = ProviderError(
            Status.PROVIDER_UNAVAILABLE, f"Provider {name} is starting; try again shortly."
        )
        self._loop = loop
        self._loop_thread = threading.get_ident()
        self._wanted = connections
        self._max_body = max_body
        self._count = count
        self._connections: list[_HostConnection] = []
        self._queue: deque[Ticket] = deque()

    def inline(self, call: calls.ProviderCall) -> bool:
        return False

    def perform(self, call: calls.ProviderCall) -> calls.ProviderReply:
        raise ProviderError(Status.PROVIDER_FAILED, origin=f"{self.name}: {type(call).__name__} is never inline")

    def submit(self, ticket: Ticket) -> None:
        if threading.get_ident() == self._loop_thread:
            self._place(ticket)
        else:
            self._loop.call_soon_threadsafe(self._place, ticket)

    def give_up(self, ticket: Ticket) -> None:
        for connection in self._connections:
            if connection.works_on(ticket):
                _log.warning("provider host hangs and is replaced", provider=self.name, call=type(ticket.call).__name__)
                connection.kill_host()
                return
        ticket.cancelled = True

    async def open(self, path: str) -> None:
        """Connect to a host that is ready. Raises OSError or HsmBridgeError, leaving the lane closed."""
        opened: list[_HostConnection] = []
        try:
            for _ in range(self._wanted):
                _, connection = await self._loop.create_unix_connection(lambda: _HostConnection(self), path)
                opened.append(connection)
                await connection.attached
        except (OSError, HsmBridgeError):
            for connection in opened:
                connection.abandon()
            raise
        self._connections = opened
        self.reason = None
        self._refill()

    def close(self, reason: HsmBridgeError) -> None:
        """The host is gone; whatever waits is told why."""
        self.reason = reason
        connections, self._connections = self._connections, []
        for connection in connections:
            connection.abandon()
        waiting, self._queue = self._queue, deque()
        for ticket in waiting:
            if not ticket.cancelled:
                ticket.resume(None, reason)

    def lost(self, connection: "_HostConnection") -> None:
        """A connection ended by itself: its host died."""
        if connection in self._connections:
            self.close(
                ProviderError(
                    Status.PROVIDER_UNAVAILABLE,
                    f"Provider {self.name} stopped and is being restarted; try again shortly.",
                )
            )

    def _place(self, ticket: Ticket) -> None:
        if self.reason is not None:
            ticket.resume(None, self.reason)
            return
        connection = self._idlest()
        if connection is None:
            self._queue.append(ticket)
        else:
            self._send(connection, ticket)

    def _idlest(self) -> "_HostConnection | None":
        found = None
        for connection in self._connections:
            if not connection.under_way:
                return connection
            if connection.takes_another() and found is None:
                found = connection
        return found

    def _send(self, connection: "_HostConnection", ticket: Ticket) -> None:
        self._count()
        connection.send(ticket)

    def _refill(self) -> None:
        while self._queue and (connection := self._idlest()) is not None:
            ticket = self._queue.popleft()
            if not ticket.cancelled:
                self._send(connection, ticket)

    def answered(self) -> None:
        """A connection has room; called before the answer is passed on, so that the host never waits for us."""
        if self._queue:
            self._refill()


class _HostConnection(asyncio.Protocol):
    """One connection, which is one thread of the host."""

    def __init__(self, lane: HostLane) -> None:
        self._lane = lane
        self._reader = FrameReader(lane._max_body, replies=True)  # noqa: SLF001 - the lane's other half
        self._loop = lane._loop  # noqa: SLF001 - likewise
        self._next_id = 1
        self._pidfd = -1
        self._abandoned = False
        self._long_calls = 0
        self.under_way: dict[int, Ticket] = {}
        self.attached: asyncio.Future[AttachReply] = self._loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # a stream's; uvloop's own class is not a subclass
        peer: socket.socket = transport.get_extra_info("socket")
        pid, _, _ = _PEER_CREDENTIALS.unpack(
            peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size)
        )
        self._outbox = Outbox(self._loop, socket.socket(fileno=os.dup(peer.fileno())), self._transport.abort)
        try:
            self._pidfd = os.pidfd_open(pid)
        except OSError:  # it died between connecting and now; the end of the connection follows
            self._pidfd = -1
        self._outbox.send(encode_message(ATTACH_OPCODE, 0, AttachRequest("daemon")))

    def connection_lost(self, exc: Exception | None) -> None:
        failure = ProviderError(
            Status.PROVIDER_UNAVAILABLE,
            f"Provider {self._lane.name} stopped during the call and is being restarted.",
            origin=repr(exc),
        )
        self._outbox.close()
        self._forget_host()
        self._lane.lost(self)
        if not self.attached.done():
            self.attached.set_exception(failure)
        under_way, self.under_way = self.under_way, {}
        for ticket in under_way.values():
            ticket.resume(None, failure)

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._reader.feed(data):
                self._take(frame)
        except HsmBridgeError as problem:
            _log.error("a provider host sent what cannot be read", provider=self._lane.name, problem=problem.message)
            self.kill_host()

    def takes_another(self) -> bool:
        """Whether a call may wait behind the one under way: only behind a short one."""
        return self._long_calls == 0 and len(self.under_way) < PIPELINE_DEPTH

    def works_on(self, ticket: Ticket) -> bool:
        """Whether this call is the one that the host has in hand (dicts keep the order of sending)."""
        return next(iter(self.under_way.values()), None) is ticket

    def send(self, ticket: Ticket) -> None:
        """Send a call."""
        request_id = self._next_id
        self._next_id = request_id % 0xFFFF_FFFF + 1
        self.under_way[request_id] = ticket
        self._long_calls += type(ticket.call) in _LONG
        try:
            self._outbox.send(encode_call(request_id, ticket.call))
        except HsmBridgeError as problem:
            del self.under_way[request_id]
            self._long_calls -= type(ticket.call) in _LONG
            ticket.resume(None, problem)

    def kill_host(self) -> None:
        """Kill the host process at once; by pidfd, so that never another process is hit."""
        if self._pidfd >= 0:
            try:
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            except ProcessLookupError:
                return

    def abandon(self) -> None:
        """Close; calls under way are answered by `connection_lost`."""
        self._transport.abort()

    def _take(self, frame: Frame) -> None:
        if not self.attached.done():
            if frame.word:
                self.attached.set_exception(decode_error(frame))
            else:
                self.attached.set_result(decode_body(AttachReply, frame.body))
            return
        ticket = self.under_way.pop(frame.request_id, None)
        if ticket is None:
            return
        self._long_calls -= type(ticket.call) in _LONG
        self._lane.answered()
        try:
            reply = decode_error(frame) if frame.word else decode_call_reply(type(ticket.call), frame.body)
        except HsmBridgeError as problem:
            ticket.resume(None, problem)
            return
        if isinstance(reply, HsmBridgeError):
            ticket.resume(None, reply)
        else:
            ticket.resume(reply, None)

    def _forget_host(self) -> None:
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
