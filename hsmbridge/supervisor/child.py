"""Processes that the supervisor watches: its children, and a host that it took over from a supervisor before it.

Each is known by a pidfd, so that a signal can never reach another process and an end is never missed or polled for.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final

from hsmbridge.supervisor.loop import EventLoop
from hsmbridge.supervisor.notify import VARIABLE

DELAY_FIRST: Final = 1.0
DELAY_MAX: Final = 30.0
"""Seconds between attempts to start what does not stay up."""


class Process:
    """A process whose end is told once to `on_end`, with its return code: negative is a signal, None unknown."""

    def __init__(
        self,
        loop: EventLoop,
        pid: int,
        pidfd: int,
        on_end: Callable[[int | None], None],
        child: "subprocess.Popen[bytes] | None" = None,
    ) -> None:
        self.pid = pid
        self._loop = loop
        self._pidfd = pidfd
        self._on_end = on_end
        self._child = child
        loop.watch(pidfd, self._ended)

    def send(self, number: signal.Signals) -> None:
        """Send a signal; to a process that has just ended, it is fine."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, number)

    def _ended(self) -> None:
        self._loop.unwatch(self._pidfd)
        os.close(self._pidfd)
        code = None if self._child is None else self._child.wait()
        self._on_end(code)


def start_child(
    loop: EventLoop, command: Sequence[str], fds: Sequence[int], on_end: Callable[[int | None], None]
) -> Process:
    """Start a program that inherits `fds` under their numbers. Raises OSError.

    It has a session of its own, so that what a terminal sends goes to the supervisor alone, and no standard input.
    What it prints goes where the log goes.
    """
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=2,
        pass_fds=fds,
        env=_environment(os.environ),
        start_new_session=True,
    )
    return Process(loop, child.pid, os.pidfd_open(child.pid), on_end, child)


class BackOff:
    """How long to wait before the next start: not at all after a good run, then 1, 2, 4 .. 30 seconds."""

    def __init__(self, good_run: float, clock: Callable[[], float] = time.monotonic) -> None:
        """`good_run`: seconds up after which an end says nothing about the next start."""
        self._good_run = good_run
        self._clock = clock
        self._failures = 0
        self._up_since: float | None = None

    def up(self) -> None:
        """It is up now."""
        self._up_since = self._clock()

    def reset(self) -> None:
        """Forget what was: the reason may be gone."""
        self._failures = 0
        self._up_since = None

    def next_delay(self) -> float:
        """It has ended: seconds to wait."""
        if self._up_since is not None and self._clock() - self._up_since >= self._good_run:
            self._failures = 0
        elif self._up_since is None:
            self._failures = max(self._failures, 1)
        self._up_since = None
        delay = 0.0 if not self._failures else min(DELAY_FIRST * 2.0 ** (self._failures - 1), DELAY_MAX)
        self._failures += 1
        return delay


def ending(code: int | None) -> str:
    """A return code in words."""
    if code is None:
        return "ended"
    if code >= 0:
        return f"ended with status {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


def _environment(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name != VARIABLE}
