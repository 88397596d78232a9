"""The SSH agent front end on the event loop: a unix stream socket, any number of connections.

It knows the wire, the loop and who the peer is; what a message means is the business of `agent`, and what it comes to
the service's. Each connection has one message under way at a time, as replies carry no number: they go out in the
order of the messages. Everything of a connection happens on the loop's thread.
"""

import asyncio
import socket
import threading
from collections import deque
from collections.abc import Callable
from typing import cast

import msgspec
import structlog

from hsmbridge.core.errors import HsmBridgeError, RequestError, Status, WireError
from hsmbridge.core.identifiers import new_incident_id
from hsmbridge.core.operations import OPERATION_FOR
from hsmbridge.engine.runner import Runner
from hsmbridge.frontends.admission import Admission
from hsmbridge.frontends.asking import Asking
from hsmbridge.frontends.peer import principal_of
from hsmbridge.frontends.ssh_agent.agent import Agent
from hsmbridge.frontends.ssh_agent.identities import Identities
from hsmbridge.frontends.ssh_agent.settings import SshAgentSettings
from hsmbridge.service.dispatcher import Dispatcher
from hsmbridge.service.session import Session
from hsmbridge.wire.ssh_agent import FAILURE, MessageReader, decode_request

MESSAGE_TIMEOUT = 30.0
"""Seconds from the first byte of a message to the last; between messages a client may be silent for ever."""

MESSAGES_A_TURN = 64
"""Messages taken from one connection before the others have their turn."""

_log = structlog.get_logger(__name__)


class SshAgentFrontEnd(Admission["SshAgentConnection"]):
    """Makes and counts connections."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        dispatcher: Dispatcher,
        runner: Runner,
        settings: SshAgentSettings,
        *,
        stamp: Callable[[], bytes],
        watch_deadlines: Callable[[], None],
    ) -> None:
        """Prepare to take connections.

        Args:
            loop: the event loop that it lives on.
            dispatcher: what requests mean.
            runner: what carries them out.
            settings: what the configuration says.
            stamp: a value that differs after any change of the store.
            watch_deadlines: has somebody look at deadlines as long as operations wait.
        """
        self.loop = loop
        self.dispatcher = dispatcher
        self.runner = runner
        self.settings = settings
        self.identities = Identities(settings.slots, stamp, loop.time)
        self.watch_deadlines = watch_deadlines
        self.thread = threading.get_ident()
        super().__init__(settings.max_connections, settings.max_connections_per_principal)

    def connection(self) -> "SshAgentConnection":
        """A protocol for one new connection."""
        return SshAgentConnection(self)


class SshAgentConnection(asyncio.Protocol):
    """One client."""

    def __init__(self, front_end: SshAgentFrontEnd) -> None:
        self._front_end = front_end
        self._reader = MessageReader()
        self._session: Session | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._held: deque[bytes] = deque()
        self._running: Asking[bytes] | None = None
        self._taking = False
        self._paused = False
        self._writable = True
        self._ended = False
        self._finishing = False

    # Of the protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Learn who the peer is from the kernel, and count it in."""
        self._transport = cast(asyncio.Transport, transport)  # a stream's; uvloop's own class is not a subclass
        peer: socket.socket = transport.get_extra_info("socket")
        self._principal = principal_of(peer)
        front_end = self._front_end
        try:
            front_end.admit(self, self._principal)
        except HsmBridgeError as refusal:
            front_end.tell_refused(self._principal, refusal)
            self._ended = True
            self._transport.abort()
            return
        self._session = front_end.dispatcher.open(self._principal)
        self._agent = Agent(self._principal, front_end.identities, forwarding=front_end.settings.forwarding)

    def connection_lost(self, exc: Exception | None) -> None:
        """Free everything that belongs to the connection."""
        self._ended = True
        self._cancel_timer()
        self._held.clear()
        self._front_end.leave(self, self._principal)
        if self._session is not None:
            session, self._session = self._session, None
            self._front_end.dispatcher.close(session)

    def pause_writing(self) -> None:
        """The peer does not take its replies; its further messages wait."""
        self._writable = False

    def resume_writing(self) -> None:
        """It takes them again."""
        self._writable = True
        self._take()

    def data_received(self, data: bytes) -> None:
        """Take messages; a stream that is not this protocol ends its connection, and nothing else."""
        if self._ended or self._finishing:
            return
        try:
            messages = self._reader.feed(data)
        except WireError as problem:
            self._drop(problem)
            return
        self._held.extend(messages)
        if messages or not self._reader.unfinished:
            self._cancel_timer()
        if self._reader.unfinished and self._timer is None:
            self._timer = self._front_end.loop.call_later(MESSAGE_TIMEOUT, self._overdue)
        self._take()

    def finish(self) -> None:
        """Take no further messages, and close when the one under way is answered."""
        self._finishing = True
        self._held.clear()
        self._cancel_timer()
        if not self._transport.is_closing():
            self._transport.pause_reading()
        self._close_when_done()

    # Taking messages, one after the other

    def _take(self) -> None:
        if self._taking:
            return
        self._taking = True
        taken = 0
        try:
            while self._held and self._running is None and self._may_take() and taken < MESSAGES_A_TURN:
                taken += 1
                self._begin(self._held.popleft())
        finally:
            self._taking = False
        if taken == MESSAGES_A_TURN and self._held:
            self._front_end.loop.call_soon(self._take)
        self._regulate()

    def _may_take(self) -> bool:
        return self._writable and not self._ended and not self._finishing

    def _begin(self, message: bytes) -> None:
        try:
            request = decode_request(message)
        except WireError as problem:
            _log.debug("a message could not be read", principal=self._principal, reason=problem.message)
            self._transport.write(FAILURE)
            return
        self._running = self._agent.answer(request)
        self._advance(self._running, None, None)

    def _advance(self, answer: Asking[bytes], reply: msgspec.Struct | None, failure: HsmBridgeError | None) -> None:
        """Go on with a message until it asks the service or ends."""
        if self._ended:
            answer.close()
            self._running = None
            return
        try:
            if failure is not None:
                request = answer.throw(failure)
            elif reply is not None:
                request = answer.send(reply)
            else:
                request = next(answer)
        except StopIteration as stop:
            self._end(stop.value)
        except HsmBridgeError as problem:
            _log.debug("a message was refused", principal=self._principal, status=problem.status.name)
            self._end(FAILURE)
        except Exception:  # noqa: BLE001 - the outermost boundary of a message: a fault of ours, told under an id
            _log.exception("a message failed unexpectedly", incident=new_incident_id())
            self._end(FAILURE)
        else:
            self._ask(answer, request)

    def _ask(self, answer: Asking[bytes], request: msgspec.Struct) -> None:
        front_end = self._front_end
        session = self._session
        operation = OPERATION_FOR.get(type(request))
        if session is None or operation is None:
            self._advance(answer, None, RequestError(Status.INTERNAL))
            return

        def done(reply: msgspec.Struct | None, failure: HsmBridgeError | None) -> None:
            if threading.get_ident() == front_end.thread:
                self._advance(answer, reply, failure)
            else:
                front_end.loop.call_soon_threadsafe(self._advance, answer, reply, failure)

        deadline = front_end.runner.deadline(int(front_end.settings.timeout * 1000))
        front_end.dispatcher.dispatch(session, operation, request, deadline, done, None)
        front_end.watch_deadlines()

    def _end(self, reply: bytes) -> None:
        self._running = None
        if not self._transport.is_closing():
            self._transport.write(reply)
        if self._finishing:
            self._close_when_done()
        else:
            self._take()

    # Ending and waiting

    def _regulate(self) -> None:
        """Read as long as there is nothing that waits to be taken."""
        if self._ended or self._finishing or self._transport.is_closing():
            return
        if self._held and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        elif not self._held and self._paused:
            self._paused = False
            self._transport.resume_reading()

    def _close_when_done(self) -> None:
        if self._running is None and not self._transport.is_closing():
            self._transport.close()

    def _drop(self, problem: WireError) -> None:
        self._front_end.tell_dropped(self._principal, problem)
        self._ended = True
        self._cancel_timer()
        self._transport.close()

    def _overdue(self) -> None:
        self._timer = None
        if self._paused:  # it is we who do not read
            self._timer = self._front_end.loop.call_later(MESSAGE_TIMEOUT, self._overdue)
        else:
            self._drop(WireError(Status.MALFORMED_FRAME, "A message was begun and not finished."))

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
