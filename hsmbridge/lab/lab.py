"""A lab: a SoftHSM token, a simulated TPM and the daemon over them, in a directory of their own.

    with Lab.start() as lab:
        lab.stack().create_slot("web", "EC-P256", SIGN | VERIFY, providers=["tpm"])
        lab.kill_daemon()
        lab.restart_daemon()

Everything is real, nothing is global: labs stand side by side, and a lab leaves nothing behind. Not a way to run the
service: its keys are as safe as a folder in /tmp.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from typing import Self, TypeVar

import msgspec

from hsmbridge.client import CryptoStack, ProviderInfo
from hsmbridge.client.connection import Connection
from hsmbridge.client.deadline import DEFAULT_TIMEOUT
from hsmbridge.client.shared import SharedConnection
from hsmbridge.core.errors import HsmBridgeError, ProviderError, RequestError, Status, WireError
from hsmbridge.core.messages import ProvidersReply, ProvidersRequest, StatusReply, StatusRequest
from hsmbridge.lab.configuration import configuration
from hsmbridge.lab.options import LabOptions
from hsmbridge.lab.places import (
    LAB_VARIABLE,
    LabRecord,
    claim_directory,
    new_directory,
    read_record,
    write_record,
)
from hsmbridge.lab.processes import Part, Process, daemon_processes, end, kill, listens
from hsmbridge.lab.resources import require_swtpm, softhsm_module
from hsmbridge.lab.rigs import SoftHsmToken, Swtpm
from hsmbridge.providers.registry import Isolation
from hsmbridge.wire.codec import decode_reply, encode_request

START_TIMEOUT = 60.0
"""Seconds that a lab may take to be there; it takes about two, and some machines are busy."""
GRACE = 15.0
"""Seconds that a process has to end before it is killed."""
TOKEN_LABEL = "hsmbridge-lab"  # noqa: S105 - what the token is called
_POLL = 0.02
_CONNECTIONS = 32
"""At most, to be heard by every worker: the next one goes to the worker that has fewest, and others may hold some."""
_LOG_LINES = 20

_Reply = TypeVar("_Reply", bound=msgspec.Struct)


class LabUnusable(ProviderError):
    """The daemon of a lab, or one of its providers, is not there. `log` is what the daemon said last."""

    def __init__(self, what: str, log: str) -> None:
        super().__init__(Status.PROVIDER_UNAVAILABLE, f"The lab is not usable: {what}.")
        self.log = log


class Lab:
    """One lab. `start` makes one, `at` finds one that runs; as a context manager it is taken down at the end.

    Attributes:
        directory: holds everything of it.
        options: how it was asked for.
        token: the token of the provider softhsm.
        tpm: the TPM of the provider tpm, or None.
    """

    def __init__(self, directory: Path, record: LabRecord) -> None:
        """For `start` and `at`."""
        self.directory = directory
        self.options = record.options
        self.token = SoftHsmToken(directory / "softhsm", TOKEN_LABEL)
        self.tpm = Swtpm(directory / "tpm") if record.options.tpm else None
        self._supervisor: subprocess.Popen[bytes] | None = None

    @classmethod
    def start(
        cls, options: LabOptions | None = None, directory: Path | None = None, *, timeout: float = START_TIMEOUT
    ) -> Self:
        """Make a lab and wait until its providers can be used.

        Args:
            options: how it is to be.
            directory: where, a folder that is empty or not there yet; None takes a new one.
            timeout: seconds to wait for the providers.

        Raises:
            RequestError: INVALID_CONFIGURATION, where SoftHSM or swtpm is missing or the directory cannot be used.
            LabUnusable: saying why. Nothing is left behind.
        """
        record = LabRecord(options=options or LabOptions(), created=time.time())
        softhsm_module()
        if record.options.tpm:
            require_swtpm()
        place = new_directory() if directory is None else claim_directory(directory)
        write_record(place, record)
        lab = cls(place, record)
        try:
            SoftHsmToken.make(lab.token.directory, lab.token.label)
            if lab.tpm is not None:
                lab.tpm.start()
            lab.config.write_text(configuration(lab.directory, lab.options, lab.token, lab.tpm))
            lab.start_daemon(timeout=timeout)
        except BaseException:
            lab.down()
            raise
        return lab

    @classmethod
    def at(cls, directory: Path) -> Self:
        """The lab in a directory. Raises ResourceError (RESOURCE_NOT_FOUND)."""
        place = directory.absolute()
        return cls(place, read_record(place))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    # Where things are

    @property
    def config(self) -> Path:
        """The daemon's configuration."""
        return self.directory / "hsmbridge.toml"

    @property
    def socket(self) -> Path:
        """The daemon's socket."""
        return self.runtime_directory / "hsmbridge.sock"

    @property
    def runtime_directory(self) -> Path:
        """Sockets and locks of the daemon and of the provider hosts."""
        return self.directory / "run"

    @property
    def log(self) -> Path:
        """What the daemon says, from its first start on."""
        return self.directory / "daemon.log"

    @property
    def providers(self) -> tuple[str, ...]:
        """The names of its providers."""
        return ("software", "softhsm") if self.tpm is None else ("software", "softhsm", "tpm")

    @property
    def environment(self) -> Mapping[str, str]:
        """The variables that lead programs to this lab; paths, and never a PIN."""
        return {
            "HSMBRIDGE_SOCKET": str(self.socket),
            "HSMBRIDGE_CONFIG": str(self.config),
            LAB_VARIABLE: str(self.directory),
            **self.token.environment,
            **({} if self.tpm is None else self.tpm.environment),
        }

    def stack(self, *, timeout: float | None = DEFAULT_TIMEOUT) -> CryptoStack:
        """A client of this lab's daemon; `timeout` is that of its calls, in seconds."""
        return CryptoStack(self.socket, timeout=timeout)

    # What can happen to it

    def start_daemon(self, *, timeout: float = START_TIMEOUT) -> None:
        """Start the daemon and wait until its providers can be used. Hosts that a killed one left are taken over.

        Raises LabUnusable, saying what did not come up and why.
        """
        with self.log.open("ab") as log:
            self._supervisor = subprocess.Popen(
                (sys.executable, "-P", "-m", "hsmbridge.cli", "serve", "--config", self.config),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env=self._daemon_environment(),
                start_new_session=True,
            )
        self.wait_until_available(timeout=timeout)

    def restart_daemon(self, *, timeout: float = START_TIMEOUT) -> None:
        """End the daemon and its hosts, as far as they run, and start it. Raises as `start_daemon`."""
        self.stop_daemon()
        self.start_daemon(timeout=timeout)

    def stop_daemon(self) -> None:
        """End the daemon in order: what is under way ends first, then the provider hosts. It may be gone already."""
        with self._processes() as processes:
            end((process for process in processes if process.part is Part.SUPERVISOR), grace=GRACE)
            end(processes, grace=GRACE)
        self._reap()
        # Workers whose supervisor was killed are nobody's children; they end by themselves, and then nobody listens.
        deadline = time.monotonic() + GRACE
        while listens(self.socket) and time.monotonic() < deadline:
            time.sleep(_POLL)

    def kill_daemon(self) -> None:
        """Kill supervisor and workers at once (SIGKILL). The provider hosts are left to the next daemon."""
        with self._processes() as processes:
            kill((process for process in processes if process.part is not Part.HOST), grace=GRACE)
        self._reap()

    def kill_host(self, provider: str) -> int:
        """Kill the host process of a provider (SIGKILL); the supervisor starts another. Answers the number it had.

        Raises RequestError (INVALID_ARGUMENT) where it has none.
        """
        pid = self.provider(provider).pid
        with self._processes() as processes:
            hosts = [process for process in processes if process.part is Part.HOST and process.pid == pid]
            if not hosts:
                raise RequestError(Status.INVALID_ARGUMENT, f"Provider {provider} has no host process.")
            kill(hosts, grace=GRACE)
        return pid

    def kill_tpm(self) -> None:
        """Cut the TPM off (SIGKILL), as a power failure does."""
        self._required_tpm().kill()

    def restart_tpm(self) -> None:
        """Start the TPM again, or restart it like a machine's reboot where it runs."""
        self._required_tpm().restart()

    def provider(self, name: str) -> ProviderInfo:
        """What the daemon says of a provider. Raises RequestError (INVALID_ARGUMENT) where it has none of this name."""
        with self.stack() as stack:
            for info in stack.providers():
                if info.name == name:
                    return info
        raise RequestError(Status.INVALID_ARGUMENT, f"This lab has no provider {name}; it has {self.providers}.")

    def wait_until_available(
        self, names: Iterable[str] = (), *, replaced: int = 0, timeout: float = START_TIMEOUT
    ) -> None:
        """Wait until providers can be used, whichever worker is asked.

        Args:
            names: of them; none is all.
            replaced: a host process that was killed: what it served counts only when another one serves it.
            timeout: seconds.

        Raises:
            LabUnusable: with what the daemon said last.
        """
        wanted = tuple(names) or self.providers
        deadline = time.monotonic() + timeout
        missing = "the daemon does not answer"
        while True:
            if self._supervisor is not None and self._supervisor.poll() is not None:
                raise self._unusable(f"the daemon ended with status {self._supervisor.returncode}")
            if time.monotonic() > deadline:
                raise self._unusable(f"after {timeout:.0f} seconds {missing}")
            try:
                told = self._told_by_workers(max(_POLL, deadline - time.monotonic()))
            except HsmBridgeError as problem:
                # Nor does one whose only worker waits for its next start, for as long as a hello may take.
                missing = f"the daemon does not answer ({problem.message})"
            else:
                problems = [_problem(name, found.get(name), replaced) for found in told for name in wanted]
                if len(told) < self.options.workers:
                    problems.append(f"{len(told)} of {self.options.workers} workers answer")
                missing = "; ".join(dict.fromkeys(filter(None, problems)))
                if not missing:
                    return
            time.sleep(_POLL)

    def down(self) -> None:
        """End everything and remove the directory. What is gone already is no error."""
        self.stop_daemon()
        if self.tpm is not None and self.tpm.directory.exists():
            self.tpm.stop()
        with suppress(FileNotFoundError):
            shutil.rmtree(self.directory)

    @property
    def running(self) -> bool:
        """Whether its daemon has a supervisor."""
        with self._processes() as processes:
            return any(process.part is Part.SUPERVISOR for process in processes)

    # Its insides

    def _processes(self) -> AbstractContextManager[list[Process]]:
        return daemon_processes(self.config, self.runtime_directory)

    def _told_by_workers(self, timeout: float) -> list[dict[str, ProviderInfo]]:
        """What each worker knows of the providers. A worker that is not there yet is left out."""
        told: dict[int, dict[str, ProviderInfo]] = {}
        with ExitStack() as held:
            for _ in range(_CONNECTIONS):
                shared = SharedConnection(self.socket)
                held.callback(shared.close)
                connection = shared.connection(timeout)
                status = _ask(connection, StatusRequest(), StatusReply, timeout)
                providers = _ask(connection, ProvidersRequest(), ProvidersReply, timeout).providers
                told[status.pid] = {info.name: info for info in providers}
                if len(told) == self.options.workers:
                    break
        return list(told.values())

    def _reap(self) -> None:
        if self._supervisor is not None:
            self._supervisor.wait()
            self._supervisor = None

    def _required_tpm(self) -> Swtpm:
        if self.tpm is None:
            raise RequestError(Status.INVALID_ARGUMENT, "This lab was made without a TPM.")
        return self.tpm

    def _daemon_environment(self) -> dict[str, str]:
        """Ours without what would lead to another lab; on threads, the module reads the daemon's own variables."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("HSMBRIDGE_")}
        threads = self.options.isolation is Isolation.THREAD
        return {**inherited, **(self.token.environment if threads else {})}

    def _unusable(self, what: str) -> LabUnusable:
        lines = self.log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
        return LabUnusable(what, "\n".join(lines))


def _ask(connection: Connection, request: msgspec.Struct, kind: type[_Reply], timeout: float) -> _Reply:
    reply = decode_reply(connection.exchange(encode_request, request, timeout))
    if not isinstance(reply, kind):
        raise WireError(Status.MALFORMED_FRAME, f"The daemon answered with {type(reply).__name__}.")
    return reply


def _problem(name: str, info: ProviderInfo | None, replaced: int) -> str:
    if info is None:
        return f"provider {name} is not there"
    if info.state != "available":
        return f"provider {name}: {info.reason}"
    return f"provider {name} is still that of process {replaced}" if replaced and info.pid == replaced else ""
