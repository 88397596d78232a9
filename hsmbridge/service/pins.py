"""PINs of PKCS#11 applications: initialising a token, logging in, setting PINs, and what operators ask of them.

Each principal has a token of its own wherever it sees one: PINs, label, and the slots of its own namespace. What a
PIN guards is the front end's to enforce.
"""

import hmac
import time
from collections.abc import Callable

from hsmbridge.core import messages as m
from hsmbridge.core import token_messages as t
from hsmbridge.core.errors import AccessError, HsmBridgeError, ResourceError, Status
from hsmbridge.core.identifiers import check_principal, default_namespace
from hsmbridge.core.policy import PinOwner
from hsmbridge.engine.steps import Steps, store, work
from hsmbridge.keys import pins as decisions
from hsmbridge.service.audit import AuditRecord, AuditSink
from hsmbridge.service.certificates import Certificates
from hsmbridge.service.session import Session
from hsmbridge.service.slots import SlotAdministration
from hsmbridge.storage.certificate_records import CertificateKind, CertificateRecord
from hsmbridge.storage.pins import Decide, TokenPins
from hsmbridge.storage.records import SlotId, SlotRecord
from hsmbridge.storage.store import Store


class Pins:
    """One method an operation."""

    def __init__(
        self,
        store_: Store,
        slots: SlotAdministration,
        certificates: Certificates,
        audit: AuditSink,
        operators: frozenset[str],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Args: what initialising a token destroys, and where it is told; who may reset PINs; seconds since 1970."""
        self._store = store_
        self._slots = slots
        self._certificates = certificates
        self._audit = audit
        self._operators = operators
        self._clock = clock

    def show(self, session: Session, request: t.TokenShowRequest) -> Steps[m.PinInfo]:
        found = yield from store(lambda: self._store.pins.get(session.principal, request.name))
        return decisions.described(found, self._clock())

    def list_all(self, session: Session) -> Steps[m.PinListReply]:
        principal = "" if session.principal in self._operators else session.principal
        found, _ = yield from store(lambda: self._store.pins.list_all(principal))
        now = self._clock()
        return m.PinListReply([decisions.described(pins, now) for pins in found if _says_something(pins)])

    def reset(self, session: Session, request: m.PinResetRequest) -> Steps[m.PinResetReply]:
        if session.principal not in self._operators:
            raise AccessError(
                Status.ACCESS_DENIED, "PINs are reset by operators only: root, or the user that the daemon runs as."
            )
        principal = check_principal(request.principal)
        return m.PinResetReply((yield from store(lambda: self._store.pins.forget(principal, request.token))))

    def log_in(self, session: Session, request: t.TokenLoginRequest) -> Steps[m.Empty]:
        yield from self._proven(session, request.name, request.owner, request.pin, request.right)
        return m.Empty()

    def set_pin(self, session: Session, request: t.TokenPinRequest) -> Steps[m.Empty]:
        """Another PIN; of the user's own, or by the security officer, whom the front end knows to be one."""
        owner, pin, key = request.owner, request.pin, self._store.pins.key
        known = None
        if request.old is not None:
            known = yield from self._proven(session, request.name, owner, request.old)
        digest = yield from work(lambda: decisions.pin_digest(pin, key))

        def changed(pins: TokenPins) -> TokenPins:
            if known is not None:
                decisions.unchanged(known, owner, pins)
            elif not pins.initialized:  # an operator has reset it meanwhile
                raise ResourceError(Status.RESOURCE_NOT_FOUND, "The token is not initialised.")
            return decisions.with_digest(pins, owner, digest)

        yield from self._change(session, request.name, changed)
        return m.Empty()

    def initialize(self, session: Session, request: t.TokenInitializeRequest) -> Steps[m.Empty]:
        """A token as new: with the security officer's PIN, without the user's, and without what was made there."""
        name, pin, key = request.name, request.pin, self._store.pins.key
        known = yield from store(lambda: self._store.pins.get(session.principal, name))
        again = bool(known.initialized)
        if again:
            known = yield from self._proven(session, name, PinOwner.SO, pin)
        digest = known.so.digest or (yield from work(lambda: decisions.pin_digest(pin, key)))

        def changed(pins: TokenPins) -> TokenPins:
            decisions.unchanged(known, PinOwner.SO, pins)
            return decisions.initialized(pins, digest, request.label, _whole_microseconds(self._clock()))

        # The user's PIN goes first, and is gone whatever becomes of the keys.
        pins = yield from self._change(session, name, changed)
        if again:
            yield from self._wipe(session, request.providers, pins.initialized)
        return m.Empty()

    def _proven(
        self, session: Session, token: str, owner: PinOwner, pin: bytes, right: bytes = b""
    ) -> Steps[TokenPins]:
        """The record whose PIN was given. Raises ProviderError (PIN_INCORRECT, PIN_LOCKED), ResourceError.

        What is found by looking is told to nobody before the count of wrong ones is written: neither a process that
        ends, nor a store that cannot be written, nor others who try meanwhile give a further try.
        """
        principal, key, own = session.principal, self._store.pins.key, not right

        def looked_at() -> tuple[TokenPins, bool]:
            pins = self._store.pins.get(principal, token)
            decisions.check_open(pins, owner, self._clock(), own=own)
            return pins, decisions.pin_fits(pin, pins.pin(owner).digest, key) if own else hmac.compare_digest(
                pin, right
            )

        known, fits = yield from (work(looked_at) if own else store(looked_at))

        def judged(pins: TokenPins) -> TokenPins:
            now = self._clock()  # not earlier than any change before, by whichever process
            decisions.check_open(pins, owner, now, own=own)
            decisions.unchanged(known, owner, pins)
            return decisions.forgiven(pins, owner) if fits else decisions.counted(pins, owner, now)

        # What a loss of power forgets of a right one is that the wrong ones before it do not count.
        pins = yield from self._change(session, token, judged, durable=not fits)
        if not fits:
            raise decisions.wrong_pin()
        return pins

    def _change(self, session: Session, token: str, decide: Decide, *, durable: bool = True) -> Steps[TokenPins]:
        principal = session.principal
        return (yield from store(lambda: self._store.pins.change(principal, token, decide, durable=durable)))

    # What goes with a token that is initialised again

    def _wipe(self, session: Session, providers: tuple[str, ...], since: float) -> Steps[None]:
        """Destroy what is the caller's alone. Raises the last failure, when everything else is done."""
        principal, namespace = session.principal, default_namespace(session.principal)
        listing = yield from store(lambda: self._store.list_slots(namespace, principal))
        wiped = [slot for slot in listing.records if decisions.may_be_wiped(slot, principal, providers, since)]
        certificates = yield from self._certificates_of(session, wiped)
        left: HsmBridgeError | None = None
        for certificate in certificates:
            request = m.CertRemoveRequest(str(certificate.name))
            steps = self._certificates.remove(session, request)
            left = (yield from self._told(session, "cert-remove", request.name, steps)) or left
        for slot in wiped:
            destroy = m.SlotDestroyRequest(str(slot.name))
            gone = self._slots.destroy(session, destroy)
            left = (yield from self._told(session, "slot-destroy", destroy.name, gone)) or left
        if left is not None:
            raise left

    def _certificates_of(self, session: Session, slots: list[SlotRecord]) -> Steps[list[CertificateRecord]]:
        """The certificates of slots that are the caller's alone."""
        principal, namespace = session.principal, default_namespace(session.principal)
        ids: set[SlotId] = {slot.id for slot in slots}
        listing = yield from store(
            lambda: self._store.certificates.list_records(CertificateKind.CERTIFICATE, namespace, principal)
        )
        return [
            record
            for record in listing.records
            if record.slot_id in ids
            and record.creator == principal
            and all(entry.principal == principal for entry in record.access)
        ]

    def _told(
        self, session: Session, operation: str, subject: str, steps: Steps[m.Empty]
    ) -> Steps[HsmBridgeError | None]:
        """Do a part of an operation, and have it in the audit as one of its own: what it failed with, if it did."""
        failure: HsmBridgeError | None = None
        try:
            yield from steps
        except HsmBridgeError as problem:
            failure = problem
        status = Status.OK if failure is None else failure.status
        if self._audit.wants(operation, status):
            self._audit.close(AuditRecord(session.principal, operation, subject, 0, "", status))
        return failure


def _says_something(pins: TokenPins) -> bool:
    return bool(pins.initialized or pins.so.wrong or pins.user.wrong)


def _whole_microseconds(now: float) -> float:
    # As the store keeps them: what is returned is what will be read.
    return round(now * 1_000_000) / 1_000_000
