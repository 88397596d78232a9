"""Operations on trust stores (named sets of anchors) and CRLs."""

from collections.abc import Sequence
from functools import partial

from hsmbridge.core import messages as m
from hsmbridge.core.certificates import FINGERPRINT_LENGTH
from hsmbridge.core.errors import CertificateError, RequestError, ResourceError, Status
from hsmbridge.core.identifiers import parse_slot_name
from hsmbridge.engine.steps import Steps, store
from hsmbridge.keys import certificates as decisions
from hsmbridge.keys.certificates import new_record
from hsmbridge.keys.slots import NamespacePolicy
from hsmbridge.service.certificate_access import CertificateAccess, access_of
from hsmbridge.service.certificate_reading import ReadCrl, fingerprint, read_anchors, read_crl
from hsmbridge.service.session import Session
from hsmbridge.storage.certificate_records import CertificateKind, CertificateRecord

_TRUST = CertificateKind.TRUST_STORE
_CRL = CertificateKind.CRL


class TrustStores:
    """One method an operation."""

    def __init__(self, access: CertificateAccess, policy: NamespacePolicy) -> None:
        """Args: the way to what is stored, and who may create where."""
        self._access = access
        self._policy = policy

    def create(self, session: Session, request: m.TrustCreateRequest) -> Steps[m.TrustInfo]:
        name = parse_slot_name(request.name, session.principal)
        self._policy.require_creator(session.principal, name.namespace)
        anchors = yield from store(lambda: read_anchors(request.anchors))
        record = new_record(_TRUST, name, tuple(one.der for one in anchors), session.principal)
        yield from store(lambda: self._access.store.insert(record))
        return (yield from store(lambda: _trust_info(record)))

    def add(self, session: Session, request: m.TrustAddRequest) -> Steps[m.TrustInfo]:
        record = yield from self._access.administered(session, _TRUST, request.name)
        if not request.anchors:
            raise RequestError(Status.INVALID_ARGUMENT, "There is no certificate; give at least one.")
        anchors = yield from store(lambda: read_anchors(request.anchors))
        added = partial(_with_anchors, more=tuple(one.der for one in anchors))
        changed = yield from self._access.change(session, record, added)
        return (yield from store(lambda: _trust_info(changed)))

    def take_out(self, session: Session, request: m.TrustRemoveRequest) -> Steps[m.TrustInfo]:
        record = yield from self._access.administered(session, _TRUST, request.name)
        if not request.fingerprints or any(len(one) != FINGERPRINT_LENGTH for one in request.fingerprints):
            raise RequestError(
                Status.INVALID_ARGUMENT, "An anchor is named by the SHA-256 of its certificate; name at least one."
            )
        without = partial(_without_anchors, fingerprints=request.fingerprints)
        changed = yield from self._access.change(session, record, without)
        return (yield from store(lambda: _trust_info(changed)))

    def show(self, session: Session, request: m.TrustShowRequest) -> Steps[m.TrustInfo]:
        record = yield from self._access.visible(session, _TRUST, request.trust_store)
        return (yield from store(lambda: _trust_info(record)))

    def list_all(self, session: Session, request: m.TrustListRequest) -> Steps[m.TrustListReply]:
        listing = yield from store(
            lambda: self._access.store.list_records(_TRUST, request.namespace, session.principal)
        )
        found = yield from store(lambda: [_trust_info(record, brief=True) for record in listing.records])
        return m.TrustListReply(found)

    def import_crl(self, session: Session, request: m.CrlImportRequest) -> Steps[m.CrlInfo]:
        name = parse_slot_name(request.name, session.principal)
        self._policy.require_creator(session.principal, name.namespace)
        crl = yield from store(lambda: read_crl(request.crl))
        there = yield from store(lambda: self._access.store.find(_CRL, name))
        if there is None:
            made = new_record(_CRL, name, (crl.der,), session.principal)
            record = yield from store(lambda: self._access.store.insert(made))
        else:
            there = decisions.require_administrator(there, _CRL, name, session.principal)
            record = yield from self._access.change(session, there, partial(_newer, crl=crl))
        return _crl_info(record, crl)

    def show_crl(self, session: Session, request: m.CrlShowRequest) -> Steps[m.CrlInfo]:
        record = yield from self._access.visible(session, _CRL, request.crl)
        crl = yield from store(lambda: read_crl(record.items[0]))
        return _crl_info(record, crl)

    def list_crls(self, session: Session, request: m.CrlListRequest) -> Steps[m.CrlListReply]:
        listing = yield from store(lambda: self._access.store.list_records(_CRL, request.namespace, session.principal))
        found = yield from store(
            lambda: [_crl_info(record, read_crl(record.items[0]), brief=True) for record in listing.records]
        )
        return m.CrlListReply(found)


def _with_anchors(record: CertificateRecord, *, more: tuple[bytes, ...]) -> CertificateRecord:
    items = tuple(dict.fromkeys((*record.items, *more)))
    if items != record.items:
        read_anchors(items)
    return decisions.holding(record, items)


def _without_anchors(record: CertificateRecord, *, fingerprints: Sequence[bytes]) -> CertificateRecord:
    known = {fingerprint(der): der for der in record.items}
    unknown = [one for one in fingerprints if one not in known]
    if unknown:
        raise ResourceError(
            Status.RESOURCE_NOT_FOUND,
            f"Trust store {record.name} has no anchor with the fingerprint {unknown[0].hex()};"
            " `hsmbridge trust show` lists those it has.",
        )
    gone = {known[one] for one in fingerprints}
    return decisions.holding(record, tuple(der for der in record.items if der not in gone))


def _newer(record: CertificateRecord, *, crl: ReadCrl) -> CertificateRecord:
    """The record with another CRL of the same issuer, never an older one."""
    before = read_crl(record.items[0])
    if before.crl.issuer != crl.crl.issuer:
        raise CertificateError(
            Status.CERTIFICATE_INVALID,
            f"{record.name} is the CRL of {before.issuer:.120}, and this one is of {crl.issuer:.120}; choose another"
            " name.",
        )
    older = crl.this_update < before.this_update
    if crl.number is not None and before.number is not None:
        older = older or crl.number < before.number
    if older:
        raise CertificateError(
            Status.CERTIFICATE_INVALID,
            f"The CRL is older than the one that {record.name} holds already, which stays.",
        )
    return decisions.holding(record, (crl.der,))


def _trust_info(record: CertificateRecord, *, brief: bool = False) -> m.TrustInfo:
    return m.TrustInfo(
        name=str(record.name),
        anchors=[one.facts if brief else one.with_der for one in read_anchors(record.items)],
        generation=record.generation,
        created=record.created,
        changed=record.changed,
        access=access_of(record),
    )


def _crl_info(record: CertificateRecord, crl: ReadCrl, *, brief: bool = False) -> m.CrlInfo:
    return m.CrlInfo(
        name=str(record.name),
        issuer=crl.issuer,
        number="" if crl.number is None else f"{crl.number}",
        this_update=crl.this_update,
        next_update=crl.next_update,
        revoked=crl.revoked,
        generation=record.generation,
        created=record.created,
        changed=record.changed,
        access=access_of(record),
        crl=b"" if brief else crl.der,
    )
