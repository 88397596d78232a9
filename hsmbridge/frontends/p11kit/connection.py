"""One p11-kit connection on the event loop: one application process.

It knows the wire, the loop and who the peer is; what a call means is the business of `calls`, and what it comes to
the service's. Calls of one connection that wait for the service do so side by side, and their replies go out as they
come; everything of a connection happens on the loop's thread.
"""

import asyncio
import os
import socket
import threading
from collections.abc import Sequence
from time import perf_counter
from typing import TYPE_CHECKING, cast

import msgspec
import structlog

from hsmbridge.core.errors import HsmBridgeError, Status, WireError, error
from hsmbridge.core.identifiers import new_incident_id
from hsmbridge.core.operations import OPERATION_FOR
from hsmbridge.frontends.asking import Answer
from hsmbridge.frontends.outbox import Outbox
from hsmbridge.frontends.p11kit.calls import Calls
from hsmbridge.frontends.p11kit.numbers import Ckr
from hsmbridge.frontends.p11kit.read_ahead import ReadAhead
from hsmbridge.frontends.p11kit.refusals import Refused, ckr_of
from hsmbridge.frontends.p11kit.state import Application
from hsmbridge.frontends.peer import principal_of
from hsmbridge.service.session import Session
from hsmbridge.service.short_way import Prepared
from hsmbridge.wire.attention import Attention
from hsmbridge.wire.p11kit import (
    CallFrame,
    CallReader,
    Result,
    agreed_version,
    decode_call,
    encode_failure,
    encode_result,
)
from hsmbridge.wire.p11kit_calls import Call

if TYPE_CHECKING:
    from hsmbridge.frontends.p11kit.front_end import P11KitFrontEnd

FRAME_TIMEOUT = 30.0
"""Seconds from the first byte of a frame, or from connecting, to the last byte of it."""

FRAMES_A_TURN = 64
"""Calls taken from one connection before the others have their turn."""

ANSWERS_A_TURN = 64
"""Things that one call asks for and is told at once, before the others have their turn."""

BODY_ALLOWANCE = 64 * 1024
"""Bytes of a body beside its data."""

LISTENING_TIME = 60e-6
"""Seconds for the rest of a frame, which comes in up to three pieces, or for the next one, of one that is alone."""

LOOKS = 8
"""Looks at what has come of a frame before the loop waits for the rest; p11-kit's client sends one in three pieces."""

TURN_TIME = 0.005
"""Seconds of answering one application before the loop has a look at everything else."""

LINGER = 10.0
"""Seconds that an application has to take what it is still sent after its connection was dropped."""

MAX_QUEUED = 1024 * 1024
"""Bytes of replies that an application may leave unread before its further calls wait."""

_UNTIMED = frozenset(("C_GenerateKeyPair", "C_GenerateKey"))
"""Calls that take as long as they take: some devices look for primes for minutes."""

_log = structlog.get_logger(__name__)

_Outcome = tuple[msgspec.Struct | None, HsmBridgeError | None]
"""The reply to one thing that a call asks for, or its error."""


class _Running:
    """One call under way; `undoing` where its application is gone."""

    __slots__ = ("answer", "call", "code", "session", "undoing")

    def __init__(self, code: int, call: Call, answer: Answer, session: Session) -> None:
        self.code = code
        self.call = call
        self.answer = answer
        self.session = session
        self.undoing = False


class P11KitConnection(asyncio.Protocol):
    """One application.

    Attributes:
        application: what PKCS#11 keeps for it, once it has said which protocol it speaks.
    """

    def __init__(self, front_end: "P11KitFrontEnd") -> None:
        self._front_end = front_end
        self._reader = CallReader(front_end.settings.max_data + BODY_ALLOWANCE)
        self._session: Session | None = None
        self._calls: Calls | None = None
        self.application: Application | None = None
        self._offered = 0
        self._timer: asyncio.TimerHandle | None = None
        self._begun = 0.0
        self._held: list[CallFrame] = []
        self._running: set[_Running] = set()
        self._attention = Attention(LISTENING_TIME)
        self._listens = False
        self._paused = False
        self._made = False
        self._ended = False
        self._finishing = False

    # Of the protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Learn who the peer is from the kernel, and count it in."""
        self._transport = cast(asyncio.Transport, transport)  # a stream's; uvloop's own class is not a subclass
        peer: socket.socket = transport.get_extra_info("socket")
        self._principal = principal_of(peer)
        try:
            self._socket = socket.socket(fileno=os.dup(peer.fileno()))
        except OSError as problem:
            self._front_end.tell_lost(self._principal, problem)
            self._ended = True
            self._transport.abort()
            return
        self._ahead = ReadAhead(self._socket)
        self._outbox = Outbox(self._front_end.loop, self._socket, self._transport.close, self._relieved)
        self._made = True
        try:
            self._front_end.admit(self, self._principal)
        except HsmBridgeError as refusal:
            self._front_end.tell_refused(self._principal, refusal)
            self._ended = True
            self._transport.abort()
            return
        self._session = self._front_end.dispatcher.open(self._principal)
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        """Free everything that belongs to the connection."""
        self._ended = True
        self._cancel_timer()
        self._held.clear()
        if not self._made:
            return
        self._outbox.close()
        self._front_end.leave(self, self._principal)
        if self._session is not None:
            session, self._session = self._session, None
            self._front_end.dispatcher.close(session)

    def data_received(self, data: bytes) -> None:
        """Take calls; a stream that is not this protocol ends its connection, and nothing else."""
        self._listens = True
        self._hear(data)
        self._listen_on()

    def _listen_on(self) -> None:
        """Stay with an application that is alone with the daemon: the rest of a frame, or its next one, is coming."""
        until = perf_counter() + TURN_TIME
        while self._has_the_turn() and perf_counter() < until:
            more = self._listen()
            if not more:  # nothing, or the end of the stream, which is the transport's to tell
                break
            self._hear(more)
        try:
            self._ahead.take()
        except OSError:  # it would come again from the transport
            self._transport.abort()
        self._listens = False

    def _has_the_turn(self) -> bool:
        gone = self._ended or self._finishing or self._paused
        return not (gone or self._running) and self._front_end.turns.alone()

    def _listen(self) -> bytes | None:
        try:
            return self._attention.listen(self._ahead.look)
        except OSError:  # the transport sees it too
            return None

    def _relieved(self) -> None:
        """The peer has taken all its replies."""
        if self._held:
            self._later()
        else:
            self._regulate()

    def _hear(self, data: bytes) -> None:
        if self._ended or self._finishing:
            return
        reader = self._reader
        try:
            frames = reader.feed(data)
            if self._calls is None:
                self._greet()
            if reader.unfinished and not self._paused:
                frames += self._rest()
        except WireError as problem:
            self._drop(problem)
            return
        if not reader.unfinished:
            self._begun = 0.0
        elif frames or not self._begun:  # each frame has its own time
            self._expect()
        if not frames:
            return
        self._front_end.turns.hear(self, single=len(frames) == 1)
        if self._held:
            self._held += frames
        else:
            self._take(frames)

    def _rest(self) -> list[CallFrame]:
        """What has come by now of a frame that has begun. Its pieces are sent one directly after the other."""
        reader, receive = self._reader, self._ahead.look
        frames: list[CallFrame] = []
        for _ in range(LOOKS):
            try:
                more = receive()
            except BlockingIOError:
                continue
            except OSError:  # the transport sees it too
                break
            if not more:
                break
            frames += reader.feed(more)
            if not reader.unfinished:
                break
        return frames

    def finish(self) -> None:
        """Take no further calls, and close when those under way are answered."""
        self._finishing = True
        self._held.clear()
        if self._made and not self._transport.is_closing():
            self._transport.pause_reading()
        self._cancel_timer()
        self._close_when_done()

    # Taking calls

    def _greet(self) -> None:
        offered = self._reader.offered
        if offered is None:
            return
        front_end = self._front_end
        self._offered = offered
        self.application = Application(
            self._principal, offered, front_end.directory, front_end.settings, front_end.in_use
        )
        self._calls = Calls(self.application)
        self._outbox.send(bytes([agreed_version(offered)]))

    def _take(self, frames: list[CallFrame]) -> None:
        most = self._front_end.settings.max_in_flight
        for place, frame in enumerate(frames):
            if len(self._running) >= most or self._outbox.queued > MAX_QUEUED or place == FRAMES_A_TURN:
                self._held = frames[place:]
                break
            try:
                self._begin(frame)
            except WireError as problem:
                self._drop(problem)
                return
        if self._held and not self._running and self._outbox.queued <= MAX_QUEUED:
            self._later()
        if self._held or self._paused or self._outbox.queued:
            self._regulate()

    def _begin(self, frame: CallFrame) -> None:
        call, arguments = decode_call(frame.body, self._offered)
        calls, session = self._calls, self._session
        if calls is None or session is None:
            return
        try:
            results = calls.at_once(call, arguments)
            if results is not None:
                self._outbox.send(encode_result(frame.code, call, results, self._offered))
                return
            running = _Running(frame.code, call, calls.start(call, arguments), session)
        except Refused as refused:
            self._outbox.send(encode_failure(frame.code, refused.ckr))
            return
        self._advance(running, None, None)

    def _advance(self, running: _Running, reply: msgspec.Struct | None, failure: HsmBridgeError | None) -> None:
        """Go on with a call until it ends or waits; what the service answers at once is not waited for."""
        answer, code, call, session = running.answer, running.code, running.call, running.session
        for _ in range(ANSWERS_A_TURN):
            try:
                request = answer.throw(failure) if failure is not None else _go_on_with(answer, reply)
                if self._ended and not running.undoing:
                    # In place of what it would ask for next, so that nothing half-made is left; nobody hears of it.
                    running.undoing = True
                    request = answer.throw(error(Status.CONNECTION_LOST))
                at_once = self._front_end.dispatcher.at_once(session, request)
                while at_once is not None and type(at_once) is not Prepared:
                    request = answer.send(cast(msgspec.Struct, at_once))
                    at_once = self._front_end.dispatcher.at_once(session, request)
            except StopIteration as stop:
                self._end(running, self._encoded(code, call, stop.value))
                return
            except Refused as refused:
                self._end(running, encode_failure(code, refused.ckr))
                return
            except HsmBridgeError as problem:
                _log.debug("call refused", call=call.name, status=problem.status.name)
                self._end(running, encode_failure(code, ckr_of(problem.status, call.name)))
                return
            except Exception:  # noqa: BLE001 - the outermost boundary of a call: a fault of ours, told under an id
                _log.exception("a call failed unexpectedly", incident=new_incident_id(), call=call.name)
                self._end(running, encode_failure(code, Ckr.GENERAL_ERROR))
                return
            outcome = self._wait(running, request, at_once)
            if outcome is None:
                return
            reply, failure = outcome
        self._front_end.loop.call_soon(self._advance, running, reply, failure)

    def _wait(self, running: _Running, request: msgspec.Struct, prepared: Prepared | None) -> _Outcome | None:
        """Have the service do what it could not do at once, and go on when that is done.

        The outcome, where it was there before this returned: a call that asks for a thousand things would otherwise
        be a thousand calls deep.
        """
        self._running.add(running)
        front_end = self._front_end
        outcomes: list[_Outcome] = []
        asking = True

        def done(reply: msgspec.Struct | None, failure: HsmBridgeError | None) -> None:
            if threading.get_ident() != front_end.thread:
                front_end.loop.call_soon_threadsafe(self._advance, running, reply, failure)
            elif asking:
                outcomes.append((reply, failure))
            else:
                self._advance(running, reply, failure)

        untimed = running.call.name in _UNTIMED
        deadline = None if untimed else front_end.runner.deadline(int(front_end.settings.timeout * 1000))
        operation = OPERATION_FOR[type(request)]
        front_end.dispatcher.dispatch(running.session, operation, request, deadline, done, prepared)
        asking = False
        front_end.watch_deadlines()
        return outcomes[0] if outcomes else None

    def _encoded(self, code: int, call: Call, results: Sequence[Result]) -> bytes:
        try:
            return encode_result(code, call, results, self._offered)
        except Exception:  # noqa: BLE001 - the outermost boundary of a call: whatever it is, there must be a reply
            _log.exception("a reply could not be encoded", incident=new_incident_id(), call=call.name)
            return encode_failure(code, Ckr.GENERAL_ERROR)

    def _end(self, running: _Running, frame: bytes) -> None:
        self._running.discard(running)
        self._outbox.send(frame)
        if not self._listens and self._has_the_turn() and self._attention.worthwhile():
            self._listens = True
            self._front_end.loop.call_soon(self._listen_on)
        if self._finishing:
            self._close_when_done()
        elif self._held:
            self._later()

    def _later(self) -> None:
        self._front_end.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        """Take what was held, as far as there is room."""
        if not self._ended and not self._finishing and self._outbox.queued <= MAX_QUEUED:
            held, self._held = self._held, []
            self._take(held)

    # Ending and waiting

    def _regulate(self) -> None:
        """Read as long as calls can be taken."""
        if self._ended or self._finishing or self._transport.is_closing():
            return
        pause = bool(self._held) or self._outbox.queued > MAX_QUEUED
        if pause and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        elif not pause and self._paused:
            self._paused = False
            self._transport.resume_reading()

    def _close_when_done(self) -> None:
        if self._made and not self._running:
            self._outbox.close_when_sent()

    def _drop(self, problem: WireError) -> None:
        self._front_end.tell_dropped(self._principal, problem)
        self._ended = True
        self._cancel_timer()
        self._timer = self._front_end.loop.call_later(LINGER, self._transport.abort)
        self._outbox.close_when_sent()

    def _expect(self) -> None:
        """The rest of a frame has a time to come in. One timer serves for many frames, for it rarely goes off."""
        loop = self._front_end.loop
        self._begun = loop.time()
        if self._timer is None:
            self._timer = loop.call_later(FRAME_TIMEOUT, self._overdue)

    def _overdue(self) -> None:
        self._timer = None
        if not self._begun:
            return
        loop = self._front_end.loop
        if self._paused:  # it is we who do not read
            self._begun = loop.time()
        left = self._begun + FRAME_TIMEOUT - loop.time()
        if left > 0:
            self._timer = loop.call_later(left, self._overdue)
        else:
            self._drop(WireError(Status.MALFORMED_FRAME, "A frame was begun and not finished."))

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _go_on_with(answer: Answer, reply: msgspec.Struct | None) -> msgspec.Struct:
    """The next request of a call; it begins where there is no reply yet."""
    return next(answer) if reply is None else answer.send(reply)
