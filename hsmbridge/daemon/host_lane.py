"""The lane to a provider host: several connections driven by the event loop itself, with no thread between.

Each connection is one thread of the host. A call goes to an idle connection if there is one, else it waits here;
signatures by one key that wait go to the host together, as one call. A call that was given up, and that the host still
has in hand after it had fair time for it, takes the host down: a hung vendor module cannot be stopped in any other way,
and the supervisor starts a fresh host.
"""

import asyncio
import os
import secrets
import signal
import socket
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import cast

import structlog

from hsmbridge.core import calls
from hsmbridge.core.errors import HsmBridgeError, ProviderError, Status
from hsmbridge.engine.lanes import HANG_PATIENCE, Ticket
from hsmbridge.frontends.outbox import Outbox
from hsmbridge.providers.host.connection import peer_pidfd
from hsmbridge.providers.host.messages import ATTACH_OPCODE, AttachReply, AttachRequest
from hsmbridge.wire.codec import decode_body, decode_call_reply, decode_error, encode_call, encode_message
from hsmbridge.wire.frames import Frame, FrameReader

MAKING_PATIENCE = 60.0
"""Seconds of patience while the host makes a key: RSA takes a TPM tens of seconds, and other calls wait behind it."""

ATTACH_TIMEOUT = 30.0
"""Seconds that a host has to greet; one that takes connections and says nothing hangs."""

TOGETHER = 8
"""Signatures by one key that go to the host as one call where many calls wait."""

_LONG = frozenset({calls.GenerateCall, calls.ListCall, calls.DescribeCall, calls.LoadCall, calls.DestroyCall})
_log = structlog.get_logger(__name__)


class HostLane:
    """Calls to one provider host. Everything but `submit` and `inline` happens on the loop."""

    local = False

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        name: str,
        *,
        connections: int,
        max_body: int,
        count: Callable[[], None],
        patience: float = HANG_PATIENCE,
    ) -> None:
        """Prepare; `open` connects. To be made on the loop's own thread.

        Args:
            loop: the event loop that it lives on.
            name: the provider's instance name.
            connections: how many calls the host may work on at once.
            max_body: the longest body of a reply, in bytes.
            count: called once for every call that is sent.
            patience: seconds that the host has for a call, whatever its deadline.
        """
        self.name = name
        self.reason: HsmBridgeError | None = ProviderError(
            Status.PROVIDER_UNAVAILABLE, f"Provider {name} is starting; try again shortly."
        )
        self.max_body = max_body
        # The host closes what this process had open there once its last connection has ended.
        self.client = f"daemon {secrets.token_hex(8)}"
        self.loop = loop
        self._loop_thread = threading.get_ident()
        self._wanted = connections
        # A host with one thread is given its next call in advance; several threads keep it busy by themselves.
        self.depth = 2 if connections == 1 else 1
        self._count = count
        self._patience = patience
        self._connections: list[_HostConnection] = []
        self._queue: deque[Ticket] = deque()
        self._refills = False
        self._closed = asyncio.Event()

    def inline(self, call: calls.ProviderCall) -> bool:
        return False

    def perform(self, call: calls.ProviderCall) -> calls.ProviderReply:
        raise ProviderError(Status.PROVIDER_FAILED, origin=f"{self.name}: {type(call).__name__} is never inline")

    def submit(self, ticket: Ticket) -> None:
        reason = self.reason
        if reason is not None:
            raise _again(reason)
        if threading.get_ident() == self._loop_thread:
            self._place(ticket)
        else:
            self.loop.call_soon_threadsafe(self._place, ticket)

    def give_up(self, ticket: Ticket) -> None:
        ticket.cancelled = True
        for connection in self._connections:
            in_hand = connection.in_hand()
            if in_hand is not None and in_hand.carries(ticket):
                # Its own time began with the call that it is part of.
                self.watch(connection, in_hand)
                return

    def watch(self, connection: "_HostConnection", ticket: Ticket) -> None:
        """Nobody waits any more for the call that the host has in hand: see that it ends in fair time."""
        connection.late = True
        patience = ticket.begun + self._patience_now() - self.loop.time()
        self.loop.call_later(max(0.0, patience), self._kill_if_still, connection, ticket)

    async def open(self, path: str) -> None:
        """Connect to a host that is ready. Raises OSError or HsmBridgeError, leaving the lane as it was."""
        opened: list[_HostConnection] = []
        try:
            for _ in range(self._wanted):
                _, connection = await self.loop.create_unix_connection(lambda: _HostConnection(self), path)
                opened.append(connection)
                async with asyncio.timeout(ATTACH_TIMEOUT):
                    await connection.attached
            if any(connection.lost for connection in opened):
                raise ConnectionResetError("the host has closed a connection again")
        except BaseException as problem:
            for connection in opened:
                if isinstance(problem, TimeoutError):
                    connection.kill_host()
                connection.abandon()
            raise
        former, self._connections = self._connections, opened
        for connection in former:
            connection.abandon()
        self._closed.clear()
        self.reason = None
        self._refill()

    def close(self, reason: HsmBridgeError) -> None:
        """The host is gone; whatever waits is told why."""
        self.reason = reason
        connections, self._connections = self._connections, []
        self._closed.set()
        for connection in connections:
            connection.abandon()
        waiting, self._queue = self._queue, deque()
        for ticket in waiting:
            if not ticket.cancelled:
                ticket.answer(None, _again(reason))

    async def closed(self) -> None:
        """Return once the lane is not open (any more)."""
        await self._closed.wait()

    def lost(self, connection: "_HostConnection") -> None:
        """A connection ended by itself: its host died."""
        if connection in self._connections:
            self.close(
                ProviderError(
                    Status.PROVIDER_UNAVAILABLE,
                    f"Provider {self.name} stopped and is being restarted; try again shortly.",
                )
            )

    def answered(self) -> None:
        """A connection has room; called before the answer is passed on, so that the host never waits for us."""
        if self._queue and not self._refills:
            self._refills = True
            self.loop.call_soon(self._refill)

    def _place(self, ticket: Ticket) -> None:
        if ticket.cancelled:
            return
        if self.reason is not None:
            ticket.answer(None, _again(self.reason))
            return
        if not any(connection.under_way for connection in self._connections):
            self._send(self._connections[0], ticket)
            return
        # Under load the calls of one round of the loop are looked at together: they may go together.
        self._queue.append(ticket)
        if not self._refills:
            self._refills = True
            self.loop.call_soon(self._refill)

    def _idlest(self) -> "_HostConnection | None":
        found = None
        for connection in self._connections:
            if not connection.under_way:
                return connection
            if found is None and connection.takes_another():
                found = connection
        return found

    def _send(self, connection: "_HostConnection", ticket: Ticket) -> None:
        self._count()
        connection.send(ticket)

    def _refill(self) -> None:
        self._refills = False
        while self._queue and (connection := self._idlest()) is not None:
            ticket = self._queue.popleft()
            if not ticket.cancelled:
                self._send(connection, self._together(ticket))

    def _together(self, first: Ticket) -> Ticket:
        """The next call, with others of its kind where every connection could be given several."""
        most = min(TOGETHER, (len(self._queue) + len(self._connections)) // len(self._connections))
        if most < 2 or type(first.call) is not calls.SignCall or first.apart:
            return first
        tickets = [first]
        while self._queue and len(tickets) < most and _alike(first.call, self._queue[0]):
            tickets.append(self._queue.popleft())
        return first if len(tickets) == 1 else _Together(tickets, self._one_by_one)

    def _one_by_one(self, tickets: "list[Ticket]") -> None:
        """A call for several has failed: each finds out for itself."""
        for ticket in tickets:
            ticket.apart = True
            self._place(ticket)

    def _patience_now(self) -> float:
        making = any(connection.makes_a_key() for connection in self._connections)
        return max(self._patience, MAKING_PATIENCE) if making else self._patience

    def _kill_if_still(self, connection: "_HostConnection", ticket: Ticket) -> None:
        if connection.in_hand() is ticket:
            _log.warning("provider host hangs and is replaced", provider=self.name, call=type(ticket.call).__name__)
            connection.kill_host()


class _Together(Ticket):
    """Signatures by one key as one call; each of them ends by itself."""

    __slots__ = ("_tickets",)

    def __init__(self, tickets: list[Ticket], one_by_one: Callable[[list[Ticket]], None]) -> None:
        first = cast(calls.SignCall, tickets[0].call)
        messages = tuple([cast(calls.SignCall, ticket.call).message for ticket in tickets])
        super().__init__(
            calls.SignManyCall(first.handle, first.algorithm, messages, first.parameters),
            partial(_tell_each, tickets, one_by_one),
        )
        self._tickets = tickets

    def carries(self, ticket: Ticket) -> bool:
        return ticket is self or any(carried.carries(ticket) for carried in self._tickets)

    def given_up(self) -> bool:
        return any(carried.given_up() for carried in self._tickets)


def _tell_each(
    tickets: list[Ticket],
    one_by_one: Callable[[list[Ticket]], None],
    reply: calls.ProviderReply,
    failure: HsmBridgeError | None,
) -> None:
    if isinstance(reply, list) and len(reply) == len(tickets):
        for ticket, signature in zip(tickets, reply, strict=True):
            if not ticket.cancelled:
                ticket.answer(signature, None)
        return
    left = [ticket for ticket in tickets if not ticket.cancelled]
    if failure is not None and failure.status is Status.PROVIDER_UNAVAILABLE:
        for ticket in left:
            ticket.answer(None, _again(failure))
    else:
        one_by_one(left)


def _alike(call: calls.SignCall, other: Ticket) -> bool:
    """Whether two calls differ in their messages only."""
    return (
        type(other.call) is calls.SignCall
        and other.call.handle == call.handle
        and other.call.algorithm == call.algorithm
        and other.call.parameters == call.parameters
        and not (other.cancelled or other.apart)
    )


class _HostConnection(asyncio.Protocol):
    """One connection, which is one thread of the host.

    Attributes:
        under_way: calls by request id, in the order of sending; the first is the one that the host has in hand.
        late: that one was given up, so nothing shall wait behind it.
        lost: the connection has ended.
    """

    def __init__(self, lane: HostLane) -> None:
        self._lane = lane
        self._reader = FrameReader(lane.max_body, replies=True)
        self._next_id = 1
        self._pidfd = -1
        self._long_calls = 0
        self.late = False
        self.lost = False
        self.under_way: dict[int, Ticket] = {}
        self.attached: asyncio.Future[AttachReply] = lane.loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # a stream's; uvloop's own class is not a subclass
        peer: socket.socket = transport.get_extra_info("socket")
        own = os.dup(peer.fileno())
        self._outbox = Outbox(self._lane.loop, socket.socket(fileno=own), self._transport.abort)
        try:
            self._pidfd = peer_pidfd(own)
        except OSError:  # it died just now, or it could not be killed when it hangs
            self._transport.abort()
        self._outbox.send(encode_message(ATTACH_OPCODE, 0, AttachRequest(self._lane.client)))

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
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
            ticket.answer(None, _again(failure))

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._reader.feed(data):
                self._take(frame)
        except HsmBridgeError as problem:
            _log.error("a provider host sent what cannot be read", provider=self._lane.name, problem=problem.message)
            self.kill_host()
            self._transport.abort()

    def takes_another(self) -> bool:
        """Whether a call may wait behind the one under way: only behind a short one that is not late."""
        return self._long_calls == 0 and not self.late and len(self.under_way) < self._lane.depth

    def in_hand(self) -> Ticket | None:
        """The call that the host works on (dicts keep the order of sending)."""
        return next(iter(self.under_way.values()), None)

    def makes_a_key(self) -> bool:
        """Whether the host makes a key for this connection."""
        return any(type(ticket.call) is calls.GenerateCall for ticket in self.under_way.values())

    def send(self, ticket: Ticket) -> None:
        """Send a call."""
        try:
            frame = encode_call(self._next_id, ticket.call)
        except HsmBridgeError as problem:
            ticket.answer(None, problem)
            return
        ticket.begun = self._lane.loop.time()
        self.under_way[self._next_id] = ticket
        self._next_id = self._next_id % 0xFFFF_FFFF + 1
        self._long_calls += type(ticket.call) in _LONG
        self._outbox.send(frame)

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
        self.late = False
        self._long_calls -= type(ticket.call) in _LONG
        if self.under_way:
            self._begin_next()
        self._lane.answered()
        if ticket.cancelled:
            return
        try:
            reply = decode_error(frame) if frame.word else decode_call_reply(type(ticket.call), frame.body)
        except HsmBridgeError as problem:
            ticket.answer(None, problem)
            return
        if isinstance(reply, HsmBridgeError):
            ticket.answer(None, reply)
        else:
            ticket.answer(reply, None)

    def _begin_next(self) -> None:
        """The host takes the next call in hand, which its caller may have given up while it waited."""
        ticket = next(iter(self.under_way.values()))
        ticket.begun = self._lane.loop.time()
        if ticket.given_up():
            self._lane.watch(self, ticket)

    def _forget_host(self) -> None:
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1


def _again(problem: HsmBridgeError) -> HsmBridgeError:
    """The same error as a new object: each raised one collects a traceback, with all that its frames hold."""
    return ProviderError(problem.status, problem.message, incident=problem.incident, origin=problem.origin)
