"""What the service tells of itself: status, providers, and the doctor's findings."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from hsmbridge.core import calls
from hsmbridge.core import messages as m
from hsmbridge.core.errors import HsmBridgeError, Status
from hsmbridge.core.identifiers import KeyId
from hsmbridge.core.lifecycle import KeyVersionState
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.core.permissions import permission_names
from hsmbridge.core.policy import PinOwner
from hsmbridge.engine.steps import Steps, for_foreign_key, for_key_ids, store
from hsmbridge.keys.pins import is_locked
from hsmbridge.service.catalogue import Entry, ProviderCatalogue
from hsmbridge.service.certificate_findings import certificate_findings
from hsmbridge.service.session import Session
from hsmbridge.storage.authentication import pins_tampered
from hsmbridge.storage.records import Origin, SlotRecord, VersionRecord
from hsmbridge.storage.store import Store

_WHOSE = {PinOwner.SO: "The security officer's PIN", PinOwner.USER: "The PIN"}
_CANNOT_SAY = frozenset({Status.NOT_SUPPORTED, Status.INVALID_ARGUMENT})


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonFacts:
    """What only the composition root knows. Callables are asked anew each time.

    `operators` are the principals who are told of everybody's slots: root, and the daemon's own user.
    """

    version: str
    pid: int
    supervisor_pid: int
    workers: int
    operators: frozenset[str]
    uptime: Callable[[], float]
    connections: Callable[[], int]
    provider_calls: Callable[[str], int]
    contexts: Callable[[], int] = lambda: 0
    keys: Callable[[], int] = lambda: 0


class Information:
    """One method an operation."""

    def __init__(self, catalogue: ProviderCatalogue, store_: Store, facts: DaemonFacts) -> None:
        """Args: the parts that are told of."""
        self._catalogue = catalogue
        self._store = store_
        self._facts = facts

    def status(self, session: Session) -> m.StatusReply:
        facts = self._facts
        return m.StatusReply(
            facts.version,
            facts.pid,
            facts.supervisor_pid,
            facts.workers,
            facts.uptime(),
            facts.connections(),
            session.principal,
            self._store.url_shown,
            self._store.protector_name,
            facts.contexts(),
            facts.keys(),
        )

    def providers(self) -> m.ProvidersReply:
        return m.ProvidersReply([self._provider(entry) for entry in self._catalogue.entries.values()])

    def doctor(self, session: Session) -> Steps[m.DoctorReply]:
        """The findings; of slots, and of what costs a walk over a token, only operators are told."""
        findings = [*self._store_findings(), *self._provider_findings()]
        try:
            yield from store(self._store.check)
            findings.append(m.Finding("ok", "store", "The slot store can be read and written."))
            if session.principal in self._facts.operators:
                findings += yield from self._unfinished()
                findings += yield from self._orphans()
                findings += yield from self._adopted()
                findings += yield from store(self._pins)
            seen_by = "" if session.principal in self._facts.operators else session.principal
            findings += yield from store(lambda: certificate_findings(self._store, seen_by))
        except HsmBridgeError as failure:
            findings.append(m.Finding("error", "store", failure.message))
        return m.DoctorReply(findings)

    def _pins(self) -> list[m.Finding]:
        """PINs of PKCS#11 applications that are locked or were tampered with. Blocking."""
        now = time.time()
        found, tampered = self._store.pins.list_all()
        return [
            *(
                m.Finding(
                    "warning",
                    f"PINs of {pins.principal}",
                    f"{_WHOSE[owner]} for token {pins.token} is locked for some minutes: {pins.pin(owner).wrong}"
                    " wrong ones were given.",
                )
                for pins in found
                for owner in PinOwner
                if is_locked(pins.pin(owner), now)
            ),
            *(
                m.Finding("error", f"PINs of {principal}", str(pins_tampered(principal, token)))
                for principal, token in tampered
            ),
        ]

    def _provider(self, entry: Entry) -> m.ProviderInfo:
        description = entry.description
        return m.ProviderInfo(
            name=entry.name,
            scheme=entry.scheme,
            isolation=entry.isolation,
            state="available" if entry.available else "unavailable",
            reason="" if entry.reason is None else entry.reason.message,
            pid=entry.pid,
            calls=self._facts.provider_calls(entry.name),
            token=None if description is None else description.token,
            key_types=() if description is None else description.key_types,
            claims=() if description is None else description.claims,
            notes=() if description is None else description.notes,
            adopts=description is not None and description.adopts,
            attests=description is not None and description.attests,
            exports=() if description is None else description.exports,
        )

    def _store_findings(self) -> list[m.Finding]:
        name = self._store.protector_name
        if name == "key file":
            return [
                m.Finding(
                    "notice",
                    "master key",
                    "The master key is protected by a key file on the same machine: who can read that file and the"
                    " store can use the software keys. A passphrase protects better.",
                )
            ]
        return [m.Finding("ok", "master key", f"The master key is protected by a {name}.")]

    def _provider_findings(self) -> list[m.Finding]:
        findings = []
        for entry in self._catalogue.entries.values():
            subject = f"provider {entry.name}"
            if entry.available:
                findings.append(m.Finding("ok", subject, "Available."))
            else:
                reason = entry.reason.message if entry.reason is not None else "It has not answered yet."
                findings.append(m.Finding("error", subject, reason))
        return findings

    def _unfinished(self) -> Steps[list[m.Finding]]:
        unfinished, _ = yield from store(self._store.unfinished)
        listing = yield from store(self._store.list_slots)
        findings = [
            m.Finding(
                "warning",
                f"slot {item.slot.name}",
                f"Version {item.version.number} is {item.version.state} at provider {item.version.provider}; it is"
                " completed as soon as the token that it was begun on is available.",
            )
            for item in unfinished
        ]
        findings += [
            m.Finding(
                "error",
                f"slot {name}",
                "Its stored record was changed outside of hsmbridge and is not obeyed; restore it from a backup.",
            )
            for name in listing.tampered
        ]
        for record in listing.records:
            for version in record.versions:
                entry = self._catalogue.entries.get(version.provider)
                if entry is None:
                    findings.append(
                        m.Finding("error", f"slot {record.name}", f"Its provider {version.provider} is not configured.")
                    )
                elif entry.description is not None and version.token not in ("", entry.description.token.serial):
                    findings.append(
                        m.Finding(
                            "error",
                            f"slot {record.name}",
                            f"Version {version.number} lives on the token with serial {version.token}; provider"
                            f" {version.provider} has another one. Nothing is deleted; connect the right token.",
                        )
                    )
        return findings

    def _orphans(self) -> Steps[list[m.Finding]]:
        findings = []
        for entry in self._catalogue.entries.values():
            if not entry.available or entry.description is None or not entry.description.lists:
                continue
            there = yield from for_key_ids(entry.name)
            known: set[KeyId] = yield from store(lambda name=entry.name: self._store.key_ids(name))  # type: ignore[misc]
            orphans = [key_id for key_id in there if KeyId(key_id) not in known]
            findings += [
                m.Finding(
                    "warning",
                    f"provider {entry.name}",
                    f"The token holds a key of ours that no slot knows (CKA_ID {key_id.hex()}): it may belong to"
                    " another store, or to a backup. It is left alone.",
                )
                for key_id in orphans
            ]
        return findings

    def _adopted(self) -> Steps[list[m.Finding]]:
        """What tokens still let adopted keys do past the daemon."""
        listing = yield from store(self._store.list_slots)
        findings = []
        for record in listing.records:
            for version in record.in_state(KeyVersionState.ACTIVE, KeyVersionState.ROTATED):
                entry = self._catalogue.entries.get(version.provider)
                if version.origin is Origin.ADOPTED and entry is not None and entry.available:
                    findings.append((yield from self._of_adopted(record, version)))
        return findings

    def _of_adopted(self, record: SlotRecord, version: VersionRecord) -> Steps[m.Finding]:
        subject, what = f"slot {record.name}", f"Version {version.number} was adopted:"
        try:
            found = yield from for_foreign_key(
                version.provider, calls.ExamineCall(calls.OWN_REFERENCE, version.reference)
            )
        except HsmBridgeError as failure:
            if failure.status in _CANNOT_SAY:
                return m.Finding(
                    "notice",
                    subject,
                    f"{what} who made it, or has the PIN of its token, can use it past the daemon. Provider"
                    f" {version.provider} does not say for what.",
                )
            return m.Finding("error", subject, f"{what} {failure.message}")
        beyond = P(found.permissions & int(~P.NONE)) & ~version.permissions
        if not beyond:
            return m.Finding("ok", subject, f"{what} its token allows nothing that the slot does not.")
        return m.Finding(
            "notice",
            subject,
            f"{what} past the daemon its token still lets it {', '.join(permission_names(beyond))}. Take that away"
            " with the token's own tools, or see to it that nobody else has the PIN.",
        )
