"""The dispatcher: the one pipeline that every request of every front end goes through.

    request → keys: resolve, access list, permission → operation → reply, and an audit record at its end

What a request needs is read from the operation table; the keys that it names are acquired before its operation
begins, so no operation can forget a check, and they are released whatever happens.
"""

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import TypeVar, cast

import msgspec
import structlog

from hsmbridge.core import messages as m
from hsmbridge.core import token_messages as t
from hsmbridge.core.algorithms import Algorithm, algorithm
from hsmbridge.core.errors import HsmBridgeError, RequestError, ResourceError, Status, error
from hsmbridge.core.identifiers import CryptoResourceId, ResourceKind
from hsmbridge.core.operations import OPERATION_FOR, Operation
from hsmbridge.engine.runner import Runner
from hsmbridge.engine.steps import Steps, ended, outcome
from hsmbridge.keys.access import AcquiredKey, visible
from hsmbridge.keys.ephemeral import EphemeralKey
from hsmbridge.keys.resources import ConnectionResources
from hsmbridge.service.adoption import Adoption
from hsmbridge.service.audit import AuditRecord, AuditSink
from hsmbridge.service.certificate_resources import CertificateResources
from hsmbridge.service.contexts import Contexts
from hsmbridge.service.information import Information
from hsmbridge.service.key_access import KeyAccess
from hsmbridge.service.key_making import KeyMaking, agreement_of
from hsmbridge.service.key_transport import KeyTransport
from hsmbridge.service.key_use import KeyUse
from hsmbridge.service.open_contexts import OpenContexts
from hsmbridge.service.pins import Pins
from hsmbridge.service.session import DEFAULT_LIMITS, Session, SessionLimits
from hsmbridge.service.shared_use import SharedUse
from hsmbridge.service.shares import Shares
from hsmbridge.service.short_way import Done, Prepared, ShortWay
from hsmbridge.service.slots import SlotAdministration

_log = structlog.get_logger(__name__)

Outcome = msgspec.Struct | HsmBridgeError
"""How one request of a batch ended."""

Keys = tuple[AcquiredKey, ...]
_FURTHER_CHECKED = frozenset({m.AgreeRequest})
"""Requests whose algorithm follows from the key that they name."""

_Handler = Callable[[Session, msgspec.Struct, Keys], Steps[msgspec.Struct]]
_R = TypeVar("_R")


class Dispatcher:
    """Turns requests into operations, checked and audited."""

    def __init__(
        self,
        *,
        access: KeyAccess,
        use: KeyUse,
        making: KeyMaking,
        slots: SlotAdministration,
        information: Information,
        audit: AuditSink,
        transport: KeyTransport,
        adoption: Adoption,
        contexts: Contexts,
        certificates: CertificateResources,
        pins: Pins,
        short_way: ShortWay,
        runner: Runner,
        clock: Callable[[], float],
        limits: SessionLimits = DEFAULT_LIMITS,
    ) -> None:
        """Args: the parts that operations are made of, where audit records go, the clock of deadlines, and limits."""
        self._limits = limits
        self._shares: dict[str, Shares] = {}
        self._access = access
        self._use = use
        self._making = making
        self._slots = slots
        self._information = information
        self._transport = transport
        self._adoption = adoption
        self._certificates = certificates
        self._pins = pins
        self._shared = SharedUse(use)
        self._contexts = contexts
        self._audit = audit
        self._clock = clock
        self._runner = runner
        self._short_way = short_way
        short_way.bind(self._after_failure)
        self._handlers = self._table()

    def at_once(self, session: Session, request: msgspec.Struct) -> msgspec.Struct | Prepared | None:
        """The reply, where a request can be answered without waiting; else what `dispatch` goes on with."""
        return self._short_way.answer(session, request)

    def dispatch(
        self,
        session: Session,
        operation: Operation,
        request: msgspec.Struct,
        deadline: float | None,
        done: Done,
        prepared: Prepared | None = None,
    ) -> None:
        """Have a request done that `at_once` did not answer. Arguments as those of `Runner.run`."""
        if prepared is None or not self._short_way.start(prepared, session, request, deadline, done):
            watched = self._contexts.watched(session, request, done)
            self._runner.run(self.steps(session, operation, request), deadline, watched)

    def _after_failure(
        self,
        session: Session,
        request: msgspec.Struct,
        key: AcquiredKey,
        deadline: float | None,
        done: Done,
        failure: HsmBridgeError | None,
    ) -> None:
        """What the long way may still do goes there; any other failure is audited and told.

        It loads a key that its provider has forgotten, and tries older versions on what the active one cannot decrypt.
        """
        operation = OPERATION_FOR[type(request)]
        if failure is not None and failure.status not in (Status.HANDLE_UNKNOWN, Status.DECRYPTION_FAILED):
            self._close_record(session, operation, request, (key,), 0, failure.status)
            done(None, failure)
        else:
            self._runner.run(self.steps(session, operation, request), deadline, done)

    def open(self, principal: str) -> Session:
        """A session for a new connection of a principal."""
        limits = self._limits
        shares = self._shares.get(principal)
        if shares is None:
            shares = self._shares[principal] = Shares(limits.principal_keys, limits.principal_bytes)
        shares.connections += 1
        resources = ConnectionResources(limits.keys, shares.keys, shares.data)
        return Session(principal, shares, resources, contexts=OpenContexts(limits.contexts))

    def close(self, session: Session) -> None:
        """Free everything that belongs to a connection, at each provider at one stroke."""
        keys = session.resources.close()
        self._contexts.end_all(session)
        session.certificates.close()
        if session.memory is not None:
            session.shares.data.give_back(session.memory.size)
            session.memory = None
        session.shares.connections -= 1
        if session.shares.unused:
            self._shares.pop(session.principal, None)
        # A tuple at one stroke: operations that are still under way add to the set.
        by_provider: dict[str, list[EphemeralKey]] = {provider: [] for provider in tuple(session.used)}
        for key in keys:
            by_provider[key.provider].append(key)
        for provider, there in by_provider.items():
            # Each by itself: one that is busy making a key for another holds up none of the others.
            self._runner.run(self._making.free_all(session, provider, there), None, _freed)

    def steps(self, session: Session, operation: Operation, request: msgspec.Struct) -> Steps[msgspec.Struct]:
        """One operation, from the checks to the audit record."""
        keys: Keys = ()
        status = Status.OK
        version = 0
        try:
            handler = self._handler(operation)
            if operation.requires:
                keys = self._keys_at_once(session, operation, request) or (
                    yield from self._keys(session, operation, request)
                )
            reply = yield from handler(session, request, keys)
            if keys:
                version = getattr(reply, "version", 0)
            return reply
        except HsmBridgeError as failure:
            status = failure.status
            raise
        finally:
            self._close_record(session, operation, request, keys, version, status)
            if keys and (keys[0].slot is None or keys[-1].slot is None):
                yield from self._release(keys)

    def batch(
        self, session: Session, operation: Operation, requests: Sequence[msgspec.Struct], deadline: float | None
    ) -> Steps[list[Outcome]]:
        """Many requests of one operation, each with an outcome of its own.

        Keys are acquired once for neighbours that name the same key and algorithm. Past the deadline the rest is
        answered OPERATION_TIMED_OUT.
        """
        outcomes: list[Outcome] = []
        for _, neighbours in groupby(requests, _key_and_algorithm):
            group = list(neighbours)
            if deadline is not None and self._clock() > deadline:
                outcomes += [error(Status.OPERATION_TIMED_OUT) for _ in group]
            else:
                outcomes += yield from self._group(session, operation, group)
        return outcomes

    def _group(self, session: Session, operation: Operation, group: list[msgspec.Struct]) -> Steps[list[Outcome]]:
        """Requests that name the same key and algorithm, which is acquired once."""
        keys: Keys = ()
        outcomes: list[Outcome] = []
        try:
            handler = self._handler(operation)
            if operation.requires:
                keys = yield from self._keys(session, operation, group[0])
            if operation.request is m.SignRequest:
                outcomes += yield from self._use.sign_many(cast(list[m.SignRequest], group), keys)
            else:
                for request in group:
                    outcomes.append((yield from outcome(handler(session, request, keys))))
        except HsmBridgeError as failure:
            outcomes += [failure] * (len(group) - len(outcomes))
        finally:
            yield from self._release(keys)
        wants_all = self._audit.wants(operation.name, Status.OK)
        for request, ended_with in zip(group, outcomes, strict=True):
            if isinstance(ended_with, HsmBridgeError):
                self._close_record(session, operation, request, keys, 0, ended_with.status)
            elif wants_all:
                self._close_record(session, operation, request, keys, getattr(ended_with, "version", 0), Status.OK)
        return outcomes

    def _keys_at_once(self, session: Session, operation: Operation, request: msgspec.Struct) -> Keys | None:
        """The key of an ordinary request, without a step; None where there is more to it."""
        if len(operation.requires) != 1 or type(request) in _FURTHER_CHECKED:
            return None
        requirement = operation.requires[0]
        resource: CryptoResourceId = getattr(request, requirement.field)
        version: int = getattr(request, "version", 0)
        return self._access.acquire_at_once(session, resource, requirement.permission, _algorithm_of(request), version)

    def _keys(self, session: Session, operation: Operation, request: msgspec.Struct) -> Steps[Keys]:
        """The keys that a request names, checked against what the operation table requires."""
        if not operation.requires:
            return ()
        row = None if type(request) in _FURTHER_CHECKED else _algorithm_of(request)
        keys: Keys = ()
        for requirement in operation.requires:
            resource: CryptoResourceId = getattr(request, requirement.field)
            version: int = getattr(request, "version", 0)
            # The algorithm is for the first key; what else is named is what it is done to.
            of_key = None if keys else row
            try:
                acquired = yield from self._access.acquire(session, resource, requirement.permission, of_key, version)
            except HsmBridgeError:
                yield from self._release(keys)
                raise
            if isinstance(request, m.AgreeRequest):
                # The algorithm follows from the key, so what the slot allows can only be asked now.
                agreement = agreement_of(acquired[0].key_type)
                yield from self._release(acquired)
                acquired = yield from self._access.acquire(
                    session, resource, requirement.permission, agreement, version
                )
            keys += acquired
        return keys

    def _release(self, keys: Keys) -> Steps[None]:
        for key in keys:
            freed = key.release()
            if freed is not None:
                yield from self._making.free(freed)

    def _handler(self, operation: Operation) -> _Handler:
        handler = self._handlers.get(operation.request)
        if handler is None:
            raise RequestError(Status.NOT_SUPPORTED, f"This daemon cannot {operation.name} yet.")
        return handler

    def _close_record(
        self,
        session: Session,
        operation: Operation,
        request: msgspec.Struct,
        keys: Keys,
        version: int,
        status: Status,
    ) -> None:
        if not self._audit.wants(operation.name, status):
            return
        subject = " ".join(dict.fromkeys(key.name for key in keys)) if keys else _asked_for(session, request)
        algorithm_name = getattr(request, "algorithm", "") or getattr(getattr(request, "params", None), "algorithm", "")
        self._audit.close(AuditRecord(session.principal, operation.name, subject, version, algorithm_name, status))

    # Resources

    def _resolve(self, session: Session, request: m.ResolveRequest) -> Steps[m.ResolveReply]:
        if request.kind is not ResourceKind.KEY_SLOT:
            found = yield from self._certificates.access.resolve(session, request.kind, request.name)
            return m.ResolveReply(found)
        entry = yield from self._access.named(session, request.name)
        visible(entry, session.principal)
        return m.ResolveReply(session.resources.slot_id(entry))

    def _release_resource(self, session: Session, request: m.ReleaseRequest) -> Steps[m.Empty]:
        if request.resource.kind is ResourceKind.CERTIFICATE:
            session.certificates.release(request.resource)
            return m.Empty()
        freed = session.resources.ephemeral.release(request.resource)
        if freed is not None:
            yield from self._making.free(freed)
        return m.Empty()

    def _encapsulate(self, session: Session, request: m.EncapsulateRequest, keys: Keys) -> Steps[m.EncapsulateReply]:
        reply = yield from self._use.encapsulate(request, keys)
        if not request.slot:
            return reply
        number = yield from self._making.put_secret(session, reply.secret, request.slot)
        return m.EncapsulateReply(reply.ciphertext, b"", reply.version, number)

    def _decapsulate(self, session: Session, request: m.DecapsulateRequest, keys: Keys) -> Steps[m.DecapsulateReply]:
        reply = yield from self._use.decapsulate(request, keys)
        if not request.slot:
            return reply
        number = yield from self._making.put_secret(session, reply.secret, request.slot)
        return m.DecapsulateReply(b"", reply.version, number)

    def _table(self) -> dict[type[msgspec.Struct], _Handler]:
        use, making, slots, information = self._use, self._making, self._slots, self._information
        transport, adoption, contexts = self._transport, self._adoption, self._contexts
        certificates, trust = self._certificates.certificates, self._certificates.trust
        shared, pins = self._shared, self._pins
        return dict(
            (
                _entry(m.PingRequest, lambda s, r, k: ended(m.PingReply(r.payload))),
                _entry(m.StatusRequest, lambda s, r, k: ended(information.status(s))),
                _entry(m.ProvidersRequest, lambda s, r, k: ended(information.providers())),
                _entry(m.DoctorRequest, lambda s, r, k: information.doctor(s)),
                _entry(m.ResolveRequest, lambda s, r, k: self._resolve(s, r)),
                _entry(m.ReleaseRequest, lambda s, r, k: self._release_resource(s, r)),
                _entry(m.SlotCreateRequest, lambda s, r, k: slots.create(s, r)),
                _entry(m.SlotListRequest, lambda s, r, k: slots.list_slots(s, r)),
                _entry(m.SlotShowRequest, lambda s, r, k: slots.show(s, r)),
                _entry(m.SlotRotateRequest, lambda s, r, k: slots.rotate(s, r)),
                _entry(m.SlotRevokeRequest, lambda s, r, k: slots.revoke(s, r)),
                _entry(m.SlotDestroyRequest, lambda s, r, k: slots.destroy(s, r)),
                _entry(m.SlotGrantRequest, lambda s, r, k: slots.grant(s, r)),
                _entry(m.SlotUngrantRequest, lambda s, r, k: slots.ungrant(s, r)),
                _entry(m.SlotAttributesRequest, lambda s, r, k: slots.set_attributes(s, r)),
                _entry(m.SignRequest, lambda s, r, k: use.sign(r, k)),
                _entry(m.SignManyRequest, lambda s, r, k: use.sign_messages(r, k)),
                _entry(m.VerifyRequest, lambda s, r, k: use.verify(r, k)),
                _entry(m.MacRequest, lambda s, r, k: use.mac(r, k)),
                _entry(m.MacVerifyRequest, lambda s, r, k: use.verify_mac(r, k)),
                _entry(m.EncryptRequest, lambda s, r, k: use.encrypt(r, k)),
                _entry(m.DecryptRequest, lambda s, r, k: use.decrypt(r, k)),
                _entry(m.EncapsulateRequest, self._encapsulate),
                _entry(m.DecapsulateRequest, self._decapsulate),
                _entry(m.DigestRequest, lambda s, r, k: use.digest(r)),
                _entry(m.RandomRequest, lambda s, r, k: use.random(r)),
                _entry(m.ContextEncryptRequest, contexts.encrypt),
                _entry(m.ContextDecryptRequest, contexts.decrypt),
                _entry(m.ContextSignRequest, contexts.sign),
                _entry(m.ContextVerifyRequest, contexts.verify),
                _entry(m.ContextDigestRequest, lambda s, r, k: contexts.digest(s, r)),
                _entry(m.ContextInitRequest, lambda s, r, k: contexts.init(s, r)),
                _entry(m.ContextUpdateRequest, lambda s, r, k: contexts.update(s, r)),
                _entry(m.ContextFinalizeRequest, lambda s, r, k: contexts.finalize(s, r)),
                _entry(m.ContextReadRequest, lambda s, r, k: contexts.read(s, r)),
                _entry(m.ContextResetRequest, lambda s, r, k: contexts.reset(s, r)),
                _entry(m.ContextCloseRequest, lambda s, r, k: contexts.close(s, r)),
                _entry(m.GenerateRequest, lambda s, r, k: making.generate(s, r)),
                _entry(m.DeriveRequest, lambda s, r, k: making.derive(s, r, k[0])),
                _entry(m.AgreeRequest, lambda s, r, k: making.agree(s, r, k[0])),
                _entry(m.ImportRequest, lambda s, r, k: making.import_key(s, r)),
                _entry(m.WrapRequest, lambda s, r, k: transport.wrap(r, k)),
                _entry(m.UnwrapRequest, transport.unwrap),
                _entry(m.PersistRequest, lambda s, r, k: transport.persist(s, r, k[0])),
                _entry(m.SharedDigestRequest, lambda s, r, k: shared.digest(s, r)),
                _entry(m.SharedMacRequest, shared.mac),
                _entry(m.SharedEncryptRequest, shared.encrypt),
                _entry(m.SharedEncryptManyRequest, shared.encrypt_many),
                _entry(m.SharedDecryptRequest, shared.decrypt),
                _entry(m.CertImportRequest, lambda s, r, k: certificates.import_(s, r)),
                _entry(m.CertLoadRequest, lambda s, r, k: certificates.load(s, r)),
                _entry(m.CertShowRequest, lambda s, r, k: certificates.show(s, r)),
                _entry(m.CertListRequest, lambda s, r, k: certificates.list_all(s, r)),
                _entry(m.CertBindRequest, lambda s, r, k: certificates.bind(s, r)),
                _entry(m.CertRemoveRequest, lambda s, r, k: certificates.remove(s, r)),
                _entry(m.CertVerifyRequest, lambda s, r, k: certificates.verify(s, r)),
                _entry(m.CertAccessRequest, lambda s, r, k: certificates.set_access(s, r)),
                _entry(m.TrustCreateRequest, lambda s, r, k: trust.create(s, r)),
                _entry(m.TrustAddRequest, lambda s, r, k: trust.add(s, r)),
                _entry(m.TrustRemoveRequest, lambda s, r, k: trust.take_out(s, r)),
                _entry(m.TrustShowRequest, lambda s, r, k: trust.show(s, r)),
                _entry(m.TrustListRequest, lambda s, r, k: trust.list_all(s, r)),
                _entry(m.CrlImportRequest, lambda s, r, k: trust.import_crl(s, r)),
                _entry(m.CrlShowRequest, lambda s, r, k: trust.show_crl(s, r)),
                _entry(m.CrlListRequest, lambda s, r, k: trust.list_crls(s, r)),
                _entry(m.PinListRequest, lambda s, r, k: pins.list_all(s)),
                _entry(m.PinResetRequest, lambda s, r, k: pins.reset(s, r)),
                _entry(t.TokenShowRequest, lambda s, r, k: pins.show(s, r)),
                _entry(t.TokenInitializeRequest, lambda s, r, k: pins.initialize(s, r)),
                _entry(t.TokenLoginRequest, lambda s, r, k: pins.log_in(s, r)),
                _entry(t.TokenPinRequest, lambda s, r, k: pins.set_pin(s, r)),
                _entry(m.SlotAdoptRequest, lambda s, r, k: adoption.adopt(s, r)),
                _entry(m.SlotExportRequest, lambda s, r, k: transport.export(r, k[0])),
                _entry(m.SlotAttestRequest, lambda s, r, k: transport.attest(r, k[0])),
            )
        )


def _freed(_: None, failure: HsmBridgeError | None) -> None:
    if failure is not None:
        _log.error("a closed connection left something behind", status=failure.status.name)


def _entry(
    request: type[_R], act: Callable[[Session, _R, Keys], Steps[msgspec.Struct]]
) -> tuple[type[msgspec.Struct], _Handler]:
    # `act` is only ever given requests of its own type, which the table finds it by.
    return cast(type[msgspec.Struct], request), cast(_Handler, act)


def _asked_for(session: Session, request: msgspec.Struct) -> str:
    """What a request names that had no key acquired for it: a refusal is told with the name of what was refused."""
    name: object = getattr(request, "name", "")
    if isinstance(name, str) and name:
        return name
    if isinstance(request, m.PinResetRequest):
        return f"{request.token} of {request.principal}"
    resource: object = getattr(request, "key", None)
    if isinstance(resource, CryptoResourceId) and resource.kind is ResourceKind.KEY_SLOT:
        try:
            return str(session.resources.slot(resource).name)
        except ResourceError:
            return ""
    return ""


def _algorithm_of(request: msgspec.Struct) -> Algorithm | None:
    name: str | None = getattr(request, "algorithm", None)
    if name is not None:
        return algorithm(name)
    if isinstance(request, m.WrapRequest | m.UnwrapRequest):
        return algorithm(request.params.algorithm)
    return algorithm(request.params.kdf.algorithm) if isinstance(request, m.DeriveRequest) else None


def _key_and_algorithm(request: msgspec.Struct) -> object:
    key = getattr(request, "key", None)
    return None if key is None else (key, getattr(request, "algorithm", ""), getattr(request, "version", 0))
