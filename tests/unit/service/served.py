"""The service in this process, over providers in this process: what is asked, and which calls reached a provider.

The providers are the software provider itself; `Traveller` stands around it for what software has not: keys that
were there before, exports and attestations.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from hsmbridge.core import calls
from hsmbridge.core import messages as m
from hsmbridge.core.errors import HsmBridgeError, ProviderError, Status
from hsmbridge.core.identifiers import CryptoResourceId, new_key_id
from hsmbridge.core.key_types import key_type
from hsmbridge.core.operations import OPERATION_FOR
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.engine.handles import Handles
from hsmbridge.engine.lanes import Lane, Ticket
from hsmbridge.engine.runner import Runner
from hsmbridge.keys.access import SlotKeys
from hsmbridge.keys.nonces import CallerNonces, ServiceNonces
from hsmbridge.keys.slots import NamespacePolicy, Slots
from hsmbridge.providers.base import Provider, perform
from hsmbridge.providers.software import SoftwareProvider
from hsmbridge.service.adoption import Adoption
from hsmbridge.service.audit import AuditRecord
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
from hsmbridge.service.session import DEFAULT_LIMITS, Session, SessionLimits
from hsmbridge.service.short_way import ShortWay
from hsmbridge.service.slots import SlotAdministration
from tests.conformance.backends import AesGcmSeal
from tests.unit.storage.opened import ALICE, open_at

OPERATOR = "uid:0"
_S = TypeVar("_S", bound=msgspec.Struct)


class Traveller(SoftwareProvider):
    """Software that also has keys of others at a uri, and exports and attests in a form that says what was asked."""

    def __init__(self) -> None:
        super().__init__(AesGcmSeal(AESGCM.generate_key(128)))
        self.foreign: dict[str, tuple[str, P, calls.MadeKey, calls.KeyTarget]] = {}

    def put(self, uri: str, type_name: str, permissions: P) -> None:
        """A key that somebody made, past the daemon."""
        target = calls.KeyTarget(new_key_id(), type_name, int(permissions), ephemeral=True)
        self.foreign[uri] = type_name, permissions, self.generate(target), target

    def describe(self) -> calls.Description:
        return msgspec.structs.replace(super().describe(), adopts=True, attests=True, exports=("toy",))

    def examine(self, uri: str, material: bytes) -> calls.ForeignKey:
        if (uri or material.decode(errors="replace")) not in self.foreign:
            raise ProviderError(Status.KEY_MATERIAL_MISSING, "There is no such key.")
        type_name, permissions, made, _ = self.foreign[uri or material.decode()]
        return calls.ForeignKey(type_name, int(permissions), made.public_key, "theirs")

    def adopt(self, target: calls.KeyTarget, uri: str, material: bytes) -> calls.MadeKey:
        _, _, made, there = self.foreign[uri or material.decode()]
        handle = self.load(there.key_id, key_type(there.key_type), there.permissions, made.reference, there.binding)
        return self.copy(handle, target)

    def export(self, handle: int, format_: str, recipient: bytes) -> bytes:
        return b"as nobody reads it, for " + recipient

    def attest(self, handle: int, nonce: bytes, pcrs: tuple[int, ...]) -> calls.Attestation:
        quote = calls.Quote(b"and well: " + nonce, b"signed", tuple((pcr, b"") for pcr in pcrs)) if pcrs else None
        return calls.Attestation("toy", b"it is here: " + nonce, b"signed", b"by whom", quote=quote)


class _AtOnce:
    """The store's thread, without a thread."""

    def submit(self, action: Callable[[], None]) -> None:
        action()


class _InlineLane:
    """A provider in this thread; what reaches it is written down, and a planned failure takes its place."""

    local = True

    def __init__(self, service: "Served", name: str) -> None:
        self._service = service
        self._name = name

    def inline(self, call: calls.ProviderCall) -> bool:
        return True

    def perform(self, call: calls.ProviderCall) -> calls.ProviderReply:
        self._service.calls.append((self._name, call))
        planned = self._service.failures.pop(type(call), None)
        if planned is not None:
            raise planned
        return perform(self._service.providers[self._name], call)

    def submit(self, ticket: Ticket) -> None:
        # Of a batch: what is not asked for one by one.
        try:
            reply = self.perform(ticket.call)
        except HsmBridgeError as failure:
            ticket.answer(None, failure)
        else:
            ticket.answer(reply, None)

    def give_up(self, ticket: Ticket) -> None:
        raise AssertionError("there are no deadlines")


class _Lanes:
    def __init__(self, service: "Served") -> None:
        self._lanes = {name: _InlineLane(service, name) for name in service.providers}

    def lane(self, provider: str) -> Lane:
        return self._lanes[provider]


class Served:
    """A service; `calls` are those that reached a provider, `audited` what was written of operations."""

    held_max = 100_000
    piece = 16_384

    def __init__(self, directory: Path, limits: SessionLimits = DEFAULT_LIMITS) -> None:
        self.store = open_at(directory)
        self.providers: dict[str, Provider] = {
            "here": Traveller(),
            "there": Traveller(),
            "plain": SoftwareProvider(AesGcmSeal(AESGCM.generate_key(128))),
        }
        self.calls: list[tuple[str, calls.ProviderCall]] = []
        self.audited: list[AuditRecord] = []
        self.failures: dict[type[calls.ProviderCall], HsmBridgeError] = {}
        self.catalogue = catalogue = ProviderCatalogue(Entry(name, "software", "thread") for name in self.providers)
        for name, provider in self.providers.items():
            catalogue.available(name, provider.describe(), 1)
        handles, slots, policy = Handles(), Slots(self.store), NamespacePolicy()
        access = KeyAccess(SlotKeys(self.store))
        self.making = making = KeyMaking(catalogue, slots, access, handles)
        administration = SlotAdministration(catalogue, self.store, slots, access, making, handles, policy)
        nonces = ServiceNonces(self.store)
        use = KeyUse(catalogue, handles, nonces, CallerNonces(self.store))
        facts = DaemonFacts(
            version="0",
            pid=1,
            supervisor_pid=1,
            workers=1,
            operators=frozenset({OPERATOR}),
            uptime=lambda: 0.0,
            connections=lambda: 1,
            provider_calls=lambda name: 0,
        )
        lanes = _Lanes(self)
        self._runner = runner = Runner(lanes, _AtOnce(), lambda: 0.0)
        self.contexts = Contexts(catalogue, handles, access, use, making, held_max=self.held_max, piece=self.piece)
        certificates = CertificateResources.over(self.store, access, policy)
        self.time = 1e9
        self.dispatcher = Dispatcher(
            access=access,
            use=use,
            making=making,
            slots=administration,
            information=Information(catalogue, self.store, facts),
            transport=KeyTransport(catalogue, handles, use, making),
            adoption=Adoption(catalogue, self.store, slots, making, administration, policy, facts.operators),
            certificates=certificates,
            pins=Pins(
                self.store, administration, certificates.certificates, self, facts.operators, clock=lambda: self.time
            ),
            contexts=self.contexts,
            audit=self,
            runner=runner,
            short_way=ShortWay(access, catalogue, handles, lanes, runner, nonces, self),
            clock=lambda: 0.0,
            limits=limits,
        )
        self.sessions: dict[str, Session] = {}

    # An audit sink

    def wants(self, operation: str, status: Status) -> bool:
        return True

    def close(self, record: AuditRecord) -> None:
        self.audited.append(record)

    # Asking

    def session(self, principal: str = ALICE) -> Session:
        return self.sessions.setdefault(principal, self.dispatcher.open(principal))

    def ask(self, request: msgspec.Struct, kind: type[_S], principal: str = ALICE) -> _S:
        """What an operation answers. Raises what it is refused for."""
        outcome: list[tuple[msgspec.Struct | None, HsmBridgeError | None]] = []
        steps = self.dispatcher.steps(self.session(principal), OPERATION_FOR[type(request)], request)
        self._runner.run(steps, None, lambda reply, failure: outcome.append((reply, failure)))
        ((reply, failure),) = outcome
        if failure is not None:
            raise failure
        assert isinstance(reply, kind)
        return reply

    def ephemeral_keys(self) -> int:
        """How many the providers hold."""
        return sum(
            len(provider._ephemeral) for provider in self.providers.values() if isinstance(provider, SoftwareProvider)
        )

    def end(self, session: Session) -> None:
        """The connection of a session ends."""
        self.dispatcher.close(session)

    def slot(self, name: str, type_name: str, permissions: P, provider: str = "here", **more: object) -> str:
        request = m.SlotCreateRequest(name, type_name, (provider,), int(permissions), **more)  # type: ignore[arg-type]
        return self.ask(request, m.SlotInfo).name

    def id(self, name: str, principal: str = ALICE) -> CryptoResourceId:
        return self.ask(m.ResolveRequest(name), m.ResolveReply, principal).resource


@contextmanager
def served(directory: Path) -> Iterator[Served]:
    """A service for one test."""
    made = Served(directory)
    try:
        yield made
    finally:
        made.store.close()
