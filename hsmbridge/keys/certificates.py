"""Certificates, trust stores and CRLs: who may see and change one, and what becomes of it, as pure decisions.

As with slots, a record whose access list does not have the caller is not there for it: the same status, the same
text, the same way. Who is on the list may read and verify with it, who administers it may change it. What is in a
certificate is not looked at here.
"""

import secrets
import time
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from hsmbridge.core.errors import AccessError, RequestError, ResourceError, Status
from hsmbridge.core.identifiers import KeyId, QualifiedName, ResourceKind
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.core.policy import Role
from hsmbridge.storage.certificate_records import (
    CERTIFICATE_ID_LENGTH,
    NO_KEY,
    UNBOUND,
    CertificateId,
    CertificateKind,
    CertificateRecord,
)
from hsmbridge.storage.records import AccessEntry, SlotId

KIND_OF: Mapping[ResourceKind, CertificateKind] = MappingProxyType(
    {
        ResourceKind.CERT_SLOT: CertificateKind.CERTIFICATE,
        ResourceKind.VERIFICATION_TRUST_STORE: CertificateKind.TRUST_STORE,
        ResourceKind.CRL: CertificateKind.CRL,
    }
)
"""The kind of record behind a resource id that has a name."""

_WORDS = {
    CertificateKind.CERTIFICATE: ("certificate", "cert list"),
    CertificateKind.TRUST_STORE: ("trust store", "trust list"),
    CertificateKind.CRL: ("CRL", "crl list"),
}


def new_record(kind: CertificateKind, name: QualifiedName, items: tuple[bytes, ...], creator: str) -> CertificateRecord:
    """A record that its creator administers."""
    now = _now()
    return CertificateRecord(
        id=CertificateId(secrets.token_bytes(CERTIFICATE_ID_LENGTH)),
        kind=kind,
        name=name,
        items=items,
        creator=creator,
        generation=1,
        revision=1,
        created=now,
        changed=now,
        access=(AccessEntry(creator, Role.ADMINISTER, P.NONE),),
    )


def visible(
    record: CertificateRecord | None, kind: CertificateKind, name: QualifiedName, principal: str
) -> CertificateRecord:
    """The record, if the caller is in its access list. Raises ResourceError (RESOURCE_NOT_FOUND)."""
    return _who(record, kind, name, principal)[0]


def require_administrator(
    record: CertificateRecord | None, kind: CertificateKind, name: QualifiedName, principal: str
) -> CertificateRecord:
    """The record, if the caller administers it.

    Raises:
        ResourceError: RESOURCE_NOT_FOUND where the caller does not see it.
        AccessError: ACCESS_DENIED where the caller may only use it.
    """
    found, access = _who(record, kind, name, principal)
    if access.role is not Role.ADMINISTER:
        raise AccessError(Status.ACCESS_DENIED, f"You may use {_WORDS[kind][0]} {found.name}, but not administer it.")
    return found


def holding(record: CertificateRecord, items: tuple[bytes, ...]) -> CertificateRecord:
    """The record with other content; the same content is no change."""
    return record if record.items == items else _changed(replace(record, items=items))


def bound(record: CertificateRecord, slot_id: SlotId, key_id: KeyId) -> CertificateRecord:
    """The certificate bound to a key version of a slot; to what it is bound already is no change."""
    if (record.slot_id, record.key_id) == (slot_id, key_id):
        return record
    return _changed(replace(record, slot_id=slot_id, key_id=key_id))


def unbound(record: CertificateRecord) -> CertificateRecord:
    """The certificate bound to no key."""
    return bound(record, UNBOUND, NO_KEY)


def with_access(record: CertificateRecord, principal: str, role: Role | None) -> CertificateRecord:
    """The principal has exactly this role, or with None no access any more.

    Raises:
        ResourceError: RESOURCE_NOT_FOUND where it had no access to take away.
        RequestError: INVALID_ARGUMENT where nobody would administer.
    """
    had = record.entry_for(principal)
    what = _WORDS[record.kind][0]
    if role is None and had is None:
        raise ResourceError(Status.RESOURCE_NOT_FOUND, f"{principal} has no access to {what} {record.name}.")
    if had is not None and had.role is role:
        return record
    others = [entry for entry in record.access if entry.principal != principal]
    access = others if role is None else [*others, AccessEntry(principal, role, P.NONE)]
    if not any(entry.role is Role.ADMINISTER for entry in access):
        raise RequestError(
            Status.INVALID_ARGUMENT,
            f"{principal} is the last one who administers {what} {record.name}; let somebody else administer it first.",
        )
    return _changed(replace(record, access=tuple(sorted(access, key=lambda entry: entry.principal))))


def not_found(kind: CertificateKind, name: QualifiedName | str) -> ResourceError:
    """The answer for what is not there, and for what the caller may not see."""
    what, command = _WORDS[kind]
    return ResourceError(
        Status.RESOURCE_NOT_FOUND,
        f"There is no {what} {name}, or you have no access to it; `hsmbridge {command}` shows yours.",
    )


def _who(
    record: CertificateRecord | None, kind: CertificateKind, name: QualifiedName, principal: str
) -> tuple[CertificateRecord, AccessEntry]:
    access = None if record is None else record.entry_for(principal)
    if record is None or access is None:
        raise not_found(kind, name)
    return record, access


def _changed(record: CertificateRecord) -> CertificateRecord:
    return replace(record, generation=record.generation + 1, changed=_now())


def _now() -> float:
    # Whole microseconds, as the store keeps them: what is returned is what will be read.
    return time.time_ns() // 1000 / 1_000_000
