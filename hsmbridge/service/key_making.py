"""Making keys: into a slot in two durable steps, or ephemeral for a connection.

Into a slot: the store records the version as CREATING under a key id of ours, the provider makes the key, one
commit makes it ACTIVE, and only then is it acknowledged. Whatever interrupts this leaves a record that the sweep
completes, and never a key that could be used half-made.
"""

import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Protocol

import structlog

from hsmbridge.core import calls
from hsmbridge.core import messages as m
from hsmbridge.core.algorithms import ALGORITHMS, Algorithm, KeyOperation, Kind, algorithm
from hsmbridge.core.errors import HsmBridgeError, LimitError, RequestError, Status
from hsmbridge.core.identifiers import KeyId, new_key_id
from hsmbridge.core.key_types import KeyType, key_type
from hsmbridge.core.params import AgreeKeyParams, KdfParameters
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.core.policy import NoncePolicy
from hsmbridge.engine.handles import Handles
from hsmbridge.engine.steps import Steps, ended, for_bytes, for_key, for_nothing, store
from hsmbridge.keys.access import AcquiredKey, require_new_version
from hsmbridge.keys.ephemeral import EphemeralKey
from hsmbridge.keys.origin import check_public_key_permissions, permissions_of_new_key
from hsmbridge.keys.slots import Slots
from hsmbridge.providers.registry import SEALED_SCHEMES
from hsmbridge.service.catalogue import Choice, ProviderCatalogue
from hsmbridge.service.key_access import KeyAccess
from hsmbridge.service.session import Session
from hsmbridge.storage.records import NewVersion, Origin, SlotRecord, VersionRecord

_log = structlog.get_logger(__name__)

MakingRequest = m.GenerateRequest | m.DeriveRequest | m.AgreeRequest | m.ImportRequest | m.UnwrapRequest

Make = Callable[[calls.KeyTarget], Steps[calls.MadeKey]]
"""Makes the key that a target describes, at the provider that was chosen."""

MATERIAL_MAX = 64 * 1024
"""Bytes of a key that comes in, wrapped or not."""

_PUBLIC_KEY = "spki"
_AGREEMENT_OF = {name: row for row in ALGORITHMS.values() if row.kind is Kind.KEY_AGREEMENT for name in row.key_types}


@dataclass(frozen=True, slots=True)
class Plan:
    """Where a new key goes, and how it is made there."""

    choice: Choice
    make: Make


class _Planner(Protocol):
    def __call__(self, preferences: tuple[str, ...], *, fallback: bool) -> Plan: ...


class KeyMaking:
    """The key-making operations, and what slot administration shares with them."""

    def __init__(self, catalogue: ProviderCatalogue, slots: Slots, access: KeyAccess, handles: Handles) -> None:
        """Args: the parts that making a key goes through."""
        self._catalogue = catalogue
        self._slots = slots
        self._access = access
        self._handles = handles
        self._counting = threading.Lock()
        self._count = 0

    @property
    def count(self) -> int:
        """Ephemeral keys of all connections: made, and not known to be freed."""
        return self._count

    def _counted(self, change: int) -> None:
        with self._counting:
            self._count += change

    # Operations

    def generate(self, session: Session, request: m.GenerateRequest) -> Steps[m.KeyReply]:
        row = key_type(request.params.key_type)

        def plan(preferences: tuple[str, ...], *, fallback: bool) -> Plan:
            return self.generation(preferences, row, fallback=fallback)

        return (yield from self.make(session, request, Origin.GENERATED, request.provider, plan))

    def derive(self, session: Session, request: m.DeriveRequest, key: AcquiredKey) -> Steps[m.KeyReply]:
        kdf = request.params.kdf
        self._catalogue.require(key.provider, algorithm(kdf.algorithm), KeyOperation.DERIVE)
        row = key_type(request.params.key_type)

        def plan(preferences: tuple[str, ...], *, fallback: bool) -> Plan:  # noqa: ARG001 - stays where it is
            if key.provider not in preferences:
                raise _elsewhere(key, preferences)
            choice = self._catalogue.choose((key.provider,), row.name, fallback=True, generate=False)
            return Plan(choice, lambda target: self._derive(key, kdf, target))

        return (yield from self.make(session, request, Origin.DERIVED, key.provider, plan))

    def agree(self, session: Session, request: m.AgreeRequest, key: AcquiredKey) -> Steps[m.KeyReply]:
        params = request.params
        agreement = agreement_of(key.key_type)
        self._catalogue.require(key.provider, agreement, KeyOperation.AGREE)
        row = key_type(params.key_type)
        if not row.symmetric:
            raise RequestError(
                Status.KEY_TYPE_MISMATCH, f"An agreement yields a secret key, not one of type {row.name}."
            )

        def plan(preferences: tuple[str, ...], *, fallback: bool) -> Plan:
            if not request.slot and _may_leave(key):
                preferences += self._takers_in_daemon(row)
            return self._agreement(key, agreement, params, row, preferences, fallback=fallback)

        return (yield from self.make(session, request, Origin.AGREED, key.provider, plan))

    def import_key(self, session: Session, request: m.ImportRequest) -> Steps[m.KeyReply]:
        row = key_type(request.params.key_type)
        check_material(request.material)
        if request.params.format == _PUBLIC_KEY:
            check_public_key_permissions(row, request.params.allowed)

        def plan(preferences: tuple[str, ...], *, fallback: bool) -> Plan:
            takers = tuple(name for name in preferences if self._imports(name, row)) or preferences
            choice = self._catalogue.choose(takers, row.name, fallback=fallback, generate=False)
            if not self._imports(choice.provider, row):
                raise RequestError(
                    Status.NOT_SUPPORTED, f"Provider {choice.provider} cannot take in a key of type {row.name}."
                )
            return Plan(
                choice,
                lambda target: for_key(
                    choice.provider, calls.ImportCall(target, request.params.format, request.material)
                ),
            )

        return (yield from self.make(session, request, Origin.IMPORTED, request.provider, plan))

    def put_secret(self, session: Session, secret: bytes, slot: str) -> Steps[int]:
        """Write a secret that a KEM yielded into a slot, as it is. Answers the new version's number."""
        entry = yield from self._access.named(session, slot)
        record = require_new_version(entry, session.principal)
        row = key_type(record.key_type)
        if not row.symmetric or row.bytes != len(secret):
            raise RequestError(
                Status.KEY_TYPE_MISMATCH, f"A secret of {8 * len(secret)} bits does not make a key of type {row.name}."
            )
        plan = self._from_secret(record.providers, row, lambda: ended(secret), None, fallback=record.fallback)
        made = yield from self.into_slot(record, row, record.permissions, Origin.ENCAPSULATED, plan)
        yield from self._access.refresh(entry)
        return made.number

    # What slot administration uses too

    def generation(self, preferences: tuple[str, ...], row: KeyType, *, fallback: bool) -> Plan:
        """A plan to generate a key at the first provider of a list that can."""
        choice = self._catalogue.choose(preferences, row.name, fallback=fallback)
        return Plan(choice, lambda target: for_key(choice.provider, calls.GenerateCall(target)))

    def into_slot(self, record: SlotRecord, row: KeyType, asked: P, origin: Origin, plan: Plan) -> Steps[VersionRecord]:
        """Write a new key as the slot's new active version, in two durable steps."""
        permissions = permissions_of_new_key(row, asked, origin, record)
        new = self.new_version(plan.choice, permissions, origin)
        begun = yield from store(lambda: self._slots.begin_version(record.id, new))
        activated = yield from self.complete(begun, new.key_id, plan.make)
        return _version(activated, new.key_id)

    def new_version(self, choice: Choice, permissions: P, origin: Origin) -> NewVersion:
        """The version that a choice of provider begins."""
        return NewVersion(
            provider=choice.provider,
            permissions=permissions,
            origin=origin,
            fell_back_from=choice.fell_back_from,
            key_id=new_key_id(),
            token=choice.description.token.serial,
        )

    def complete(self, begun: SlotRecord, key_id: KeyId, make: Make) -> Steps[SlotRecord]:
        """Make the key of a version that was begun, and activate it; on failure, undo what can be undone now."""
        version = _version(begun, key_id)
        target = calls.KeyTarget(
            key_id, begun.key_type, version.permissions, begun.binding(version), str(begun.name), ephemeral=False
        )
        try:
            made = yield from make(target)
            return (yield from store(lambda: self._slots.activate(begun.id, key_id, made)))
        except HsmBridgeError:
            yield from self._undo(begun, version)
            raise

    def _undo(self, begun: SlotRecord, version: VersionRecord) -> Steps[None]:
        abandoned = yield from store(lambda: self._slots.abandon(begun.id, version.key_id))
        if not abandoned:
            # It is active after all: the commit took place although its answer was an error.
            return
        try:
            yield from for_nothing(version.provider, calls.DestroyCall(version.key_id, begun.key_type, b""))
            yield from store(lambda: self._slots.remove_abandoned(begun.id, version.key_id))
        except HsmBridgeError as failure:
            _log.warning(
                "a key that was not completed is left to the sweep",
                slot=str(begun.name),
                provider=version.provider,
                status=failure.status.name,
                origin=failure.origin,
            )

    # Ways of making

    def make(
        self, session: Session, request: MakingRequest, origin: Origin, provider: str, plan: _Planner
    ) -> Steps[m.KeyReply]:
        """Make the key of a request by a plan: ephemeral, or in the slot that it names.

        Args:
            provider: for an ephemeral key the only one to be asked, or "".
        """
        row, asked = key_type(request.params.key_type), request.params.allowed
        if not request.slot:
            preferences = (provider,) if provider else tuple(self._catalogue.entries)
            planned = plan(preferences, fallback=True)
            return (yield from self._ephemeral(session, row, asked, origin, request.nonce_policy, planned))
        if request.nonce_policy is not NoncePolicy.SERVICE:
            raise RequestError(
                Status.INVALID_ARGUMENT,
                "A slot says itself who chooses its nonces; give no nonce policy for a key that goes into one.",
            )
        return (yield from self.into_named_slot(session, row, asked, origin, request.slot, plan))

    def into_named_slot(
        self,
        session: Session,
        row: KeyType,
        asked: P,
        origin: Origin,
        slot: str,
        plan: _Planner,
        *,
        nonce_policy: NoncePolicy | None = None,
    ) -> Steps[m.KeyReply]:
        """Make a key by a plan as a new version of a slot that the principal may fill.

        Args:
            asked: the permissions; it gets at most these.
            nonce_policy: the only one that the slot may have, where the key has encrypted before.
        """
        entry = yield from self._access.named(session, slot)
        record = require_new_version(entry, session.principal)
        if record.key_type != row.name:
            raise RequestError(
                Status.KEY_TYPE_MISMATCH, f"Slot {record.name} holds keys of type {record.key_type}, not {row.name}."
            )
        if nonce_policy is not None and record.nonce_policy is not nonce_policy:
            raise RequestError(
                Status.INVALID_ARGUMENT,
                f"The nonces that this key has used already are not known to slot {record.name}, whose nonces come from"
                " callers; choose a slot whose nonces the service chooses.",
            )
        planned = plan(record.providers, fallback=record.fallback)
        made = yield from self.into_slot(record, row, asked, origin, planned)
        yield from self._access.refresh(entry)
        return m.KeyReply(None, made.number, made.public_key)

    def _ephemeral(
        self, session: Session, row: KeyType, asked: P, origin: Origin, nonce_policy: NoncePolicy, plan: Plan
    ) -> Steps[m.KeyReply]:
        permissions = permissions_of_new_key(row, asked, origin, None)
        keys = session.resources.ephemeral
        # First, so that the end of the connection either finds the provider here, or is found by `reserve`.
        session.used.add(plan.choice.provider)
        keys.reserve()
        key_id = new_key_id()
        target = calls.KeyTarget(key_id, row.name, permissions, ephemeral=True, owner=session.owner)
        try:
            made = yield from plan.make(target)
        except HsmBridgeError:
            keys.cancel()
            yield from self.destroy_quietly(plan.choice.provider, key_id, row.name, b"")
            raise
        key = EphemeralKey(
            key_id=key_id,
            provider=plan.choice.provider,
            key_type=row,
            permissions=permissions,
            origin=origin,
            reference=made.reference,
            public_key=made.public_key,
            protection=made.protection,
            binding=b"",
            nonce_policy=nonce_policy,
        )
        self._counted(1)
        try:
            resource = keys.add(key)
        except HsmBridgeError:
            yield from self.free(key)
            raise
        return m.KeyReply(resource, 0, made.public_key)

    def free(self, key: EphemeralKey) -> Steps[None]:
        """Destroy an ephemeral key that nobody holds any more."""
        self._handles.forget(key.key_id)
        yield from self.destroy_quietly(key.provider, key.key_id, key.key_type.name, key.reference)
        self._counted(-1)

    def free_all(self, session: Session, provider: str, keys: Collection[EphemeralKey]) -> Steps[None]:
        """The connection ended: free what a provider has for it, at one stroke; `keys` are those that it still had."""
        for key in keys:
            self._handles.forget(key.key_id)
        try:
            yield from for_nothing(provider, calls.ReleaseOwnerCall(session.owner))
        except HsmBridgeError as failure:
            _log.warning("what a connection had was not freed", provider=provider, origin=failure.origin)
        self._counted(-len(keys))

    def destroy_quietly(self, provider: str, key_id: KeyId, type_name: str, reference: bytes) -> Steps[None]:
        """Destroy at the provider; a failure is logged, for an ephemeral key dies with its provider at the latest."""
        try:
            yield from for_nothing(provider, calls.DestroyCall(key_id, type_name, reference))
        except HsmBridgeError as failure:
            _log.warning("an ephemeral key was not destroyed", provider=provider, origin=failure.origin)

    def _derive(self, key: AcquiredKey, kdf: KdfParameters, target: calls.KeyTarget) -> Steps[calls.MadeKey]:
        return self._handles.use(key, lambda handle: for_key(key.provider, calls.DeriveKeyCall(handle, kdf, target)))

    def _agreement(
        self,
        key: AcquiredKey,
        agreement: Algorithm,
        params: AgreeKeyParams,
        row: KeyType,
        preferences: tuple[str, ...],
        *,
        fallback: bool,
    ) -> Plan:
        """Keep the agreed key where its parent is if that can be; else through the daemon, if the slot allows it."""

        def agreed(target: calls.KeyTarget) -> Steps[calls.MadeKey]:
            return self._handles.use(
                key,
                lambda handle: for_key(
                    key.provider,
                    calls.AgreeKeyCall(handle, agreement.name, params.peer_public_key, params.kdf, target),
                ),
            )

        def secret() -> Steps[bytes]:
            return self._handles.use(
                key,
                lambda handle: for_bytes(
                    key.provider, calls.AgreeSecretCall(handle, agreement.name, params.peer_public_key)
                ),
            )

        others = tuple(name for name in preferences if name != key.provider)
        through_daemon = (
            self._from_secret(others, row, secret, params.kdf, fallback=fallback)
            if others and _may_leave(key)
            else None
        )
        if key.provider in preferences:
            choice = self._catalogue.choose((key.provider,), row.name, fallback=True, generate=False)
            if self._keeps(key.provider, agreement, params.kdf) or through_daemon is None:
                return Plan(choice, agreed)
        if through_daemon is None:
            raise _elsewhere(key, preferences)
        return through_daemon

    def _keeps(self, provider: str, agreement: Algorithm, kdf: KdfParameters | None) -> bool:
        return kdf is None or self._catalogue.claims(provider, algorithm(kdf.algorithm), KeyOperation.DERIVE)

    def _from_secret(
        self,
        preferences: tuple[str, ...],
        row: KeyType,
        secret: Callable[[], Steps[bytes]],
        kdf: KdfParameters | None,
        *,
        fallback: bool,
    ) -> Plan:
        choice = self._catalogue.choose(preferences, row.name, fallback=fallback, generate=False)

        def make(target: calls.KeyTarget) -> Steps[calls.MadeKey]:
            value = yield from secret()
            return (yield from for_key(choice.provider, calls.DeriveFromSecretCall(value, kdf, target)))

        return Plan(choice, make)

    def _takers_in_daemon(self, row: KeyType) -> tuple[str, ...]:
        """The providers that are the daemon itself, of those that take in such keys now."""
        return tuple(
            entry.name
            for entry in self._catalogue.entries.values()
            if entry.scheme in SEALED_SCHEMES and entry.available and self._imports(entry.name, row)
        )

    def _imports(self, provider: str, row: KeyType) -> bool:
        description = self._catalogue.entry(provider).description
        return description is not None and row.name in description.imports


def check_material(material: bytes) -> None:
    """Refuse what is too large to be a key. Raises LimitError (DATA_TOO_LARGE)."""
    if len(material) > MATERIAL_MAX:
        raise LimitError(
            Status.DATA_TOO_LARGE, f"A key has at most {MATERIAL_MAX} bytes; this one has {len(material)}."
        )


def agreement_of(row: KeyType) -> Algorithm:
    """The agreement that keys of a type are for. Raises RequestError (KEY_TYPE_MISMATCH)."""
    agreement = _AGREEMENT_OF.get(row.name)
    if agreement is None:
        raise RequestError(Status.KEY_TYPE_MISMATCH, f"Keys of type {row.name} cannot agree on a secret.")
    return agreement


def _may_leave(key: AcquiredKey) -> bool:
    return key.slot is not None and key.slot.derive_to_software


def _elsewhere(key: AcquiredKey, preferences: tuple[str, ...]) -> HsmBridgeError:
    return RequestError(
        Status.NOT_SUPPORTED,
        f"The secret would have to leave {key.provider} for {', '.join(preferences)}, and the key's slot does not"
        " allow that (derive_to_software).",
    )


def _version(record: SlotRecord, key_id: KeyId) -> VersionRecord:
    version = record.by_key_id(key_id)
    if version is None:
        raise RequestError(Status.INTERNAL, origin=f"version of {record.name} is gone")
    return version
