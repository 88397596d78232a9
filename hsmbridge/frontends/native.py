"""The native front end: frames on a unix stream socket, many requests under way on each connection.

It knows the wire, the loop and who the peer is; what a request means is the dispatcher's business. Requests
run where the runner takes them and replies leave from whatever thread has them.
"""

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from time import perf_counter
from typing import TypeVar, cast

import msgspec
import structlog

from hsmbridge.core.errors import HsmBridgeError, LimitError, RequestError, Status, WireError, error
from hsmbridge.core.identifiers import new_incident_id
from hsmbridge.core.messages import HelloReply, ShareMemoryReply, ShareMemoryRequest
from hsmbridge.core.operations import HELLO_OPCODE
from hsmbridge.engine.runner import Executor, Runner
from hsmbridge.frontends.admission import Admission
from hsmbridge.frontends.outbox import ReplyOutbox
from hsmbridge.frontends.peer import principal_of
from hsmbridge.service.dispatcher import Dispatcher, Outcome
from hsmbridge.service.session import Session
from hsmbridge.service.shared_memory import SharedMemory
from hsmbridge.service.short_way import Prepared
from hsmbridge.wire.attention import Attention
from hsmbridge.wire.codec import (
    decode_batch,
    decode_request,
    encode_batch_reply,
    encode_error,
    encode_reply,
)
from hsmbridge.wire.frames import BATCH, HEADER_SIZE, Frame, FrameReader, body_limit
from hsmbridge.wire.hello import negotiate, read_hello

EXPIRY_INTERVAL = 0.02
"""Seconds between looks at the deadlines of waiting operations."""

ALONE_BATCH = 64
"""As long a batch stays on the loop where nobody is held up: a few milliseconds of short operations."""

ALONE_AFTER = 0.05
"""Seconds that nobody else has spoken before a client counts as the only one."""

HELLO_TIMEOUT = 10.0
"""Seconds that a new connection has to say hello."""

FRAME_TIMEOUT = 30.0
"""Seconds from the first bytes of a request to the last; between requests a client may be silent for ever."""

LINGER = 10.0
"""Seconds that a peer has to take what it is still sent after its connection was refused or is to close."""

MAX_QUEUED = 1024 * 1024
"""Bytes of replies that a peer may leave unread before its further requests wait; replies under way come on top."""

HEAVY = 4096
"""Bytes of a request from which on it counts for `max_bytes_per_principal`; the others are few enough to hold."""

FRAMES_A_TURN = 64
"""Requests taken from one connection before the others have their turn."""

LISTENING_TIME = 100e-6
"""Seconds for the next request of a client that does nothing else; it takes 20 to 60 microseconds."""

TURN_TIME = 0.005
"""Seconds of answering one client's requests before the loop has a look at everything else."""

INLINE_BATCH = 4
"""A longer batch leaves the event loop, so that it holds nobody up."""

_log = structlog.get_logger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one daemon process grants; sizes in bytes, times in seconds."""

    max_frame: int
    max_connections: int
    max_connections_per_principal: int
    max_in_flight: int
    default_timeout: float


class NativeFrontEnd(Admission["NativeConnection"]):
    """Makes and counts connections."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        dispatcher: Dispatcher,
        runner: Runner,
        limits: Limits,
        *,
        elsewhere: Executor,
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
        super().__init__(limits.max_connections, limits.max_connections_per_principal, connections_changed)
        self.loop = loop
        self.dispatcher = dispatcher
        self.runner = runner
        self.limits = limits
        self.elsewhere = elsewhere
        self.daemon = daemon
        self.longest_reply = HEADER_SIZE + body_limit(limits.max_frame)
        self.thread = threading.get_ident()
        self._expiring = False
        self._speaker: object = None
        self._speaking_since = 0.0
        self._single = False

    def connection(self) -> "NativeConnection":
        """A protocol for one new connection."""
        return NativeConnection(self)

    def hear(self, connection: object, *, single: bool) -> None:
        """Somebody sent something, here or at another front end; `single` where it was one request and no more."""
        if connection is not self._speaker:
            self._speaker = connection
            self._speaking_since = self.loop.time()
        self._single = single

    def alone(self) -> bool:
        """Whether one client has been the only one for a while, and asks for one thing at a time."""
        return self._single and not self.runner.waiting and self.loop.time() - self._speaking_since > ALONE_AFTER

    def home(self, requests: int) -> Executor | None:
        """Where a batch of so many requests runs: off the loop where it would hold others up."""
        if requests <= INLINE_BATCH or (requests <= ALONE_BATCH and self.alone()):
            return None
        return self.elsewhere

    def watch_deadlines(self) -> None:
        """Look at deadlines regularly from now on until nothing waits."""
        if not self._expiring and self.runner.waiting:
            self._expiring = True
            self.loop.call_later(EXPIRY_INTERVAL, self._expire)

    def _expire(self) -> None:
        try:
            self.runner.expire()
        finally:
            # Whatever happened to one of them, the others have deadlines too.
            self._expiring = False
            self.watch_deadlines()


class NativeConnection(asyncio.Protocol):
    """One client."""

    def __init__(self, front_end: NativeFrontEnd) -> None:
        self._front_end = front_end
        self._reader = FrameReader(body_limit(front_end.limits.max_frame))
        self._attention = Attention(LISTENING_TIME)
        self._session: Session | None = None
        self._heavy: dict[int, int] = {}
        self._announced = 0
        self._greeted = False
        self._timer: asyncio.TimerHandle | None = None
        self._frame_timer: asyncio.TimerHandle | None = None
        self._begun = 0.0
        self._held: Iterator[Frame] = iter(())
        self._paused = False
        self._listens = False
        self._failed = False
        self._made = False
        self._finishing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Learn who the peer is from the kernel, and count it in."""
        self._transport = cast(asyncio.Transport, transport)  # a stream's; uvloop's own class is not a subclass
        peer: socket.socket = transport.get_extra_info("socket")
        self._principal = principal_of(peer)
        try:
            own = socket.socket(fileno=os.dup(peer.fileno()))
        except OSError as problem:
            self._front_end.tell_lost(self._principal, problem)
            self._failed = True
            self._transport.abort()
            return
        self._made = True
        loop = self._front_end.loop
        self._outbox = ReplyOutbox(loop, own, self._transport.close, self._go_on)
        try:
            self._front_end.admit(self, self._principal)
        except HsmBridgeError as refusal:
            self._refuse(0, HELLO_OPCODE, refusal)
            return
        self._session = self._front_end.dispatcher.open(self._principal)
        self._timer = loop.call_later(HELLO_TIMEOUT, self.shut)

    def connection_lost(self, exc: Exception | None) -> None:
        """Free everything that belongs to the connection."""
        if self._timer is not None:
            self._timer.cancel()
        if self._frame_timer is not None:
            self._frame_timer.cancel()
        self._failed = True
        self._held = iter(())
        if not self._made:
            return
        self._outbox.close()
        self._front_end.leave(self, self._principal)
        if self._session is not None:
            self._forget_announced(self._session)
            self._front_end.dispatcher.close(self._session)

    def data_received(self, data: bytes) -> None:
        """Take requests; a stream that is no stream of frames is answered once and closed."""
        self._listens = True
        self._hear(data)
        self._listen_on()

    def _listen_on(self) -> None:
        """Answer the next requests of one that is alone with the daemon: who waits for nothing is about to ask again.

        Of all that is heard in one turn none asks for another turn: they would double and keep the loop for good.
        """
        until = perf_counter() + TURN_TIME
        while self._has_the_turn() and perf_counter() < until:
            more = self._listen()
            if not more:  # nothing, or the end of the stream, which is the transport's to tell
                break
            self._hear(more)
        self._listens = False

    def _has_the_turn(self) -> bool:
        return not (self._paused or self._failed or self._outbox.owed) and self._front_end.alone()

    def _listen(self) -> bytes | None:
        try:
            return self._attention.listen(self._outbox.received)
        except OSError:  # the transport sees it too
            return None

    def _hear(self, data: bytes) -> None:
        if not self._failed:
            frames = self._reader.feed(data)
            # A reader that was given exactly one frame answers with a tuple.
            single = type(frames) is tuple
            self._front_end.hear(self, single=single)
            taken = self._take_frames(frames)
            if not single:
                self._expect_the_rest(taken)

    def finish(self) -> None:
        """Take no further requests, and close when those under way are answered.

        What comes from now on is left unread: the kernel then tells the peer that its connection was reset, and a
        client knows by that that its last request was never seen and may be sent again.
        """
        self._failed = True
        self._held = iter(())
        self._finishing = True
        if self._made and not self._transport.is_closing():
            self._transport.pause_reading()
        self._outbox.finish()

    def shut(self) -> None:
        """Close after what is queued was sent, or the peer had its time to take it."""
        self._failed = True
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._front_end.loop.call_later(LINGER, self._transport.abort)
        self._outbox.close_when_sent()

    def _refuse(self, request_id: int, opcode: int, problem: HsmBridgeError) -> None:
        self._front_end.tell_refused(self._principal, problem)
        self._outbox.send(encode_error(request_id, opcode, problem))
        self.shut()

    # Taking requests, no more than the peer may have under way and no faster than it takes the replies

    def _take_frames(self, frames: Iterable[Frame]) -> int:
        """Take what there is room for, and keep the rest. Answers how many were taken."""
        taken = 0
        outbox, most = self._outbox, self._front_end.limits.max_in_flight
        rest = iter(frames)
        try:
            for frame in rest:
                self._take(frame)
                taken += 1
                if len(outbox.owed) >= most or outbox.queued > MAX_QUEUED or taken == FRAMES_A_TURN:
                    self._pause(rest, at_once=taken == FRAMES_A_TURN)
                    break
        except HsmBridgeError as problem:
            self._refuse(0, HELLO_OPCODE, problem)
        self._front_end.watch_deadlines()
        return taken

    def _expect_the_rest(self, taken: int) -> None:
        """A frame that has begun has a time to come in. One timer serves for many, for it rarely goes off."""
        if not self._reader.missing:
            self._begun = 0.0
        elif taken or not self._begun:  # each frame has its own time
            loop = self._front_end.loop
            self._begun = loop.time()
            if self._frame_timer is None:
                self._frame_timer = loop.call_later(FRAME_TIMEOUT, self._overdue)
        if not self._announced:
            self._weigh()

    def _weigh(self) -> None:
        """Find room for the request that is coming in, or let it go by and say so."""
        unfinished, session = self._reader.unfinished, self._session
        if unfinished is None or session is None or unfinished[2] <= HEAVY:
            return
        request_id, opcode, size = unfinished
        if session.shares.data.take(size):
            self._announced = size
        else:
            self._reader.skip()
            self._outbox.send(encode_error(request_id, opcode, session.shares.data.refusal()))

    def _overdue(self) -> None:
        self._frame_timer = None
        if not self._begun or self._failed:
            return
        loop = self._front_end.loop
        if self._paused:  # it is we who do not read
            self._begun = loop.time()
        left = self._begun + FRAME_TIMEOUT - loop.time()
        if left > 0:
            self._frame_timer = loop.call_later(left, self._overdue)
        else:
            late = WireError(Status.MALFORMED_FRAME, "A request was begun and not finished in time.")
            self._refuse(0, HELLO_OPCODE, late)

    def _pause(self, rest: Iterator[Frame], *, at_once: bool) -> None:
        """Keep the frames that were read already, and read no more until `_go_on`."""
        self._held = rest
        self._paused = True
        if not self._transport.is_closing():
            self._transport.pause_reading()
        # Replies of other threads may have gone out just before they could see that they are waited for.
        if at_once or len(self._outbox.owed) <= self._front_end.limits.max_in_flight // 2:
            self._front_end.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        """Take what was held, and read again once that is done. Called on the loop whenever there may be room."""
        outbox = self._outbox
        if (
            self._finishing
            or not self._paused
            or outbox.queued > MAX_QUEUED
            or len(outbox.owed) >= self._front_end.limits.max_in_flight
        ):
            return
        self._paused = False
        if self._failed:
            # What still comes is dropped, but its end must be seen.
            self._held = iter(())
        else:
            self._expect_the_rest(self._take_frames(self._held))
        if not self._paused and not self._transport.is_closing():
            self._transport.resume_reading()

    def _take(self, frame: Frame) -> None:
        session = self._session
        if session is None or self._failed:
            return
        if not self._greeted:
            self._forget_announced(session)
            self._greet(frame)
            return
        request_id = frame.request_id
        if request_id in self._outbox.owed:
            self._refuse(
                request_id, frame.opcode, LimitError(Status.MALFORMED_FRAME, "Two requests under way have the same id.")
            )
        elif len(frame.body) > HEAVY:
            self._take_heavy(session, frame)
        else:
            self._begin(session, frame)

    def _take_heavy(self, session: Session, frame: Frame) -> None:
        """As `_begin`, for a request whose size counts until it is answered."""
        request_id, size = frame.request_id, len(frame.body)
        announced, self._announced = self._announced, 0
        if not announced and not session.shares.data.take(size):
            self._outbox.send(encode_error(request_id, frame.opcode, session.shares.data.refusal()))
            return
        self._heavy[request_id] = size
        self._begin(session, frame)
        if request_id not in self._outbox.owed:
            self._put_down(request_id)

    def _forget_announced(self, session: Session) -> None:
        session.shares.data.give_back(self._announced)
        self._announced = 0

    def _put_down(self, request_id: int) -> None:
        """A request does not count any more; from any thread, before its id is free for the next one."""
        if self._session is not None:
            self._session.shares.data.give_back(self._heavy.pop(request_id, 0))

    def _begin(self, session: Session, frame: Frame) -> None:
        outbox = self._outbox
        request_id, opcode = frame.request_id, frame.opcode
        try:
            if frame.flags & BATCH:
                self._run_batch(session, frame)
                return
            operation, request = decode_request(frame)
        except HsmBridgeError as problem:
            outbox.send(encode_error(request_id, opcode, problem))
            return

        if isinstance(request, ShareMemoryRequest):
            self._share(session, request_id, opcode, request)
            return
        front_end = self._front_end
        answer = front_end.dispatcher.at_once(session, request)
        if answer is not None and type(answer) is not Prepared:
            outbox.send(self._encoded(request_id, opcode, encode_reply, cast(msgspec.Struct, answer), None))
            return

        def done(reply: msgspec.Struct | None, failure: HsmBridgeError | None) -> None:
            self._reply(request_id, self._encoded(request_id, opcode, encode_reply, reply, failure))

        outbox.owed.add(request_id)
        deadline = front_end.runner.deadline(frame.word)
        front_end.dispatcher.dispatch(session, operation, request, deadline, done, answer)

    def _share(self, session: Session, request_id: int, opcode: int, request: ShareMemoryRequest) -> None:
        """Make memory for the connection and send its descriptor; the daemon keeps the mapping alone."""
        try:
            memory, descriptor = SharedMemory.make(request.size, self._front_end.limits.max_frame)
        except HsmBridgeError as problem:
            self._outbox.send(encode_error(request_id, opcode, problem))
            return
        data = session.shares.data
        if not data.take(memory.size):
            os.close(descriptor)
            self._outbox.send(encode_error(request_id, opcode, data.refusal()))
            return
        reply = encode_reply(request_id, opcode, ShareMemoryReply(memory.buffer, memory.size))
        try:
            sent = self._outbox.send_descriptor(reply, descriptor)
        finally:
            os.close(descriptor)
        if sent:
            if session.memory is not None:
                data.give_back(session.memory.size)
            session.memory = memory
        else:
            data.give_back(memory.size)
            busy = LimitError(Status.RATE_LIMITED, "Replies wait to be read; take them first, then share memory.")
            self._outbox.send(encode_error(request_id, opcode, busy))

    def _run_batch(self, session: Session, frame: Frame) -> None:
        front_end = self._front_end
        request_id, opcode = frame.request_id, frame.opcode
        operation, requests = decode_batch(frame)
        self._outbox.owed.add(request_id)
        deadline = front_end.runner.deadline(frame.word)

        def done(outcomes: list[Outcome] | None, failure: HsmBridgeError | None) -> None:
            self._reply(request_id, self._encoded(request_id, opcode, encode_batch_reply, outcomes, failure))

        steps = front_end.dispatcher.batch(session, operation, requests, deadline)
        front_end.runner.run(steps, deadline, done, front_end.home(len(requests)))

    def _greet(self, frame: Frame) -> None:
        try:
            version = negotiate(read_hello(frame))
        except HsmBridgeError as problem:
            self._refuse(frame.request_id, HELLO_OPCODE, problem)
            return
        self._greeted = True
        if self._timer is not None:
            self._timer.cancel()
        limits = self._front_end.limits
        reply = HelloReply(
            version, self._front_end.daemon, self._principal, limits.max_frame, int(limits.default_timeout * 1000)
        )
        self._outbox.send(encode_reply(frame.request_id, HELLO_OPCODE, reply))

    # Replies, from any thread

    def _encoded(
        self,
        request_id: int,
        opcode: int,
        encode: Callable[[int, int, T], bytes],
        reply: T | None,
        failure: HsmBridgeError | None,
    ) -> bytes:
        """The frame of an outcome; whatever it is, there is one, for a request without a reply waits for ever."""
        if failure is None and reply is not None:
            try:
                frame = encode(request_id, opcode, reply)
            except HsmBridgeError as problem:
                failure = problem
            except Exception:  # noqa: BLE001 - the outermost boundary of a request: a fault of ours, told under an id
                incident = new_incident_id()
                _log.exception("a reply could not be encoded", incident=incident)
                failure = RequestError(Status.INTERNAL, incident=incident)
            else:
                if len(frame) <= self._front_end.longest_reply:
                    return frame
                failure = LimitError(
                    Status.FRAME_TOO_LARGE, "The reply would be larger than a frame may be; ask for less at once."
                )
        return encode_error(request_id, opcode, failure or error(Status.INTERNAL))

    def _reply(self, request_id: int, frame: bytes) -> None:
        if self._heavy:
            self._put_down(request_id)
        self._outbox.answer(request_id, frame)
        front_end = self._front_end
        if not self._listens and front_end.alone() and self._attention.worthwhile():
            self._listens = True
            if threading.get_ident() == front_end.thread:
                front_end.loop.call_soon(self._listen_on)
            else:
                front_end.loop.call_soon_threadsafe(self._listen_on)
        if self._paused and len(self._outbox.owed) <= self._front_end.limits.max_in_flight // 2:
            self._front_end.loop.call_soon_threadsafe(self._go_on)
