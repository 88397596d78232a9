"""Keeps one provider host running: starts it, takes over one that is there, replaces one that dies or is outdated.

                   +--------------------------------------------------+
                   v                                                  |
approach --> somebody listens? --yes--> take over --same spec--> serving
   ^               |no                     |other spec                | ends, is killed
   |               v                       v                          v
   +--delay--- start, report <------- told to stop, ends          away, reason told
                   |PIN refused
                   v
                halted until a reload
"""

import os
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import msgspec
import structlog

from hsmbridge.core.errors import HsmBridgeError, ProviderError, Status, WireError
from hsmbridge.core.secrets import Pin
from hsmbridge.providers.host.connection import peer_pidfd
from hsmbridge.providers.host.messages import (
    CONTROL_OPCODE,
    STOP_OPCODE,
    ControlReply,
    ControlRequest,
    ProviderState,
    StopRequest,
)
from hsmbridge.providers.host.server import STOP_PATIENCE
from hsmbridge.providers.host.spec import HostReport, HostSpec, write_spec
from hsmbridge.supervisor.child import BackOff, Process, ending, start_child
from hsmbridge.supervisor.loop import EventLoop, Timer
from hsmbridge.wire.codec import decode_body, encode_message
from hsmbridge.wire.frames import FrameReader

STOP_TIMEOUT: Final = STOP_PATIENCE + 5.0
"""Seconds that a host has to end after it was told to."""
GOOD_RUN: Final = 1.0
_CONTROL_BODY_MAX: Final = 4096
_PIN_REFUSED: Final = frozenset({Status.PIN_INCORRECT, Status.PIN_LOCKED})
_UNTIL_RELOAD: Final = _PIN_REFUSED | {Status.INVALID_CONFIGURATION}
"""Trying again by itself would lock the token, or is pointless."""

_log = structlog.get_logger(__name__)


class HostKeeper:
    """One provider host.

    Attributes:
        spec: what the host is or will be told.
        state: as the workers are told.
        ended: it was stopped for good, and no process is left.
    """

    def __init__(
        self,
        loop: EventLoop,
        spec: HostSpec,
        command: tuple[str, ...],
        read_pin: Callable[[], Pin | None],
        start_timeout: float,
        answer_timeout: float,
        on_change: Callable[[], None],
    ) -> None:
        self.spec = spec
        self.ended = False
        self._loop = loop
        self._command = command
        self._read_pin = read_pin
        self._start_timeout = start_timeout
        self._answer_timeout = answer_timeout
        self._on_change = on_change
        self._back_off = BackOff(GOOD_RUN)
        self._log = _log.bind(provider=spec.name)
        self._process: Process | None = None
        self._control: socket.socket | None = None
        self._report_fd: int | None = None
        self._report = b""
        self._reader = FrameReader(_CONTROL_BODY_MAX, replies=True)
        self._timer: Timer | None = None
        self._reason: HsmBridgeError | None = None
        self._tried: Pin | None = None
        self._replacing = False
        self._reloaded = False
        self._stopping = False
        starting = self._unavailable("is being started")
        self.state = ProviderState(spec.name, available=False, status=starting.status, message=starting.message)

    def start(self) -> None:
        """Take over the host that is there, or start one."""
        self._cancel_timer()
        self._reason = None
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.setblocking(False)
        try:
            connection.connect(os.fspath(self.spec.socket_path))
        except OSError as problem:
            connection.close()
            if isinstance(problem, FileNotFoundError | ConnectionRefusedError):
                self._start_host()
            else:
                self._failed(self._unavailable(f"cannot be reached: {problem.strerror}"))
            return
        self._take_control(connection)

    def update(self, spec: HostSpec, read_pin: Callable[[], Pin | None]) -> None:
        """Reload: try again now what waits or was halted, and replace a host with another specification."""
        changed = spec.digest() != self.spec.digest()
        self.spec, self._read_pin = spec, read_pin
        self._back_off.reset()
        if self._stopping:
            return
        if self._process is None:
            self.start()
        elif changed:
            self._log.info("the configuration has changed; replacing the host")
            self._replace()
        elif self._reason is not None:
            self._replace()  # It has failed, and has not ended yet.
        elif not self.state.available:
            self._reloaded = True

    def stop(self) -> None:
        """End the host for good."""
        if self._stopping:
            return
        self._stopping = True
        if self._process is None:
            self._cancel_timer()
            self.ended = True
            self._on_change()
        else:
            self._end_host()

    # Starting one

    def _start_host(self) -> None:
        try:
            self._tried = self._read_pin()
            spec_fd = write_spec(self.spec, self._tried)
        except HsmBridgeError as problem:
            self._failed(problem)
            return
        self._report_fd, status_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(status_fd, True)
        self._report = b""
        arguments = ("--spec-fd", str(spec_fd), "--status-fd", str(status_fd))
        try:
            self._process = start_child(self._loop, (*self._command, *arguments), (spec_fd, status_fd), self._gone)
        except OSError as problem:
            self._close_report()
            self._failed(self._unavailable(f"cannot be started: {problem.strerror}"))
            return
        finally:
            os.close(spec_fd)
            os.close(status_fd)
        self._loop.watch(self._report_fd, self._read_report)
        self._set_timer(self._start_timeout, lambda: self._hung("did not start in time"))

    def _read_report(self) -> None:
        if self._report_fd is None:
            return
        try:
            while piece := os.read(self._report_fd, 65536):
                self._report += piece
        except BlockingIOError:
            return
        self._close_report()
        if not self._report:
            return  # The process ends, and its end says more.
        self._cancel_timer()
        try:
            report = msgspec.msgpack.decode(self._report, type=HostReport)
        except msgspec.MsgspecError:
            self._hung("sent a report that cannot be read")
            return
        if report.status == Status.OK:
            self._connect_to_child()
        else:
            self._away(report.problem())
            self._set_timer(STOP_TIMEOUT, lambda: self._hung("does not end"))

    def _connect_to_child(self) -> None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.setblocking(False)
        try:
            connection.connect(os.fspath(self.spec.socket_path))
        except OSError as problem:
            connection.close()
            self._hung(f"cannot be reached: {problem.strerror}")
            return
        self._take_control(connection)

    # Holding one

    def _take_control(self, connection: socket.socket) -> None:
        if self._process is None:
            try:
                pidfd = peer_pidfd(connection.fileno())
            except ProcessLookupError:
                connection.close()
                self._start_host()
                return
            self._process = Process(self._loop, 0, pidfd, self._gone)
        self._control = connection
        self._reader = FrameReader(_CONTROL_BODY_MAX, replies=True)
        self._set_timer(self._answer_timeout, lambda: self._hung("does not answer"))
        self._loop.watch(connection.fileno(), self._read_control)
        self._tell(encode_message(CONTROL_OPCODE, 1, ControlRequest(self.spec.digest())))

    def _tell(self, data: bytes) -> None:
        # A few bytes into an empty buffer: the kernel takes them whole or the host is gone.
        if self._control is not None:
            with suppress(OSError):
                self._control.send(data)

    def _read_control(self) -> None:
        if self._control is None:
            return
        try:
            data = self._control.recv(65536)
        except OSError:
            data = b""
        if not data:
            self._close_control()
            self._set_timer(self._answer_timeout, lambda: self._hung("closed its connection"))
            return
        try:
            for frame in self._reader.feed(data):
                self._controlled(decode_body(ControlReply, frame.body))
        except WireError as problem:
            self._hung(problem.message)

    def _controlled(self, reply: ControlReply) -> None:
        if self._stopping or self._replacing:
            return
        if not reply.adopted:
            self._log.info("a host with another specification is there; replacing it", pid=reply.pid)
            self._replace()
            return
        self._cancel_timer()
        self._log.info("provider available", pid=reply.pid)
        self._back_off.up()
        self._reason = None
        self._reloaded = False
        self._change(
            ProviderState(
                self.spec.name,
                available=True,
                pid=reply.pid,
                socket=str(self.spec.socket_path),
                incarnation=reply.incarnation,
            )
        )

    # Losing one

    def _replace(self) -> None:
        self._replacing = True
        self._away(self._unavailable("is being replaced"))
        self._end_host()

    def _end_host(self) -> None:
        if self._control is not None:
            self._tell(encode_message(STOP_OPCODE, 2, StopRequest()))
        elif self._process is not None:
            self._process.send(signal.SIGTERM)
        self._set_timer(STOP_TIMEOUT, lambda: self._hung("does not end"))

    def _hung(self, what: str) -> None:
        self._log.error("the host is killed", reason=what)
        if self._reason is None or self._reason.status not in _UNTIL_RELOAD:
            self._away(self._unavailable(f"is being restarted: its process {what}"))
        if self._process is not None:
            self._process.send(signal.SIGKILL)

    def _gone(self, code: int | None) -> None:
        self._process = None
        self._read_report()
        self._close_report()
        self._close_control()
        self._cancel_timer()
        self._log.info("the host has ended", how=ending(code))
        if self._stopping:
            self._away(self._unavailable("is stopped"))
            self.ended = True
            self._on_change()
        elif self._replacing or self._outlived_its_reason():
            self._replacing = False
            self.start()
        else:
            self._failed(self._reason or self._unavailable(f"is being restarted: its process {ending(code)}"))

    def _outlived_its_reason(self) -> bool:
        """Whether a reload came while the host was starting, so that what it failed of may have been put right."""
        reloaded, self._reloaded = self._reloaded, False
        if not reloaded or self._reason is None:
            return False
        if self._reason.status not in _PIN_REFUSED:
            return True
        try:
            return self._read_pin() != self._tried
        except HsmBridgeError:
            return True

    def _failed(self, reason: HsmBridgeError) -> None:
        """No host is there, for this reason. Try again later, unless only an operator can help."""
        self._away(reason)
        if reason.status in _UNTIL_RELOAD:
            self._log.error("the provider is not started again before a reload", reason=reason.message)
            return
        delay = self._back_off.next_delay()
        self._log.info("the provider is started again", after=delay, reason=reason.message)
        self._set_timer(delay, self.start)

    def _away(self, reason: HsmBridgeError) -> None:
        self._reason = reason
        self._change(
            ProviderState(
                self.spec.name,
                available=False,
                status=reason.status,
                message=reason.message,
                incident=reason.incident,
            )
        )

    def _change(self, state: ProviderState) -> None:
        if state != self.state:
            self.state = state
            self._on_change()

    def _unavailable(self, what: str) -> HsmBridgeError:
        return ProviderError(Status.PROVIDER_UNAVAILABLE, f"Provider {self.spec.name} {what}.")

    def _set_timer(self, seconds: float, action: Callable[[], None]) -> None:
        self._cancel_timer()
        self._timer = self._loop.call_later(seconds, action)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _close_report(self) -> None:
        if self._report_fd is not None:
            self._loop.unwatch(self._report_fd)
            os.close(self._report_fd)
            self._report_fd = None

    def _close_control(self) -> None:
        if self._control is not None:
            self._loop.unwatch(self._control.fileno())
            self._control.close()
            self._control = None
