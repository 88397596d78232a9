"""Keeps one worker running: starts it, tells it how the provider hosts are, replaces it when it dies."""

import os
import signal
import socket
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from hsmbridge.supervisor.child import BackOff, Process, ending, start_child
from hsmbridge.supervisor.inheritance import worker_arguments
from hsmbridge.supervisor.loop import READ, WRITE, EventLoop, Timer

GOOD_RUN: Final = 2.0

_log = structlog.get_logger(__name__)


class WorkerKeeper:
    """One worker.

    Attributes:
        ended: it was stopped for good, and no process is left.
    """

    def __init__(
        self,
        loop: EventLoop,
        index: int,
        command: tuple[str, ...],
        processors: Sequence[int],
        inherited: Callable[[], tuple[dict[str, int], int]],
        states: Callable[[], bytes],
        drain_timeout: float,
        on_end: Callable[[], None],
    ) -> None:
        """Prepare a worker.

        Args:
            loop: where it is watched.
            index: which worker it is.
            command: its program.
            processors: the only ones that it runs on; none is all.
            inherited: the fds that it shares with others, by name, and a fresh one with its specification.
            states: the packet that tells the present state of the provider hosts.
            drain_timeout: seconds that it has to end after it was told to.
            on_end: called when it has ended for good or is about to be started again.
        """
        self.ended = False
        self._loop = loop
        self._index = index
        self._command = command
        self._processors = processors
        self._inherited = inherited
        self._states = states
        self._drain_timeout = drain_timeout
        self._on_end = on_end
        self._back_off = BackOff(GOOD_RUN)
        self._log = _log.bind(worker=index)
        self._process: Process | None = None
        self._control: socket.socket | None = None
        self._timer: Timer | None = None
        self._stopping = False
        self._restarting = False

    @property
    def pid(self) -> int:
        """Of its process, 0 where there is none now."""
        return 0 if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the process and tell it the present states."""
        self._cancel_timer()
        self._restarting = False
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        shared, spec_fd = self._inherited()
        fds = {**shared, "control": its.fileno(), "spec": spec_fd}
        try:
            command = (*self._command, *worker_arguments(self._index, fds, self._processors))
            self._process = start_child(self._loop, command, tuple(fds.values()), self._gone)
        except OSError as problem:
            ours.close()
            self._log.error("the worker cannot be started", reason=problem.strerror)
            self._set_timer(self._back_off.next_delay(), self.start)
            return
        finally:
            its.close()
            os.close(spec_fd)
        ours.setblocking(False)
        self._control = ours
        self._back_off.up()
        self._log.info("worker started", pid=self._process.pid)
        self.tell_states()

    def tell_states(self) -> None:
        """Send the present states. Where the worker has not read for long, it gets the newest when it reads."""
        if self._control is None:
            return
        try:
            self._control.send(self._states())
        except BlockingIOError:
            self._loop.watch(self._control.fileno(), self.tell_states, READ | WRITE)
        except OSError:
            self._close_control()
        else:
            self._loop.unwatch(self._control.fileno())

    def restart(self) -> None:
        """End the process and start another; `on_end` is called in between."""
        self._restarting = True
        self._back_off.reset()
        if self._process is None:
            self.start()
            self._on_end()
        else:
            self._end(signal.SIGTERM)

    def stop(self) -> None:
        """End the worker for good: it finishes what is under way, and is killed when that takes too long."""
        self._stopping = True
        if self._process is None:
            self._cancel_timer()
            self.ended = True
            self._on_end()
        else:
            self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the process at once."""
        if self._process is not None:
            self._process.send(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send(number)
        self._set_timer(self._drain_timeout, self._overdue)

    def _overdue(self) -> None:
        self._log.warning("the worker did not end in time and is killed", waited=self._drain_timeout)
        self.kill()

    def _gone(self, code: int | None) -> None:
        self._process = None
        self._close_control()
        self._cancel_timer()
        self._log.info("the worker has ended", how=ending(code))
        if self._stopping:
            self.ended = True
            self._on_end()
        elif self._restarting:
            self.start()
            self._on_end()
        else:
            delay = self._back_off.next_delay()
            self._log.warning("the worker is started again", after=delay)
            self._set_timer(delay, self.start)

    def _set_timer(self, seconds: float, action: Callable[[], None]) -> None:
        self._cancel_timer()
        self._timer = self._loop.call_later(seconds, action)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _close_control(self) -> None:
        if self._control is not None:
            self._loop.unwatch(self._control.fileno())
            self._control.close()
            self._control = None
