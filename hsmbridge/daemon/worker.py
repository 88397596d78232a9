"""The composition of one worker: store, providers, engine, service and front ends, on one event loop."""

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from hsmbridge.core.errors import HsmBridgeError, RequestError, Status
from hsmbridge.core.identifiers import uid_principal
from hsmbridge.core.protocols import Protector
from hsmbridge.daemon.host_lane import HostLane
from hsmbridge.daemon.lanes import ProviderLanes
from hsmbridge.daemon.spec import StoreSpec, WorkerSpec
from hsmbridge.daemon.store_thread import StoreThread
from hsmbridge.engine.handles import Handles
from hsmbridge.engine.lanes import Lane, ThreadLane, UnavailableLane
from hsmbridge.engine.runner import Runner
from hsmbridge.frontends.native import Limits, NativeFrontEnd
from hsmbridge.keys.access import SlotKeys
from hsmbridge.keys.nonces import CallerNonces, ServiceNonces
from hsmbridge.keys.slots import NamespacePolicy, Slots
from hsmbridge.providers.host.messages import STATES_PACKET_MAX, ProviderStates
from hsmbridge.providers.registry import Isolation, ProviderSpec, open_provider
from hsmbridge.service.audit import LogAudit
from hsmbridge.service.catalogue import Entry, ProviderCatalogue
from hsmbridge.service.dispatcher import Dispatcher
from hsmbridge.service.information import DaemonFacts, Information
from hsmbridge.service.key_access import KeyAccess
from hsmbridge.service.key_making import KeyMaking
from hsmbridge.service.key_use import KeyUse
from hsmbridge.service.short_way import ShortWay
from hsmbridge.service.slots import SlotAdministration
from hsmbridge.service.sweep import Sweep
from hsmbridge.storage.changes import ChangeCounter, SharedCounters
from hsmbridge.storage.opening import open_store
from hsmbridge.storage.protectors import KeyFileProtector, PassphraseProtector
from hsmbridge.storage.records import Durability
from hsmbridge.storage.store import Store
from hsmbridge.supervisor.inheritance import Inheritance
from hsmbridge.wire.codec import decode_body
from hsmbridge.wire.frames import FRAME_ALLOWANCE, body_limit

SWEEP_INTERVAL = 60.0
"""Seconds between sweeps that nothing prompted."""

CONNECTIONS_COLUMN = 1
"""Of the shared counters; the calls of provider number N stand in column FIRST_CALLS_COLUMN + N."""
FIRST_CALLS_COLUMN = 2

_log = structlog.get_logger(__name__)


class Worker:
    """One daemon process from its first connection to its last reply."""

    def __init__(self, loop: asyncio.AbstractEventLoop, spec: WorkerSpec, inheritance: Inheritance) -> None:
        """Open the store and the in-process providers. Raises StoreError; a provider that fails is unavailable."""
        self._loop = loop
        self._spec = spec
        self._inheritance = inheritance
        self._counters = SharedCounters.attach(inheritance.counters_fd)
        self._started = time.monotonic()
        self._store = open_store_of(spec.store, ChangeCounter(self._counters, inheritance.index))
        self._store_thread = StoreThread()
        self._batches = StoreThread()
        self._catalogue = ProviderCatalogue(_entries(spec))
        self._threads: list[ThreadLane] = []
        hosts = {provider.name: self._host_lane(provider.name, provider.threads) for provider in spec.providers}
        fixed = {provider.name: self._open(provider) for provider in spec.in_process}
        self._lanes = ProviderLanes(fixed, hosts, self._catalogue)
        self._runner = Runner(self._lanes, self._store_thread, time.monotonic)
        self._sweep, self._front_end = self._compose()
        self._stopped = loop.create_future()

    def _compose(self) -> tuple[Sweep, NativeFrontEnd]:
        spec, catalogue, store = self._spec, self._catalogue, self._store
        counters, row = self._counters, self._inheritance.index
        slots = Slots(store)
        handles = Handles()
        access = KeyAccess(SlotKeys(store))
        making = KeyMaking(catalogue, slots, access, handles)
        creators = {namespace: frozenset(principals) for namespace, principals in spec.creators.items()}
        administration = SlotAdministration(
            catalogue, store, slots, access, making, handles, NamespacePolicy(creators=creators)
        )
        nonces = ServiceNonces(store)
        audit = LogAudit(uses=spec.audit_uses)
        dispatcher = Dispatcher(
            access=access,
            use=KeyUse(catalogue, handles, nonces, CallerNonces(store)),
            making=making,
            slots=administration,
            information=Information(catalogue, store, self._facts()),
            audit=audit,
            runner=self._runner,
            short_way=ShortWay(access, catalogue, handles, self._lanes, self._runner, nonces, audit),
            clock=time.monotonic,
        )
        limits = Limits(
            max_frame=spec.max_frame,
            max_connections=spec.max_connections,
            max_connections_per_principal=spec.max_connections_per_principal,
            max_in_flight=spec.max_in_flight,
            default_timeout=spec.default_timeout,
        )
        front_end = NativeFrontEnd(
            self._loop,
            dispatcher,
            self._runner,
            limits,
            elsewhere=self._batches,
            connections_changed=lambda count: counters.set(row, CONNECTIONS_COLUMN, count),
            daemon=spec.version,
        )
        return Sweep(catalogue, slots, administration), front_end

    async def run(self) -> None:
        """Serve until the supervisor says so or is gone."""
        control = self._inheritance.control
        control.setblocking(False)
        self._loop.add_reader(control, self._hear_supervisor)
        self._loop.add_signal_handler(signal.SIGTERM, self._stop)
        self._loop.add_signal_handler(signal.SIGINT, lambda: None)  # the supervisor's terminal; it tells us itself
        server = await self._loop.create_unix_server(self._front_end.connection, sock=self._inheritance.listener)
        self._sweep_regularly()
        await self._stopped
        server.close()
        await self._drain()
        self._loop.remove_reader(control)
        self._store_thread.close()
        self._batches.close()
        for lane in self._threads:
            lane.close()
        self._store.close()

    async def _drain(self) -> None:
        """Let what is under way end, within the drain timeout."""
        try:
            async with asyncio.timeout(self._spec.drain_timeout):
                await self._front_end.drain()
        except TimeoutError:
            _log.warning("requests under way were dropped", drain_timeout=self._spec.drain_timeout)

    def _stop(self) -> None:
        if not self._stopped.done():
            self._stopped.set_result(None)

    def _hear_supervisor(self) -> None:
        try:
            packet = self._inheritance.control.recv(STATES_PACKET_MAX)
        except BlockingIOError:
            return
        except OSError:
            packet = b""
        if not packet:
            self._loop.remove_reader(self._inheritance.control)
            _log.warning("the supervisor is gone; this worker stops")
            self._stop()
            return
        self._lanes.follow(decode_body(ProviderStates, packet), self._sweep_now)

    def _sweep_now(self) -> None:
        # One worker sweeps for all; the others would only do the same work again.
        if self._inheritance.index == 0:
            self._runner.run(self._sweep.run(), None, _swept)

    def _sweep_regularly(self) -> None:
        self._sweep_now()
        self._loop.call_later(SWEEP_INTERVAL, self._sweep_regularly)

    # Providers

    def _open(self, spec: ProviderSpec) -> Lane:
        pin = self._inheritance.pins.get(spec.name)
        try:
            if isinstance(pin, HsmBridgeError):
                raise pin
            opened = open_provider(spec, pin, self._store.material_seal)
            self._catalogue.available(spec.name, opened.describe(), os.getpid())
        except HsmBridgeError as failure:
            _log.error(
                "a provider is not available", provider=spec.name, problem=failure.message, origin=failure.origin
            )
            self._catalogue.unavailable(spec.name, failure)
            return UnavailableLane(failure)
        lane = ThreadLane(
            spec.name,
            opened,
            threads=spec.threads,
            inline=spec.scheme == "software",
            count=self._counting(spec.name),
            alone=self._alone,
        )
        self._threads.append(lane)
        return lane

    def _alone(self) -> bool:
        return self._front_end.alone()

    def _host_lane(self, name: str, threads: int) -> HostLane:
        return HostLane(
            self._loop,
            name,
            connections=threads,
            max_body=body_limit(self._spec.max_frame) + FRAME_ALLOWANCE,
            count=self._counting(name),
        )

    def _counting(self, name: str) -> Callable[[], None]:
        counters, row = self._counters, self._inheritance.index
        column = self._calls_column(name)
        return lambda: counters.add(row, column)

    def _calls_column(self, name: str) -> int:
        return FIRST_CALLS_COLUMN + self._spec.order.index(name)

    def _facts(self) -> DaemonFacts:
        counters = self._counters
        return DaemonFacts(
            version=self._spec.version,
            pid=os.getpid(),
            supervisor_pid=os.getppid(),
            workers=self._spec.workers,
            operators=frozenset({uid_principal(0), uid_principal(os.geteuid())}),
            uptime=lambda: time.monotonic() - self._started,
            connections=lambda: counters.total(CONNECTIONS_COLUMN),
            provider_calls=lambda name: counters.total(self._calls_column(name)),
        )


def _entries(spec: WorkerSpec) -> list[Entry]:
    schemes = {provider.name: (provider.scheme, Isolation.PROCESS) for provider in spec.providers}
    schemes |= {provider.name: (provider.scheme, Isolation.THREAD) for provider in spec.in_process}
    return [Entry(name, schemes[name][0], schemes[name][1]) for name in spec.order]


def open_store_of(spec: StoreSpec, changes: ChangeCounter | None = None) -> Store:
    """The store that a specification names. Raises StoreError."""
    return open_store(spec.url, _protector(spec), durability=Durability(spec.durability), changes=changes)


def _protector(spec: StoreSpec) -> Protector:
    match spec.protector:
        case "keyfile":
            return KeyFileProtector(Path(spec.key_file))
        case "passphrase":
            return PassphraseProtector(spec.passphrase)
        case other:
            raise RequestError(Status.INVALID_CONFIGURATION, f"There is no master key protector {other!r}.")


def _swept(left: int | None, failure: HsmBridgeError | None) -> None:
    if failure is not None:
        _log.error("the sweep failed", status=failure.status.name, problem=failure.message, origin=failure.origin)
    elif left:
        _log.info("unfinished keys wait for their provider", count=left)
