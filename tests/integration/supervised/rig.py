"""Runs a supervisor with toy workers and hosts in a directory of its own, and asks them how they are.

Nothing here sleeps: a question to a worker is answered when what was asked for is so, and the end of a process is
waited for at its pidfd.
"""

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from hsmbridge.providers.registry import ProviderSpec
from hsmbridge.supervisor import PinSource, SupervisedProvider, SupervisorSettings

HERE = Path(__file__).parent
PATIENCE = 30.0


def script(name: str) -> tuple[str, ...]:
    return (sys.executable, "-P", str(HERE / name))


def toy(name: str = "toy", uri: str = "toy:", pin: PinSource | None = None, **options: Any) -> SupervisedProvider:
    return SupervisedProvider(spec=ProviderSpec(name=name, uri=uri, **options), pin=pin)


class Rig:
    """One directory with at most one running supervisor, and the processes that it may have left behind."""

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="hb", dir="/tmp"))
        self.process: subprocess.Popen[bytes] | None = None
        self.known: dict[int, int] = {}
        self.settings = SupervisorSettings(
            runtime_dir=self.root / "run",
            state_dir=self.root / "state",
            providers=(toy(),),
            worker_spec=b"spec",
            drain_timeout=20.0,
            worker_command=script("toy_worker.py"),
            host_command=script("toy_host.py"),
        )

    def configure(self, **changes: Any) -> None:
        """Change settings; a running supervisor sees them at its next reload."""
        self.settings = msgspec.structs.replace(self.settings, **changes)
        text = msgspec.json.encode(self.settings, enc_hook=str)
        (self.root / "settings.json").write_bytes(text)

    def start(self, *, pass_fds: tuple[int, ...] = (), **environment: str) -> None:
        """Start a supervisor, and wait until one of its workers answers."""
        self.configure()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(), pass_fds=pass_fds, env={**os.environ, **environment}, stderr=log
            )
        self.ask("who")

    def command(self) -> tuple[str, ...]:
        return (*script("toy_serve.py"), str(self.root / "settings.json"))

    def refused(self) -> str:
        """Start a supervisor that is expected to refuse, and say why it did."""
        self.configure()
        done = subprocess.run(self.command(), capture_output=True, timeout=PATIENCE, text=True, check=False)
        assert done.returncode == 1, done
        return done.stderr.splitlines()[-1]

    @property
    def log(self) -> Path:
        return self.root / "log"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def connect(self) -> socket.socket:
        """A connection to a worker, as soon as somebody listens."""
        assert self.process is not None
        while True:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.settimeout(PATIENCE)
            try:
                connection.connect(str(self.settings.socket_path))
            except (FileNotFoundError, ConnectionRefusedError):
                connection.close()
                # A supervisor that ends instead of listening is no reason to wait; 10 ms is the poll's own wait.
                assert self.ended(self.process.pid, within=0.01) is False, self.log.read_text()
                continue
            return connection

    def ask(self, what: str, **details: Any) -> dict[str, Any]:
        """What a worker answers, when it does. One that ends instead, with its supervisor, is not the one to ask."""
        answer = ""
        while not answer:
            with self.connect() as connection, suppress(ConnectionError):
                connection.sendall(json.dumps({"ask": what, **details}).encode() + b"\n")
                with connection.makefile() as answers:
                    answer = answers.readline()
        found: dict[str, Any] = json.loads(answer)
        for pid in (found["pid"], *(state["pid"] for state in found["states"].values())):
            self.remember(pid)
        return found

    def available(self, name: str = "toy", *, not_pid: int = -1) -> dict[str, Any]:
        """The state of a provider, once it is available (with another process than `not_pid`)."""
        state: dict[str, Any] = self.ask("await", provider=name, available=True, not_pid=not_pid)["states"][name]
        return state

    def unavailable(self, name: str = "toy", *, status: int | None = None, because: str = "") -> dict[str, Any]:
        """The state of a provider, once it is unavailable with this status and with these words in its message."""
        wanted = {"provider": name, "available": False, "status": status, "because": because}
        state: dict[str, Any] = self.ask("await", **wanted)["states"][name]
        return state

    def remember(self, pid: int) -> None:
        """Keep a pidfd, so that the end of the process can be seen and nothing is left behind."""
        if pid and pid not in self.known:
            with suppress(ProcessLookupError):
                self.known[pid] = os.pidfd_open(pid)

    def ended(self, pid: int, *, within: float = PATIENCE) -> bool:
        """Whether a process ends in time."""
        self.remember(pid)
        if pid not in self.known:
            return True
        poll = select.poll()
        poll.register(self.known[pid], select.POLLIN)
        return bool(poll.poll(within * 1000))

    def kill(self, pid: int) -> None:
        """SIGKILL, and wait for the end."""
        self.remember(pid)
        os.kill(pid, signal.SIGKILL)
        assert self.ended(pid)

    def kill_supervisor(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(PATIENCE)

    def stop(self) -> int:
        """SIGTERM, and the exit status."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(PATIENCE)

    def reload(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGHUP)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process is not None and self.process.poll() is None:
            # In order, for it knows of processes that no worker told of.
            self.process.terminate()
            self.process.send_signal(signal.SIGINT)
            self.process.wait(PATIENCE)
        for pidfd in self.known.values():
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)
        if kind is not None:
            print(self.log.read_text() if self.log.exists() else "no log")
        shutil.rmtree(self.root)
