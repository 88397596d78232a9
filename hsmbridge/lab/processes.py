"""The processes of a lab's daemon: found again whatever was killed of them, and ended.

The supervisor is known by the configuration on its command line, workers as its children, provider hosts by the
sockets that they listen on. Each is held by a pidfd, so that its number cannot come to mean another process.
"""

import os
import select
import signal
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from enum import Enum, auto, unique
from pathlib import Path

from hsmbridge.core.peer import peer_credentials

_CONNECT_TIMEOUT = 2.0


@unique
class Part(Enum):
    """What a process does in a daemon."""

    SUPERVISOR = auto()
    WORKER = auto()
    HOST = auto()


_MODULES = {"hsmbridge.daemon": Part.WORKER, "hsmbridge.providers.host": Part.HOST}
"""What stands behind the -m of those that the supervisor starts."""


class Process:
    """A process, held by a pidfd until `close`.

    Attributes:
        pid: its number.
        part: what it does in a daemon, or None where it is no process of hsmbridge.
    """

    def __init__(self, pid: int) -> None:
        """Hold it. Raises ProcessLookupError where there is none."""
        self.pid = pid
        self._fd = os.pidfd_open(pid)
        # Read while the pidfd is held, so that it is this process and no successor that is looked at.
        self.part = _part(_arguments(pid))

    def close(self) -> None:
        """Let go of it."""
        os.close(self._fd)

    def send(self, number: signal.Signals) -> None:
        """Send a signal; to one that has ended, nothing happens."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._fd, number)

    def wait(self, seconds: float) -> bool:
        """Whether it has ended, after at most so many seconds."""
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        return bool(poll.poll(seconds * 1000))


@contextmanager
def daemon_processes(configuration: Path, runtime_directory: Path) -> Iterator[list[Process]]:
    """Every process of the daemon with this configuration and sockets; held meanwhile."""
    numbers = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]
    serving = {pid for pid in numbers if {"serve", str(configuration)} <= set(_arguments(pid))}
    sockets = [*runtime_directory.glob("*.sock"), *runtime_directory.glob("providers/*.sock")]
    serving.update(map(_listener, sockets))
    started = {pid for pid in numbers if _parent(pid) in serving - {0}}
    held = []
    for pid in (serving | started) - {0, os.getpid()}:
        with suppress(ProcessLookupError):
            held.append(Process(pid))
    try:
        yield [process for process in held if process.part is not None]
    finally:
        for process in held:
            process.close()


def end(processes: Iterable[Process], *, grace: float) -> None:
    """Ask them to end, and kill those that have not within `grace` seconds."""
    held = list(processes)
    for process in held:
        process.send(signal.SIGTERM)
    deadline = time.monotonic() + grace
    for process in held:
        if not process.wait(max(0.0, deadline - time.monotonic())):
            kill((process,), grace=grace)


def kill(processes: Iterable[Process], *, grace: float) -> None:
    """Kill them as the kernel does, and wait until they are gone, at most `grace` seconds each."""
    held = list(processes)
    for process in held:
        process.send(signal.SIGKILL)
    for process in held:
        process.wait(grace)


def listens(path: Path) -> bool:
    """Whether anybody listens on a socket."""
    return _listener(path) > 0


def _listener(path: Path) -> int:
    """The process that made a listening socket (SO_PEERCRED of unix(7)), or 0 where nobody listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_CONNECT_TIMEOUT)
        try:
            connection.connect(str(path))
        except OSError:
            return 0
        return peer_credentials(connection).pid


def _parent(pid: int) -> int:
    """Of a process, 0 where there is none (proc(5): state and parent follow the name in brackets)."""
    try:
        return int(Path("/proc", str(pid), "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _arguments(pid: int) -> list[str]:
    try:
        return os.fsdecode(Path("/proc", str(pid), "cmdline").read_bytes()).split("\0")
    except OSError:
        return []


def _part(arguments: list[str]) -> Part | None:
    for module, part in _MODULES.items():
        if module in arguments:
            return part
    return Part.SUPERVISOR if "serve" in arguments else None
