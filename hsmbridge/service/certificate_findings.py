"""What the doctor says of certificates, trust stores and CRLs: expired, bound to a key that serves no more, changed."""

import time
from collections.abc import Iterator

from hsmbridge.core.errors import HsmBridgeError
from hsmbridge.core.lifecycle import KeyVersionState
from hsmbridge.core.messages import CertificateFacts, Finding
from hsmbridge.service.certificate_reading import read_certificate, read_crl
from hsmbridge.storage.certificate_records import UNBOUND, CertificateKind, CertificateRecord
from hsmbridge.storage.store import Store

_DAY = 86_400.0
SOON = 30 * _DAY
"""Seconds before its end from which a certificate's expiry is told."""

_SERVES = (KeyVersionState.PRE_ACTIVE, KeyVersionState.ACTIVE)


def certificate_findings(store: Store, principal: str) -> list[Finding]:
    """The findings over those that a principal sees; `principal` "" is over all. Blocking."""
    listing = store.certificates.list_records(principal=principal)
    now = time.time()
    findings = [
        Finding(
            "error",
            f"{kind} {name}",
            "Its stored record was changed outside of hsmbridge and is not obeyed; restore it from a backup.",
        )
        for kind, name in listing.tampered
    ]
    for record in listing.records:
        subject = f"{record.kind} {record.name}"
        try:
            findings += [Finding(severity, subject, text) for severity, text in _of(record, store, now, principal)]
        except HsmBridgeError as unreadable:
            findings.append(Finding("error", subject, unreadable.message))
    return findings


def _of(record: CertificateRecord, store: Store, now: float, principal: str) -> Iterator[tuple[str, str]]:
    if record.kind is CertificateKind.CRL:
        crl = read_crl(record.items[0])
        if 0 < crl.next_update < now:
            yield "warning", f"The CRL is out of date since {_date(crl.next_update)}; import a newer one."
        return
    for position, der in enumerate(record.items):
        facts = read_certificate(der).facts
        which = "It" if position == 0 and record.kind is CertificateKind.CERTIFICATE else f"{facts.subject:.120}"
        yield from _validity(which, facts, now)
    if record.slot_id != UNBOUND:
        yield from _binding(record, store, principal)


def _validity(which: str, facts: CertificateFacts, now: float) -> Iterator[tuple[str, str]]:
    if facts.not_after < now:
        yield "warning", f"{which} expired on {_date(facts.not_after)}; put a new certificate in its place."
    elif facts.not_after < now + SOON:
        yield "notice", f"{which} expires on {_date(facts.not_after)}."
    elif facts.not_before > now:
        yield "notice", f"{which} is not valid before {_date(facts.not_before)}."


def _binding(record: CertificateRecord, store: Store, principal: str) -> Iterator[tuple[str, str]]:
    slot = store.get(record.slot_id)
    version = None if slot is None else slot.by_key_id(record.key_id)
    if slot is None or version is None or version.state is KeyVersionState.DESTROYED:
        yield "warning", "The key slot that it is bound to is destroyed; unbind it or remove it."
    elif version.state not in _SERVES:
        seen = not principal or slot.entry_for(principal) is not None
        which = f"slot {slot.name}" if seen else "its key slot"
        yield (
            "warning",
            f"It is for version {version.number} of {which}, which is {version.state}; get one for the active key.",
        )


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))
