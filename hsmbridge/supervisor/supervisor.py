"""The supervisor itself: start, reload, stop, and in between waiting for something to die.

Killed without warning, it leaves workers that end when their control sockets do, and hosts that serve on for
`drain_timeout` and are taken over by the next supervisor.
"""

import os
import signal
import socket
import time
from collections.abc import Callable

import msgspec
import structlog

from hsmbridge.core.errors import HsmBridgeError
from hsmbridge.core.secrets import Pin
from hsmbridge.providers.host.hardening import harden_process
from hsmbridge.providers.host.messages import ProviderStates
from hsmbridge.storage.changes import SharedCounters
from hsmbridge.supervisor.hosts import HostKeeper
from hsmbridge.supervisor.inheritance import write_worker_spec
from hsmbridge.supervisor.loop import EventLoop
from hsmbridge.supervisor.notify import notify
from hsmbridge.supervisor.pins import PinReader
from hsmbridge.supervisor.places import listen, make_directory, take_lock
from hsmbridge.supervisor.settings import COUNTER_COLUMNS, LOCK_NAME, SupervisedProvider, SupervisorSettings
from hsmbridge.supervisor.workers import WorkerKeeper
from hsmbridge.wire.codec import encode_body

_log = structlog.get_logger(__name__)


class Supervisor:
    """One service on one machine.

    `start`, then `run` until a signal (SIGTERM, SIGINT: stop; SIGHUP: reload) or `stop` ends it.
    """

    def __init__(
        self,
        settings: SupervisorSettings,
        load: Callable[[], SupervisorSettings] | None = None,
        *,
        check: Callable[[bytes], None] | None = None,
    ) -> None:
        """Nothing is started yet.

        Args:
            settings: what to run.
            load: reads the configuration anew, for a reload; without it the settings stay and PINs are read again.
            check: looks at the workers' specification before any is started, and raises where none could run.
        """
        self._settings = settings
        self._load = load
        self._check = check
        self._loop = EventLoop()
        self._pins = PinReader()
        self._locks: list[int] = []
        self._hosts: dict[str, HostKeeper] = {}
        self._leaving: list[HostKeeper] = []
        self._workers: list[WorkerKeeper] = []
        self._to_restart: list[WorkerKeeper] = []
        self._listener: socket.socket | None = None
        self._front_ends: dict[str, socket.socket] = {}
        self._counters: SharedCounters | None = None
        self._pins_told: dict[str, Pin | HsmBridgeError] = {}
        self._stopping = False
        self._reloads = 0
        self._stopped = False

    def start(self) -> None:
        """Take the locks, listen, start hosts and workers.

        Raises:
            ResourceError: RESOURCE_EXISTS where another supervisor runs here.
            RequestError: INVALID_CONFIGURATION for a directory or socket that cannot be used.
            StoreError: what `check` found.
        """
        settings = self._settings
        harden_process()
        make_directory(settings.runtime_dir, 0o755)
        make_directory(settings.state_dir, 0o700)
        make_directory(settings.hosts_directory, 0o700)
        self._locks.append(take_lock(settings.runtime_dir / LOCK_NAME))
        if settings.socket_path.parent != settings.runtime_dir:
            self._locks.append(take_lock(settings.socket_path.with_name(f"{settings.socket_path.name}.lock")))
        if self._check is not None:
            self._check(settings.worker_spec)
        self._listener = listen(settings.socket_path, settings.socket_mode, settings.backlog)
        for front_end in settings.front_ends:
            if front_end.path.parent != settings.runtime_dir:
                self._locks.append(take_lock(front_end.path.with_name(f"{front_end.path.name}.lock")))
            self._front_ends[front_end.name] = listen(front_end.path, front_end.mode, settings.backlog)
        self._counters = SharedCounters.create(settings.workers, COUNTER_COLUMNS)
        for provider in settings.hosted():
            self._add_host(provider)
        self._pins_told = self._worker_pins()
        for index in range(settings.workers):
            self._add_worker(index)
        notify("READY=1", f"MAINPID={os.getpid()}")
        _log.info("started", pid=os.getpid(), workers=settings.workers, hosts=len(self._hosts))

    def run(self) -> None:
        """Watch over all until stopped; call it from the main thread."""
        self._loop.heed(
            {
                signal.SIGTERM: self._told_to_stop,
                signal.SIGINT: self._told_to_stop,
                signal.SIGHUP: self.reload,
            }
        )
        self._loop.run(until=lambda: self._stopped)
        self._close()

    def reload(self) -> None:
        """Read the configuration again; start failed providers again, replace what has changed.

        A configuration that cannot be used is logged, and everything stays as it is.
        """
        if self._stopping:
            return
        notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        before = self._settings
        try:
            after = before if self._load is None else self._load()
        except HsmBridgeError as problem:
            _log.error("the configuration was not reloaded", reason=problem.message, origin=problem.origin)
        else:
            self._reloads += 1
            self._apply(before, after)
        notify("READY=1")

    def stop(self) -> None:
        """Begin to stop: workers finish what is under way, then the hosts are told; `run` returns after that."""
        if self._stopping:
            return
        self._stopping = True
        _log.info("stopping")
        notify("STOPPING=1")
        # What waits to be accepted and comes from now on is refused by the kernel when the last worker has ended.
        self._settings.socket_path.unlink(missing_ok=True)
        for front_end in self._settings.front_ends:
            front_end.path.unlink(missing_ok=True)
        for worker in self._workers:
            worker.stop()
        self._go_on_stopping()

    def states(self) -> ProviderStates:
        """How the provider hosts are."""
        return ProviderStates(tuple(host.state for host in self._hosts.values()), self._reloads)

    def _apply(self, before: SupervisorSettings, after: SupervisorSettings) -> None:
        for name in (
            "runtime_dir",
            "state_dir",
            "socket_path",
            "socket_mode",
            "workers",
            "spread",
            "backlog",
            "front_ends",
        ):
            if getattr(before, name) != getattr(after, name):
                _log.warning("this change takes effect when the service is started again", setting=name)
        self._settings = after = _keep_fixed(before, after)
        wanted = {provider.spec.name: provider for provider in after.hosted()}
        for name in self._hosts.keys() - wanted.keys():
            host = self._hosts.pop(name)
            self._leaving.append(host)
            host.stop()
        for name, provider in wanted.items():
            if name in self._hosts:
                self._hosts[name].update(after.host_spec(provider), self._pin_of(provider))
            else:
                self._add_host(provider)
        self._broadcast()
        pins_before, self._pins_told = self._pins_told, self._worker_pins()
        if before.worker_spec != after.worker_spec or pins_before != self._pins_told:
            self._to_restart = list(self._workers)
            self._restart_next()

    def _add_host(self, provider: SupervisedProvider) -> None:
        settings = self._settings
        self._hosts[provider.spec.name] = host = HostKeeper(
            self._loop,
            settings.host_spec(provider),
            settings.host_command,
            self._pin_of(provider),
            settings.host_start_timeout,
            settings.host_answer_timeout,
            self._host_changed,
        )
        host.start()

    def _add_worker(self, index: int) -> None:
        settings = self._settings
        worker = WorkerKeeper(
            self._loop,
            index,
            settings.worker_command,
            settings.processors().workers[index],
            self._inheritance,
            lambda: encode_body(self.states()),
            settings.drain_timeout,
            self._worker_ended,
        )
        self._workers.append(worker)
        worker.start()

    def _pin_of(self, provider: SupervisedProvider) -> Callable[[], Pin | None]:
        source = provider.pin
        if source is None:
            return lambda: None
        return lambda: self._pins.read(provider.spec.name, source)

    def _inheritance(self) -> tuple[dict[str, int], int]:
        if self._listener is None or self._counters is None:
            raise RuntimeError("workers are started after the socket is there")
        shared = {"listen": self._listener.fileno(), "counters": self._counters.fd}
        shared |= {name: listener.fileno() for name, listener in self._front_ends.items()}
        return shared, write_worker_spec(self._settings.worker_spec, self._worker_pins())

    def _worker_pins(self) -> dict[str, Pin | HsmBridgeError]:
        """The PINs of the providers inside the workers, or why one cannot be read."""
        pins: dict[str, Pin | HsmBridgeError] = {}
        for provider in self._settings.threaded():
            try:
                pin = self._pin_of(provider)()
            except HsmBridgeError as problem:
                pins[provider.spec.name] = problem
            else:
                if pin is not None:
                    pins[provider.spec.name] = pin
        return pins

    def _host_changed(self) -> None:
        self._leaving = [host for host in self._leaving if not host.ended]
        if self._stopping:
            self._go_on_stopping()
        else:
            self._broadcast()

    def _broadcast(self) -> None:
        for worker in self._workers:
            worker.tell_states()

    def _worker_ended(self) -> None:
        if self._stopping:
            self._go_on_stopping()
        else:
            self._restart_next()

    def _restart_next(self) -> None:
        if self._to_restart:
            self._to_restart.pop(0).restart()

    def _go_on_stopping(self) -> None:
        if not all(worker.ended for worker in self._workers):
            return
        hosts = [*self._hosts.values(), *self._leaving]
        for host in hosts:
            host.stop()
        self._stopped = all(host.ended for host in hosts)

    def _told_to_stop(self) -> None:
        if self._stopping:
            _log.warning("told to stop again; what is under way is given up")
            for worker in self._workers:
                worker.kill()
        self.stop()

    def _close(self) -> None:
        if self._listener is not None:
            self._listener.close()
        for listener in self._front_ends.values():
            listener.close()
        if self._counters is not None:
            self._counters.close()
        self._loop.close()
        _log.info("stopped")
        for lock in self._locks:
            os.close(lock)


def _keep_fixed(before: SupervisorSettings, after: SupervisorSettings) -> SupervisorSettings:
    return msgspec.structs.replace(
        after,
        runtime_dir=before.runtime_dir,
        state_dir=before.state_dir,
        socket=before.socket,
        socket_mode=before.socket_mode,
        workers=before.workers,
        spread=before.spread,
        backlog=before.backlog,
        front_ends=before.front_ends,
    )
