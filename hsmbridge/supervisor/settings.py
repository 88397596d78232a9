"""What the supervisor is told; the configuration is translated into this, and tests write it down."""

import os
import sys
from pathlib import Path

import msgspec

from hsmbridge.core.errors import RequestError, Status
from hsmbridge.providers.host.spec import HostSpec
from hsmbridge.providers.registry import Isolation, ProviderSpec
from hsmbridge.supervisor.pins import PinSource
from hsmbridge.supervisor.processors import Processors
from hsmbridge.wire.frames import DEFAULT_MAX_FRAME

SOCKET_NAME = "hsmbridge.sock"
LOCK_NAME = "supervisor.lock"
HOSTS_DIRECTORY = "providers"
MAX_WORKERS = 256
COUNTER_COLUMNS = 64
"""Cells of each worker in the shared counters: store changes, connections, calls of each provider."""
MAX_PROVIDERS = COUNTER_COLUMNS - 4

# -P: the folder in which the daemon happens to be started is no place to import from.
_PYTHON = (sys.executable, "-P", "-m")


class SupervisedProvider(msgspec.Struct, frozen=True, kw_only=True):
    """A provider, and where its PIN comes from if it has one."""

    spec: ProviderSpec
    pin: PinSource | None = None


class FrontEndSocket(msgspec.Struct, frozen=True, kw_only=True):
    """A socket beside the native one, for the front end of a name."""

    name: str
    path: Path
    mode: int = 0o600


class SupervisorSettings(msgspec.Struct, frozen=True, kw_only=True):
    """One running service. Times in seconds, sizes in bytes.

    Attributes:
        runtime_dir: for sockets and locks; made where it is missing.
        state_dir: where the daemon keeps what must last; made where it is missing, owner-only.
        providers: all of them; those with isolation = process get a host.
        worker_spec: what every worker is told, opaque here.
        socket: where clients connect; None is hsmbridge.sock in runtime_dir.
        socket_mode: of that socket.
        workers: daemon processes.
        spread: run workers and hosts on different processors.
        backlog: connections that may wait to be accepted.
        drain_timeout: how long a stop waits for what is under way, and hosts serve on without a supervisor.
        host_start_timeout: how long a provider may take to open.
        host_answer_timeout: how long a host may take to answer its supervisor, before it counts as hung.
        max_frame: the most data in one call.
        front_ends: sockets beside the first one.
        worker_command, host_command: the programs; tests put others in their place.
    """

    runtime_dir: Path
    state_dir: Path
    providers: tuple[SupervisedProvider, ...] = ()
    worker_spec: bytes = b""
    socket: Path | None = None
    socket_mode: int = 0o666
    workers: int = 1
    spread: bool = False
    backlog: int = 512
    drain_timeout: float = 30.0
    host_start_timeout: float = 60.0
    host_answer_timeout: float = 10.0
    max_frame: int = DEFAULT_MAX_FRAME
    front_ends: tuple[FrontEndSocket, ...] = ()
    worker_command: tuple[str, ...] = (*_PYTHON, "hsmbridge.daemon")
    host_command: tuple[str, ...] = (*_PYTHON, "hsmbridge.providers.host")

    def __post_init__(self) -> None:
        names = [provider.spec.name for provider in self.providers]
        for name in names:
            if names.count(name) > 1:
                raise RequestError(Status.INVALID_CONFIGURATION, f"Two providers are called {name}.")
        if len(names) > MAX_PROVIDERS:
            raise RequestError(
                Status.INVALID_CONFIGURATION,
                f"One service has at most {MAX_PROVIDERS} providers; this has {len(names)}.",
            )
        if not 1 <= self.workers <= MAX_WORKERS:
            raise RequestError(
                Status.INVALID_CONFIGURATION, f"`workers` is 1 to {MAX_WORKERS}; this is {self.workers}."
            )

    def __repr__(self) -> str:
        # What the workers are told may hold the store's passphrase.
        return f"{type(self).__name__}(runtime_dir={str(self.runtime_dir)!r})"

    def __rich_repr__(self) -> list[tuple[str, str]]:
        return [("runtime_dir", str(self.runtime_dir))]

    @property
    def socket_path(self) -> Path:
        """Where clients connect."""
        return self.runtime_dir / SOCKET_NAME if self.socket is None else self.socket

    @property
    def hosts_directory(self) -> Path:
        """Where the provider hosts have their sockets and locks."""
        return self.runtime_dir / HOSTS_DIRECTORY

    def host_spec(self, provider: SupervisedProvider) -> HostSpec:
        """What the host of a provider is told."""
        return HostSpec(
            provider=provider.spec,
            directory=str(self.hosts_directory),
            max_frame=self.max_frame,
            drain_timeout=self.drain_timeout,
            processors=self.processors().hosts,
        )

    def processors(self) -> Processors:
        """Where workers and hosts run, of the processors that this process may use."""
        if not self.spread:
            return Processors.anywhere(self.workers)
        return Processors.spread(self.workers, sorted(os.sched_getaffinity(0)))

    def hosted(self) -> tuple[SupervisedProvider, ...]:
        """The providers that get a process of their own."""
        return tuple(provider for provider in self.providers if provider.spec.isolation is Isolation.PROCESS)

    def threaded(self) -> tuple[SupervisedProvider, ...]:
        """The providers that run inside every worker."""
        return tuple(provider for provider in self.providers if provider.spec.isolation is Isolation.THREAD)
