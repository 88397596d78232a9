"""Operations on certificates: import, hold, show, list, bind to a key slot, verify; removal and access of all kinds.

A certificate stands for a key that is elsewhere: it is bound to a slot only where that slot holds the key that it
certifies. Reading and verifying takes its time and is done on the store's thread, away from the event loop.
"""

from functools import partial

from hsmbridge.core import messages as m
from hsmbridge.core.certificates import CRLS_MAX
from hsmbridge.core.errors import CertificateError, LimitError, RequestError, Status
from hsmbridge.core.identifiers import (
    CryptoResourceId,
    KeyId,
    ResourceKind,
    check_principal,
    parse_slot_name,
)
from hsmbridge.core.lifecycle import KeyVersionState
from hsmbridge.engine.steps import Steps, store
from hsmbridge.keys import certificates as decisions
from hsmbridge.keys.access import visible
from hsmbridge.keys.certificates import KIND_OF, new_record
from hsmbridge.keys.slots import NamespacePolicy
from hsmbridge.service.certificate_access import CertificateAccess, access_of
from hsmbridge.service.certificate_reading import (
    ReadCertificate,
    read_anchors,
    read_chain,
    read_crl,
    read_intermediates,
    same_key,
)
from hsmbridge.service.certificate_verification import time_of, verify_chain
from hsmbridge.service.key_access import KeyAccess
from hsmbridge.service.session import Session
from hsmbridge.storage.certificate_records import UNBOUND, CertificateKind, CertificateRecord
from hsmbridge.storage.records import SlotId, SlotRecord
from hsmbridge.storage.store import Store

_KIND = CertificateKind.CERTIFICATE
_BINDABLE = (KeyVersionState.ACTIVE, KeyVersionState.PRE_ACTIVE, KeyVersionState.ROTATED)


class Certificates:
    """One method an operation."""

    def __init__(self, store_: Store, keys: KeyAccess, access: CertificateAccess, policy: NamespacePolicy) -> None:
        """Args: the slots and certificates there are, the ways to both, and who may create where."""
        self._store = store_
        self._keys = keys
        self._access = access
        self._policy = policy

    def import_(self, session: Session, request: m.CertImportRequest) -> Steps[m.CertInfo]:
        name = parse_slot_name(request.name, session.principal)
        self._policy.require_creator(session.principal, name.namespace)
        chain = yield from store(lambda: read_chain(request.certificates))
        items = tuple(one.der for one in chain)
        slot = (yield from self._slot(session, request.slot)) if request.slot else None
        key_id = None if slot is None else _matching(slot, chain[0], session.principal)
        there = None
        if request.replace:
            there = yield from store(lambda: self._store.certificates.find(_KIND, name))
        if there is None:
            record = new_record(_KIND, name, items, session.principal)
            if slot is not None and key_id is not None:
                record = decisions.bound(record, slot.id, key_id)
            record = yield from store(lambda: self._store.certificates.insert(record))
        else:
            there = decisions.require_administrator(there, _KIND, name, session.principal)
            if slot is None and there.slot_id != UNBOUND:
                # What it is bound to stays, and so its key must.
                slot = yield from self._bound_slot(there)
                key_id = None if slot is None else _matching(slot, chain[0], session.principal)
            replaced = partial(_replaced, items=items, slot_id=None if slot is None else slot.id, key_id=key_id)
            record = yield from self._access.change(session, there, replaced)
        return (yield from self._info(session, record))

    def load(self, session: Session, request: m.CertLoadRequest) -> Steps[m.CertLoadReply]:
        chain = yield from store(lambda: read_chain(request.certificates))
        resource = session.certificates.hold(tuple(one.der for one in chain))
        return m.CertLoadReply(resource, _facts(chain))

    def show(self, session: Session, request: m.CertShowRequest) -> Steps[m.CertInfo]:
        if _is_transient(request.certificate):
            chain = yield from self._chain(session, request.certificate)
            return m.CertInfo("", _facts(chain), "", 0, 0, 0.0, 0.0, [])
        record = yield from self._access.visible(session, _KIND, request.certificate)
        return (yield from self._info(session, record))

    def list_all(self, session: Session, request: m.CertListRequest) -> Steps[m.CertListReply]:
        listing = yield from store(
            lambda: self._store.certificates.list_records(_KIND, request.namespace, session.principal)
        )
        found = yield from store(
            lambda: [self._described(record, session.principal, brief=True) for record in listing.records]
        )
        return m.CertListReply(found)

    def bind(self, session: Session, request: m.CertBindRequest) -> Steps[m.CertInfo]:
        record = yield from self._access.administered(session, _KIND, request.name)
        if not request.slot:
            record = yield from self._access.change(session, record, decisions.unbound)
        else:
            slot = yield from self._slot(session, request.slot)
            leaf, *_ = yield from store(lambda: read_chain(record.items))
            key_id = _matching(slot, leaf, session.principal)
            bound = partial(_bound_if, items=record.items, slot_id=slot.id, key_id=key_id)
            record = yield from self._access.change(session, record, bound)
        return (yield from self._info(session, record))

    def remove(self, session: Session, request: m.CertRemoveRequest) -> Steps[m.Empty]:
        """Of any kind."""
        record = yield from self._access.administered(session, _named_kind(request.kind), request.name)
        yield from self._access.remove(session, record)
        return m.Empty()

    def set_access(self, session: Session, request: m.CertAccessRequest) -> Steps[m.CertAccessReply]:
        """Of any kind."""
        record = yield from self._access.administered(session, _named_kind(request.kind), request.name)
        principal = check_principal(request.principal)
        granted = partial(decisions.with_access, principal=principal, role=request.role)
        changed = yield from self._access.change(session, record, granted)
        return m.CertAccessReply(access_of(changed))

    def verify(self, session: Session, request: m.CertVerifyRequest) -> Steps[m.CertVerifyReply]:
        if len(request.crls) > CRLS_MAX:
            raise LimitError(Status.DATA_TOO_LARGE, f"One verification looks at {CRLS_MAX} CRLs at most.")
        time = time_of(request.time)
        chain = yield from self._chain(session, request.certificate)
        trusted = yield from self._access.visible(session, CertificateKind.TRUST_STORE, request.trust_store)
        crls: list[CertificateRecord] = []
        for reference in request.crls:
            record = yield from self._access.visible(session, CertificateKind.CRL, reference)
            crls.append(record)
        found = yield from store(
            lambda: verify_chain(
                chain,
                read_anchors(trusted.items),
                request.purpose,
                subject=request.subject,
                time=time,
                intermediates=read_intermediates((*(one.der for one in chain[1:]), *request.intermediates)),
                crls=[read_crl(record.items[0]) for record in crls],
                revocation=request.revocation,
            )
        )
        return m.CertVerifyReply(found)

    def _chain(self, session: Session, reference: m.Reference) -> Steps[tuple[ReadCertificate, ...]]:
        if isinstance(reference, CryptoResourceId) and reference.kind is ResourceKind.CERTIFICATE:
            items = session.certificates.transient(reference)
        else:
            items = (yield from self._access.visible(session, _KIND, reference)).items
        return (yield from store(lambda: read_chain(items)))

    def _slot(self, session: Session, name: str) -> Steps[SlotRecord]:
        entry = yield from self._keys.named(session, name)
        return visible(entry, session.principal)

    def _bound_slot(self, record: CertificateRecord) -> Steps[SlotRecord | None]:
        return (yield from store(lambda: self._store.get(record.slot_id)))

    def _info(self, session: Session, record: CertificateRecord) -> Steps[m.CertInfo]:
        return (yield from store(lambda: self._described(record, session.principal)))

    def _described(self, record: CertificateRecord, principal: str, *, brief: bool = False) -> m.CertInfo:
        """A certificate as a principal sees it: a slot that it may not see is not named. Blocking."""
        slot = None if record.slot_id == UNBOUND else self._store.get(record.slot_id)
        if slot is not None and slot.entry_for(principal) is None:
            slot = None
        version = None if slot is None else slot.by_key_id(record.key_id)
        return m.CertInfo(
            name=str(record.name),
            chain=_facts(read_chain(record.items[:1] if brief else record.items), brief=brief),
            slot="" if slot is None else str(slot.name),
            slot_version=0 if version is None else version.number,
            generation=record.generation,
            created=record.created,
            changed=record.changed,
            access=access_of(record),
        )


def _facts(chain: tuple[ReadCertificate, ...], *, brief: bool = False) -> list[m.CertificateFacts]:
    return [one.facts if brief else one.with_der for one in chain]


def _is_transient(reference: m.Reference) -> bool:
    return isinstance(reference, CryptoResourceId) and reference.kind is ResourceKind.CERTIFICATE


def _named_kind(kind: ResourceKind) -> CertificateKind:
    found = KIND_OF.get(kind)
    if found is None:
        raise RequestError(Status.INVALID_ARGUMENT, "What has a name here is a certificate, a trust store or a CRL.")
    return found


def _matching(slot: SlotRecord, leaf: ReadCertificate, principal: str) -> KeyId:
    """The version of a slot whose key a certificate is for, the active one first. Raises CertificateError."""
    for state in _BINDABLE:
        for version in slot.in_state(state):
            if same_key(version.public_key, leaf.spki):
                return version.key_id
    which = f"slot {slot.name}" if slot.entry_for(principal) is not None else "the slot that it is bound to"
    raise CertificateError(
        Status.CERTIFICATE_INVALID,
        f"The certificate is for another key than those of {which}; ask its authority for one over the slot's public"
        " key.",
    )


def _replaced(
    record: CertificateRecord, *, items: tuple[bytes, ...], slot_id: SlotId | None, key_id: KeyId | None
) -> CertificateRecord:
    if slot_id is None or key_id is None:
        if record.slot_id != UNBOUND:
            raise CertificateError(
                Status.CERTIFICATE_INVALID,
                f"Certificate {record.name} is bound to a key slot that is gone; unbind it first.",
            )
        return decisions.holding(record, items)
    return decisions.bound(decisions.holding(record, items), slot_id, key_id)


def _bound_if(
    record: CertificateRecord, *, items: tuple[bytes, ...], slot_id: SlotId, key_id: KeyId
) -> CertificateRecord:
    if record.items != items:
        raise CertificateError(
            Status.CERTIFICATE_INVALID, f"Certificate {record.name} was replaced meanwhile; look at it and try again."
        )
    return decisions.bound(record, slot_id, key_id)
