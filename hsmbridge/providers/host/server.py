"""The serving half of a host process: plain threads, one a connection, and blocking sockets.

A daemon process keeps several connections and few calls under way on each, so a call needs no queue and no hop
between threads: its thread reads it, does it and writes the answer. Only processes of the same user are served;
one that sends what is not this protocol is disconnected.
"""

import os
import secrets
import select
import selectors
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from hsmbridge.core import calls
from hsmbridge.core.errors import Category, HsmBridgeError, ProviderError, Status, WireError
from hsmbridge.core.identifiers import new_incident_id
from hsmbridge.core.peer import peer_credentials
from hsmbridge.providers.base import Provider, perform
from hsmbridge.providers.host.making import ORDERED, KeysInTheMaking
from hsmbridge.providers.host.messages import (
    ATTACH_OPCODE,
    CONTROL_OPCODE,
    STOP_OPCODE,
    AttachReply,
    AttachRequest,
    ControlReply,
    ControlRequest,
)
from hsmbridge.providers.host.owners import NOTED, DaemonProcess, DaemonProcesses
from hsmbridge.providers.host.spec import HostSpec, check_socket_path
from hsmbridge.wire.codec import (
    CALL_OPCODE,
    decode_body,
    decode_call,
    encode_call_reply,
    encode_error,
    encode_message,
)
from hsmbridge.wire.frames import Frame, FrameReader

MAX_CONNECTIONS: Final = 512
STOP_PATIENCE: Final = 5.0
"""Seconds that a stopping host waits for calls under way before it leaves them behind."""
_READ_SIZE: Final = 64 * 1024
_QUIET: Final = frozenset({Status.HANDLE_UNKNOWN, Status.KEY_MATERIAL_MISSING})
"""Statuses of providers that are part of the ordinary course of things and not worth a line in the log."""
_LOUD: Final = frozenset({Category.PROVIDER, Category.STORE})

_log = structlog.get_logger(__name__)


def listen(path: Path) -> socket.socket:
    """A socket at `path` that only its own user can reach; what is there already is stale, for the lock is held."""
    check_socket_path(path)
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # The mode of a socket's file comes from the umask alone; no other thread is there yet to mind.
    mask = os.umask(0o177)
    try:
        listener.bind(os.fspath(path))
    finally:
        os.umask(mask)
    listener.listen(128)
    return listener


class HostServer:
    """Serves one provider until it is told to stop, or nobody has supervised it for `drain_timeout` seconds."""

    def __init__(self, spec: HostSpec, provider: Provider, listener: socket.socket) -> None:
        self.incarnation = secrets.token_bytes(16)
        self._spec = spec
        self._digest = spec.digest()
        self._provider = provider
        self._listener = listener
        self._keys = KeysInTheMaking()
        self._processes = DaemonProcesses(provider.streams, provider.release_owner)
        self._lock = threading.Lock()
        self._connections: dict[socket.socket, threading.Thread] = {}
        self._supervisors: set[socket.socket] = set()
        self._orphaned_at = time.monotonic()
        self._stopping = False
        self._waker, self._wakened = socket.socketpair()
        self._waker.setblocking(False)
        self._wakened.setblocking(False)

    @property
    def wakeup_fd(self) -> int:
        """For `signal.set_wakeup_fd`: a byte written there makes `serve` look whether it is to stop."""
        return self._waker.fileno()

    def stop(self) -> None:
        """Make `serve` return; from any thread or signal handler."""
        self._stopping = True
        self._wake()

    def serve(self) -> bool:
        """Accept and answer until stopped. True where every call under way was answered, so that the provider may be
        closed; False where one hangs."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._wakened, selectors.EVENT_READ)
            while not self._stopping:
                for key, _ in selector.select(self._time_left()):
                    if key.fileobj is self._listener:
                        self._accept()
                    else:
                        self._wakened.recv(4096)
                if self._time_left() == 0:
                    _log.info("no supervisor has come back; stopping", waited=self._spec.drain_timeout)
                    self._stopping = True
        return self._drain()

    def close(self) -> None:
        """Free what a server holds that has served; a process that ends has no need of it."""
        self._waker.close()
        self._wakened.close()

    def _wake(self) -> None:
        # A full socket wakes as well as one more byte; a closed one has nobody to wake.
        with suppress(OSError):
            self._waker.send(b"\0")

    def _time_left(self) -> float | None:
        with self._lock:
            if self._supervisors:
                return None
            return max(0.0, self._orphaned_at + self._spec.drain_timeout - time.monotonic())

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError as problem:
            _log.warning("a connection could not be accepted", reason=problem.strerror)
            return
        uid = peer_credentials(connection).uid
        if uid != os.geteuid() or len(self._connections) >= MAX_CONNECTIONS:
            _log.warning("a connection was refused", uid=uid, connections=len(self._connections))
            connection.close()
            return
        thread = threading.Thread(target=self._attend, args=(connection,), name="connection", daemon=True)
        with self._lock:
            self._connections[connection] = thread
        thread.start()

    def _drain(self) -> bool:
        self._spec.socket_path.unlink(missing_ok=True)
        self._listener.close()
        with self._lock:
            remaining = dict(self._connections)
        for connection in remaining:
            # What was sent before is still read and answered; after it the thread sees the end of the stream.
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RD)
        deadline = time.monotonic() + STOP_PATIENCE
        for thread in remaining.values():
            thread.join(max(0.0, deadline - time.monotonic()))
        hanging = sum(thread.is_alive() for thread in remaining.values())
        if hanging:
            _log.warning("stopping although calls are under way", connections=hanging)
        return not hanging

    # One connection, in its own thread

    def _attend(self, connection: socket.socket) -> None:
        try:
            with connection:
                try:
                    self._converse(connection)
                except (HsmBridgeError, OSError) as problem:
                    _log.warning("a connection was closed", reason=str(problem))
                finally:
                    self._forget(connection)
        except Exception:  # noqa: BLE001 - the outermost boundary of this thread
            _log.exception("a connection failed unexpectedly", incident=new_incident_id())

    def _converse(self, connection: socket.socket) -> None:
        reader = FrameReader(self._spec.max_body)
        receive, send = connection.recv, connection.sendall
        # A thread that sleeps in recv is woken for nothing whenever the daemon takes a reply: the kernel tells it that
        # there is room to write. One that waits for something to read is not.
        waiting = select.poll()
        waiting.register(connection, select.POLLIN)
        answer: Callable[[Frame], bytes] | None = None
        while waiting.poll() and (data := receive(_READ_SIZE)):
            for frame in reader.feed(data):
                if answer is None:
                    answer = self._greet(connection, frame)
                else:
                    send(answer(frame))
        reader.end()

    def _greet(self, connection: socket.socket, first: Frame) -> Callable[[Frame], bytes]:
        """Answer the first frame, and say who answers the others."""
        if first.opcode == ATTACH_OPCODE:
            process = self._processes.arrive(connection, decode_body(AttachRequest, first.body).client)
            attached = AttachReply(self._spec.name, self.incarnation, os.getpid())
            connection.sendall(encode_message(ATTACH_OPCODE, first.request_id, attached, reply=True))
            return partial(self._answer, process)
        if first.opcode == CONTROL_OPCODE:
            wanted = decode_body(ControlRequest, first.body).digest
            with self._lock:
                # A stopping host ends the connections for calls; this one ends with the process, and tells its end.
                self._connections.pop(connection, None)
                self._supervisors.add(connection)
            controlled = ControlReply(wanted == self._digest, self._spec.name, self.incarnation, os.getpid())
            connection.sendall(encode_message(CONTROL_OPCODE, first.request_id, controlled, reply=True))
            return self._obey
        raise WireError(Status.MALFORMED_FRAME, "The first frame neither attaches nor takes control.")

    def _forget(self, connection: socket.socket) -> None:
        with self._lock:
            self._connections.pop(connection, None)
            if connection in self._supervisors:
                self._supervisors.discard(connection)
                self._orphaned_at = time.monotonic()
        self._processes.leave(connection)
        self._wake()

    def _answer(self, process: DaemonProcess, frame: Frame) -> bytes:
        if frame.opcode != CALL_OPCODE:
            raise WireError(Status.UNKNOWN_OPERATION, f"Operation {frame.opcode:#06x} is no provider call.")
        try:
            call = decode_call(frame.body)
            if type(call) in NOTED:
                process.note(call)
            if type(call) in ORDERED:
                return encode_call_reply(frame.request_id, self._keys.perform(call, self._perform))
            return encode_call_reply(frame.request_id, perform(self._provider, call))
        except HsmBridgeError as problem:
            return encode_error(frame.request_id, CALL_OPCODE, _told(problem))
        except Exception:  # noqa: BLE001 - the outermost boundary of a call: a fault of the provider's code or library
            incident = new_incident_id()
            _log.exception("a provider call failed unexpectedly", incident=incident)
            failure = ProviderError(Status.PROVIDER_FAILED, incident=incident)
            return encode_error(frame.request_id, CALL_OPCODE, failure)

    def _obey(self, frame: Frame) -> bytes:
        if frame.opcode != STOP_OPCODE:
            raise WireError(Status.UNKNOWN_OPERATION, f"Operation {frame.opcode:#06x} is no control message.")
        _log.info("told to stop")
        self.stop()
        return b""

    def _perform(self, call: calls.ProviderCall) -> calls.ProviderReply:
        return perform(self._provider, call)


def _told(problem: HsmBridgeError) -> HsmBridgeError:
    """The error as the caller gets it. What an operator should know of goes into the log, under an incident id."""
    status = problem.status
    if status in _QUIET or (status.category not in _LOUD and status is not Status.INTERNAL):
        return problem
    problem.incident = problem.incident or new_incident_id()
    _log.warning(
        "a provider call failed",
        status=status.name,
        reason=problem.message,
        origin=problem.origin,
        incident=problem.incident,
    )
    return problem
