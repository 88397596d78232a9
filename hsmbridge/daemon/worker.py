"""The composition of one worker: store, providers, engine, service and front ends, on one event loop."""

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Protocol

import structlog

from hsmbridge.core.calls import Description
from hsmbridge.core.errors import HsmBridgeError, Status
from hsmbridge.core.identifiers import uid_principal
from hsmbridge.daemon.accepting import Acceptor
from hsmbridge.daemon.host_lane import HostLane
from hsmbridge.daemon.lanes import ProviderLanes
from hsmbridge.daemon.spec import WorkerSpec
from hsmbridge.daemon.store_opening import open_store_of
from hsmbridge.daemon.store_thread import StoreThread
from hsmbridge.engine.handles import Handles
from hsmbridge.engine.lanes import Lane, ThreadLane, UnavailableLane
from hsmbridge.engine.runner import Runner
from hsmbridge.frontends.native import Limits, NativeFrontEnd
from hsmbridge.frontends.p11kit.front_end import P11KitFrontEnd
from hsmbridge.frontends.p11kit.settings import LoginPolicy, P11KitSettings, TemplatePolicy, TokenView
from hsmbridge.frontends.ssh_agent.front_end import SshAgentFrontEnd
from hsmbridge.frontends.ssh_agent.settings import SshAgentSettings
from hsmbridge.keys.access import SlotKeys
from hsmbridge.keys.nonces import CallerNonces, ServiceNonces
from hsmbridge.keys.slots import NamespacePolicy, Slots
from hsmbridge.providers.base import Provider
from hsmbridge.providers.host.messages import STATES_PACKET_MAX, ProviderStates
from hsmbridge.providers.registry import SEALED_SCHEMES, Isolation, ProviderSpec, open_provider
from hsmbridge.service.adoption import Adoption
from hsmbridge.service.audit import LogAudit
from hsmbridge.service.catalogue import Entry, ProviderCatalogue
from hsmbridge.service.certificate_resources import CertificateResources
from hsmbridge.service.contexts import Contexts
from hsmbridge.service.dispatcher import Dispatcher
from hsmbridge.service.information import DaemonFacts, Information
from hsmbridge.service.key_access import KeyAccess
from hsmbridge.service.key_making import KeyMaking
from hsmbridge.service.key_transport import KeyTransport
from hsmbridge.service.key_use import KeyUse
from hsmbridge.service.pins import Pins
from hsmbridge.service.session import SessionLimits
from hsmbridge.service.short_way import ShortWay
from hsmbridge.service.slots import SlotAdministration
from hsmbridge.service.sweep import Sweep
from hsmbridge.storage.changes import ChangeCounter, SharedCounters
from hsmbridge.supervisor.inheritance import Inheritance
from hsmbridge.wire.codec import decode_body
from hsmbridge.wire.frames import FRAME_ALLOWANCE, body_limit

SWEEP_INTERVAL = 60.0
"""Seconds between sweeps that nothing prompted."""

PIN_REFUSED = frozenset({Status.PIN_INCORRECT, Status.PIN_LOCKED})
"""Another try with the same PIN may lock a token."""

PKCS11_SESSIONS = 1024
"""PKCS#11 sessions of one application."""

CONNECTIONS_COLUMN = 1
"""Of the shared counters, for the native front end; the calls of provider number N stand in FIRST_CALLS_COLUMN + N."""
FURTHER_CONNECTIONS_COLUMNS: Mapping[str, int] = MappingProxyType({"p11kit": 2, "ssh_agent": 3})
FIRST_CALLS_COLUMN = 4

_log = structlog.get_logger(__name__)


class FurtherFrontEnd(Protocol):
    """A front end beside the native one, with a socket of its own."""

    def connection(self) -> asyncio.Protocol:
        """A protocol for one new connection."""
        ...

    def watch_connections(self, changed: Callable[[int], None]) -> None:
        """Have `changed` told the number of connections whenever it changes."""
        ...

    async def drain(self) -> None:
        """Answer what is under way and close every connection."""
        ...


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
        self._work = StoreThread()
        self._catalogue = ProviderCatalogue(_entries(spec))
        self._threads: list[ThreadLane] = []
        hosts = {provider.name: self._host_lane(provider.name, provider.threads) for provider in spec.providers}
        fixed = {provider.name: self._open(provider) for provider in spec.in_process}
        self._lanes = ProviderLanes(fixed, hosts, self._catalogue)
        self._runner = Runner(self._lanes, self._store_thread, time.monotonic, self._work)
        self._sweep, self._front_end, self._further = self._compose()
        self._stopped = loop.create_future()
        self._reloads: int | None = None
        self._retrying: dict[str, asyncio.Task[None]] = {}

    def _compose(self) -> tuple[Sweep, NativeFrontEnd, dict[str, FurtherFrontEnd]]:
        spec, catalogue, store = self._spec, self._catalogue, self._store
        counters, row = self._counters, self._inheritance.index
        slots = Slots(store)
        handles = Handles()
        access = KeyAccess(SlotKeys(store))
        making = KeyMaking(catalogue, slots, access, handles)
        creators = {namespace: frozenset(principals) for namespace, principals in spec.creators.items()}
        policy = NamespacePolicy(creators=creators)
        administration = SlotAdministration(catalogue, store, slots, access, making, handles, policy)
        nonces = ServiceNonces(store)
        use = KeyUse(catalogue, handles, nonces, CallerNonces(store))
        contexts = Contexts(catalogue, handles, access, use, making, held_max=spec.max_held, piece=spec.max_frame)
        facts = replace(self._facts(), contexts=lambda: contexts.count, keys=lambda: making.count)
        audit = LogAudit(uses=spec.audit_uses)
        certificates = CertificateResources.over(store, access, policy)
        dispatcher = Dispatcher(
            access=access,
            use=use,
            making=making,
            slots=administration,
            information=Information(catalogue, store, facts),
            transport=KeyTransport(catalogue, handles, use, making),
            adoption=Adoption(catalogue, store, slots, making, administration, policy, facts.operators),
            contexts=contexts,
            certificates=certificates,
            pins=Pins(store, administration, certificates.certificates, audit, facts.operators),
            audit=audit,
            runner=self._runner,
            short_way=ShortWay(access, catalogue, handles, self._lanes, self._runner, nonces, audit),
            clock=time.monotonic,
            limits=SessionLimits(
                spec.max_keys, spec.max_contexts, spec.max_keys_per_principal, spec.max_bytes_per_principal
            ),
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
        further: dict[str, FurtherFrontEnd] = {}
        stamp, watch = store.changes.stamp, front_end.watch_deadlines
        p11kit, ssh_agent = _p11kit_settings(spec), _ssh_agent_settings(spec)
        if p11kit is not None:
            further["p11kit"] = P11KitFrontEnd(
                self._loop, dispatcher, self._runner, p11kit, stamp=stamp, watch_deadlines=watch, turns=front_end
            )
        if ssh_agent is not None:
            further["ssh_agent"] = SshAgentFrontEnd(
                self._loop, dispatcher, self._runner, ssh_agent, stamp=stamp, watch_deadlines=watch
            )
        listening = self._inheritance.front_ends
        served = {name: one for name, one in further.items() if name in listening}
        return Sweep(catalogue, slots, administration), front_end, served

    async def run(self) -> None:
        """Serve until the supervisor says so or is gone."""
        control = self._inheritance.control
        control.setblocking(False)
        self._loop.add_reader(control, self._hear_supervisor)
        self._loop.add_signal_handler(signal.SIGTERM, self._stop)
        self._loop.add_signal_handler(signal.SIGINT, lambda: None)  # the supervisor's terminal; it tells us itself
        acceptors = [self._acceptor(self._inheritance.listener, self._front_end.connection, CONNECTIONS_COLUMN)]
        for name, front_end in self._further.items():
            column = FURTHER_CONNECTIONS_COLUMNS[name]
            front_end.watch_connections(partial(self._counters.set, self._inheritance.index, column))
            acceptors.append(self._acceptor(self._inheritance.front_ends[name], front_end.connection, column))
        self._sweep_regularly()
        await self._stopped
        for acceptor in acceptors:
            acceptor.close()
        await self._drain()
        self._loop.remove_reader(control)
        self._work.close()
        self._store_thread.close()
        self._batches.close()
        for lane in self._threads:
            lane.close()
        self._store.close()

    def _acceptor(
        self, listener: socket.socket, connection: Callable[[], asyncio.BaseProtocol], column: int
    ) -> Acceptor:
        """Accept on a socket where no other worker has fewer connections by this column of the counters."""
        counters, own, workers = self._counters, self._inheritance.index, self._spec.workers
        counters.set(own, column, 0)  # of a worker that died there is still its last number

        def has_most() -> bool:
            mine = counters.get(own, column)
            return any(counters.get(other, column) < mine for other in range(workers))

        return Acceptor(self._loop, listener, connection, has_most)

    async def _drain(self) -> None:
        """Let what is under way end, within the drain timeout."""
        try:
            async with asyncio.timeout(self._spec.drain_timeout):
                await asyncio.gather(self._front_end.drain(), *(one.drain() for one in self._further.values()))
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
        states = decode_body(ProviderStates, packet)
        self._lanes.follow(states, self._sweep_now)
        reloaded = self._reloads is not None and states.reloads > self._reloads
        self._reloads = states.reloads
        if reloaded:
            self._retry()

    def _sweep_now(self) -> None:
        # One worker sweeps for all; the others would only do the same work again.
        if self._inheritance.index == 0:
            self._runner.run(self._sweep.run(), None, _swept)

    def _sweep_regularly(self) -> None:
        self._sweep_now()
        self._loop.call_later(SWEEP_INTERVAL, self._sweep_regularly)

    # Providers

    def _open(self, spec: ProviderSpec) -> Lane:
        try:
            return self._opened(spec, *self._opening(spec))
        except HsmBridgeError as failure:
            return self._not_opened(spec, failure)

    def _opening(self, spec: ProviderSpec) -> tuple[Provider, Description]:
        pin = self._inheritance.pins.get(spec.name)
        if isinstance(pin, HsmBridgeError):
            raise pin
        opened = open_provider(spec, pin, self._store.material_seal)
        return opened, opened.describe()

    def _not_opened(self, spec: ProviderSpec, failure: HsmBridgeError) -> Lane:
        _log.error("a provider is not available", provider=spec.name, problem=failure.message, origin=failure.origin)
        self._catalogue.unavailable(spec.name, failure)
        return UnavailableLane(failure)

    def _retry(self) -> None:
        """Open again what could not be opened; a PIN that was refused is not tried a second time."""
        for spec in self._spec.in_process:
            reason = self._catalogue.entry(spec.name).reason
            if reason is not None and reason.status not in PIN_REFUSED and spec.name not in self._retrying:
                self._retrying[spec.name] = asyncio.ensure_future(self._open_again(spec))

    async def _open_again(self, spec: ProviderSpec) -> None:
        # A module may take seconds to open, and the loop has others to serve meanwhile.
        try:
            opened = await self._loop.run_in_executor(None, self._opening, spec)
            lane = self._opened(spec, *opened)
        except HsmBridgeError as failure:
            lane = self._not_opened(spec, failure)
        else:
            _log.info("a provider is available", provider=spec.name)
        finally:
            del self._retrying[spec.name]
        self._lanes.replace(spec.name, lane)
        self._sweep_now()

    def _opened(self, spec: ProviderSpec, opened: Provider, description: Description) -> Lane:
        self._catalogue.available(spec.name, description, os.getpid())
        lane = ThreadLane(
            spec.name,
            opened,
            threads=spec.threads,
            inline=spec.scheme in SEALED_SCHEMES,
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
            max_body=body_limit(max(self._spec.max_frame, self._spec.max_held)) + FRAME_ALLOWANCE,
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


def _p11kit_settings(spec: WorkerSpec) -> P11KitSettings | None:
    told = spec.p11kit
    if told is None:
        return None
    return P11KitSettings(
        tokens=TokenView(told.tokens),
        templates=TemplatePolicy(told.templates),
        login=LoginPolicy(told.login),
        pin=told.pin,
        trust_stores=told.trust_stores,
        version=spec.version,
        max_data=spec.max_frame,
        max_connections=spec.max_connections,
        max_connections_per_principal=spec.max_connections_per_principal,
        max_in_flight=spec.max_in_flight,
        max_sessions=PKCS11_SESSIONS,
        timeout=spec.default_timeout,
    )


def _ssh_agent_settings(spec: WorkerSpec) -> SshAgentSettings | None:
    told = spec.ssh_agent
    if told is None:
        return None
    return SshAgentSettings(
        slots=told.slots,
        forwarding=told.forwarding,
        max_connections=spec.max_connections,
        max_connections_per_principal=spec.max_connections_per_principal,
        timeout=spec.default_timeout,
    )


def _swept(left: int | None, failure: HsmBridgeError | None) -> None:
    if failure is not None:
        _log.error("the sweep failed", status=failure.status.name, problem=failure.message, origin=failure.origin)
    elif left:
        _log.info("unfinished keys wait for their provider", count=left)
