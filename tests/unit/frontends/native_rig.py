"""The native front end on a real socket and a loop of its own, over the real service and software providers.

`short` answers at once, as the software provider does. `held` works on threads, and its digests wait where a test shuts
its gate: how a token behaves that takes its time.
"""

import asyncio
import shutil
import socket
import tempfile
import threading
import time
from collections import deque
from collections.abc import Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TypeVar

import msgspec
import uvloop
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from hsmbridge.core import messages as m
from hsmbridge.core.algorithms import Algorithm
from hsmbridge.core.errors import HsmBridgeError
from hsmbridge.daemon.store_thread import StoreThread
from hsmbridge.engine.handles import Handles
from hsmbridge.engine.lanes import Lane, ThreadLane
from hsmbridge.engine.runner import Runner
from hsmbridge.frontends.native import Limits, NativeFrontEnd
from hsmbridge.keys.access import SlotKeys
from hsmbridge.keys.nonces import CallerNonces, ServiceNonces
from hsmbridge.keys.slots import NamespacePolicy, Slots
from hsmbridge.providers.base import Provider
from hsmbridge.providers.software import SoftwareProvider
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
from hsmbridge.service.session import DEFAULT_LIMITS, SessionLimits
from hsmbridge.service.short_way import ShortWay
from hsmbridge.service.slots import SlotAdministration
from hsmbridge.wire.codec import decode_error, decode_reply, encode_request
from hsmbridge.wire.frames import Frame, FrameReader, body_limit
from hsmbridge.wire.hello import hello
from tests.conformance.backends import AesGcmSeal
from tests.unit.storage.opened import open_at

PATIENCE = 20.0
THREADS = 2
MAX_FRAME = 1 << 20
LIMITS = Limits(
    max_frame=MAX_FRAME,
    max_connections=64,
    max_connections_per_principal=32,
    max_in_flight=8,
    default_timeout=30.0,
)
_S = TypeVar("_S", bound=msgspec.Struct)
_T = TypeVar("_T")


class Gated(SoftwareProvider):
    """The software provider, behind a gate that a test may shut. `entered` counts the calls that came to it."""

    def __init__(self) -> None:
        super().__init__(AesGcmSeal(AESGCM.generate_key(128)))
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)

    def digest(self, row: Algorithm, data: bytes) -> bytes:
        self.entered.release()
        assert self.gate.wait(PATIENCE)
        return super().digest(row, data)

    def came(self, calls: int) -> None:
        """Return when so many more digests have come as far as the gate."""
        for _ in range(calls):
            assert self.entered.acquire(timeout=PATIENCE)


class _Lanes:
    def __init__(self) -> None:
        self.lanes: dict[str, Lane] = {}

    def lane(self, provider: str) -> Lane:
        return self.lanes[provider]


class Front:
    """A front end that listens at `path`."""

    def __init__(self, directory: Path, limits: Limits = LIMITS, sessions: SessionLimits = DEFAULT_LIMITS) -> None:
        self.path = directory / "s"
        self.held = Gated()
        self.store = open_at(directory)
        self.connections: list[int] = []
        self._store_thread, self._elsewhere = StoreThread(), StoreThread()
        self._loop = uvloop.new_event_loop()
        self._lanes = _Lanes()
        self._threads: list[ThreadLane] = []
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.front_end = self._on_loop(self._compose(limits, sessions))

    async def _compose(self, limits: Limits, sessions: SessionLimits) -> NativeFrontEnd:
        providers: dict[str, Provider] = {
            "short": SoftwareProvider(AesGcmSeal(AESGCM.generate_key(128))),
            "held": self.held,
        }
        catalogue = ProviderCatalogue(Entry(name, "software", "thread") for name in providers)
        for name, provider in providers.items():
            catalogue.available(name, provider.describe(), 1)
            lane = ThreadLane(
                name,
                provider,
                threads=THREADS,
                inline=name == "short",
                count=lambda: None,
                alone=self._alone,
            )
            self._threads.append(lane)
            self._lanes.lanes[name] = lane
        self.runner = runner = Runner(self._lanes, self._store_thread, time.monotonic)
        handles, slots, policy = Handles(), Slots(self.store), NamespacePolicy()
        access = KeyAccess(SlotKeys(self.store))
        making = KeyMaking(catalogue, slots, access, handles)
        administration = SlotAdministration(catalogue, self.store, slots, access, making, handles, policy)
        nonces = ServiceNonces(self.store)
        use = KeyUse(catalogue, handles, nonces, CallerNonces(self.store))
        facts = DaemonFacts(
            version="0",
            pid=1,
            supervisor_pid=1,
            workers=1,
            operators=frozenset(),
            uptime=lambda: 0.0,
            connections=lambda: 1,
            provider_calls=lambda name: 0,
        )
        audit = LogAudit(uses=False)
        certificates = CertificateResources.over(self.store, access, policy)
        dispatcher = Dispatcher(
            access=access,
            use=use,
            making=making,
            slots=administration,
            information=Information(catalogue, self.store, facts),
            transport=KeyTransport(catalogue, handles, use, making),
            adoption=Adoption(catalogue, self.store, slots, making, administration, policy, facts.operators),
            certificates=certificates,
            pins=Pins(self.store, administration, certificates.certificates, audit, facts.operators),
            contexts=Contexts(catalogue, handles, access, use, making),
            audit=audit,
            runner=runner,
            short_way=ShortWay(access, catalogue, handles, self._lanes, runner, nonces, audit),
            clock=time.monotonic,
            limits=sessions,
        )
        front_end = NativeFrontEnd(
            self._loop,
            dispatcher,
            runner,
            limits,
            elsewhere=self._elsewhere,
            connections_changed=self.connections.append,
            daemon="0",
        )
        self._server = await self._loop.create_unix_server(front_end.connection, str(self.path))
        return front_end

    def _alone(self) -> bool:
        return self.front_end.alone()

    def begin_to_drain(self) -> Future[None]:
        """Drain, as a worker does that was told to stop; it has begun when this returns."""
        drained = asyncio.run_coroutine_threadsafe(self._drain(), self._loop)
        self.settle()
        return drained

    async def _drain(self) -> None:
        self._server.close()
        await self.front_end.drain()

    def settle(self) -> None:
        """Return after the loop has gone through what was there for it."""
        for _ in range(3):
            self._on_loop(asyncio.sleep(0))

    def close(self) -> None:
        self.held.gate.set()
        self.begin_to_drain().result(PATIENCE)
        for lane in self._threads:
            lane.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        self._loop.close()
        self._store_thread.close()
        self._elsewhere.close()
        self.store.close()

    def _on_loop(self, steps: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(steps, self._loop).result(PATIENCE)


class Peer:
    """A client that sees every frame: one connection, greeted unless told otherwise."""

    def __init__(self, front: Front, *, greet: bool = True) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(PATIENCE)
        self.socket.connect(str(front.path))
        self._reader = FrameReader(body_limit(MAX_FRAME), replies=True)
        self._frames: deque[Frame] = deque()
        if greet:
            self.greet()

    def greet(self) -> None:
        self.send(1, hello("test"))
        assert self.reply().word == 0

    def send(self, request_id: int, *requests: msgspec.Struct) -> None:
        """Send requests in one go, under ids from this one on."""
        self.socket.sendall(b"".join(encode_request(request_id + n, request) for n, request in enumerate(requests)))

    def reply(self) -> Frame:
        """The next reply. Raises EOFError or ConnectionResetError where there is none any more."""
        while not self._frames:
            data = self.socket.recv(1 << 16)
            if not data:
                raise EOFError
            self._frames.extend(self._reader.feed(data))
        return self._frames.popleft()

    def replies(self, count: int) -> list[int]:
        """The ids of the next replies, all of them good, in the order in which they came."""
        frames = [self.reply() for _ in range(count)]
        assert [frame.word for frame in frames] == [0] * count
        return [frame.request_id for frame in frames]

    def ask(self, request: msgspec.Struct, kind: type[_S], request_id: int = 2) -> _S:
        """What a request is answered. Raises what it is refused for."""
        self.send(request_id, request)
        frame = self.reply()
        assert frame.request_id == request_id
        if frame.word:
            raise decode_error(frame)
        reply = decode_reply(frame)
        assert isinstance(reply, kind)
        return reply

    def ask_for_ever(self, request: msgspec.Struct) -> None:
        """Ask again and again, until the connection ends."""
        while True:
            self.ask(request, msgspec.Struct)

    def refusal(self) -> HsmBridgeError:
        """The error that the next reply is."""
        return decode_error(self.reply())

    def is_served(self) -> bool:
        return self.ask(m.PingRequest(b"there?"), m.PingReply).payload == b"there?"

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def short_digest(data: bytes = b"") -> m.DigestRequest:
    return m.DigestRequest("SHA-256", data, "short")


def held_digest(data: bytes = b"") -> m.DigestRequest:
    return m.DigestRequest("SHA-256", data, "held")


@contextmanager
def front(limits: Limits = LIMITS, sessions: SessionLimits = DEFAULT_LIMITS) -> Iterator[Front]:
    """A front end for one test."""
    directory = Path(tempfile.mkdtemp(prefix="hb", dir="/tmp"))
    made = Front(directory, limits, sessions)
    try:
        yield made
    finally:
        made.close()
        shutil.rmtree(directory)
