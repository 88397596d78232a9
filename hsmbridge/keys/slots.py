"""Slots: planned from requests, and changed in the store, one durable commit a method.

Who may ask for what is checked before (`hsmbridge.keys.access`); what may follow what is decided in
`hsmbridge.keys.versions` and `hsmbridge.keys.grants`; keys are made and destroyed by the engine in between.
"""

import secrets
import time
from collections.abc import Iterable, Mapping
from functools import partial
from types import MappingProxyType

from hsmbridge.core.algorithms import algorithm
from hsmbridge.core.calls import MadeKey
from hsmbridge.core.errors import AccessError, RequestError, Status
from hsmbridge.core.identifiers import (
    RESERVED_SLOT_PREFIX,
    KeyId,
    check_provider_name,
    default_namespace,
    parse_slot_name,
)
from hsmbridge.core.key_types import Family, KeyType, Maturity, check_permissions_fit, key_type
from hsmbridge.core.lifecycle import KeyVersionState
from hsmbridge.core.messages import SlotCreateRequest
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.core.permissions import check_separation, permissions_from_bits
from hsmbridge.core.policy import Role
from hsmbridge.keys import grants, versions
from hsmbridge.keys.access import not_found
from hsmbridge.keys.attributes import check_attributes, with_attributes
from hsmbridge.storage.records import (
    SLOT_ID_LENGTH,
    AccessEntry,
    NewSlot,
    NewVersion,
    SlotId,
    SlotRecord,
    SlotState,
    Unfinished,
)
from hsmbridge.storage.store import Decide, Store

_PROVIDERS_MAX = 16


class NamespacePolicy:
    """Who may create slots in which namespace."""

    def __init__(self, creators: Mapping[str, Iterable[str]] = MappingProxyType({})) -> None:
        """Args: creators: principals by namespace. Everybody may create in the namespace of their own."""
        self._creators = {namespace: frozenset(principals) for namespace, principals in creators.items()}

    def require_creator(self, principal: str, namespace: str) -> None:
        """Raises AccessError (ACCESS_DENIED)."""
        if namespace == default_namespace(principal) or principal in self._creators.get(namespace, ()):
            return
        raise AccessError(
            Status.ACCESS_DENIED,
            f"{principal} may not create slots in namespace {namespace};"
            f" {default_namespace(principal)} is {principal}'s own.",
        )


def plan_slot(request: SlotCreateRequest, principal: str, policy: NamespacePolicy) -> NewSlot:
    """The slot that a request asks for, checked as far as it can be without store and providers.

    Raises:
        RequestError: INVALID_NAME, UNKNOWN_KEY_TYPE, INVALID_PERMISSIONS, UNKNOWN_ALGORITHM, KEY_TYPE_MISMATCH,
            INVALID_ARGUMENT.
        AccessError: ACCESS_DENIED where the caller may not create slots in the namespace.
    """
    name = parse_slot_name(request.name, principal)
    if name.name.startswith(RESERVED_SLOT_PREFIX):
        raise RequestError(
            Status.INVALID_NAME, f"Names that begin with {RESERVED_SLOT_PREFIX} are reserved; choose another."
        )
    policy.require_creator(principal, name.namespace)
    row = key_type(request.key_type)
    if row.maturity is Maturity.LEGACY:
        raise RequestError(Status.UNKNOWN_KEY_TYPE, f"No new keys of type {row.name} are made; choose another type.")
    permissions = permissions_from_bits(request.permissions)
    check_permissions_fit(row, permissions)
    check_separation(permissions, rsa=row.family is Family.RSA, sign_and_decrypt=request.sign_and_decrypt)
    return NewSlot(
        name=name,
        key_type=row.name,
        providers=_providers(request.providers),
        permissions=permissions,
        creator=principal,
        algorithms=_algorithms(request.algorithms, row),
        nonce_policy=request.nonce_policy,
        fallback=request.fallback,
        sign_and_decrypt=request.sign_and_decrypt,
        derive_to_software=request.derive_to_software,
        imported_wrapping_key=request.imported_wrapping_key,
        attributes=check_attributes(request.attributes),
    )


class Slots:
    """The slots of a store. Every method blocks, is durable when it returns, and gives the record as it is then.

    All raise StoreError (STORE_TAMPERED, STORE_UNAVAILABLE), and ResourceError (RESOURCE_NOT_FOUND) where the slot
    is not there any more, beside what each says.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def create(self, new: NewSlot, first: NewVersion | None) -> SlotRecord:
        """A new slot that its creator administers: PENDING with `first` CREATING, or LIVE and empty.

        Raises:
            ResourceError: RESOURCE_EXISTS.
        """
        now = _now()
        versions_ = () if first is None else (versions.first_version(first, self._store.incarnation, now),)
        return self._store.insert(
            SlotRecord(
                id=SlotId(secrets.token_bytes(SLOT_ID_LENGTH)),
                name=new.name,
                state=SlotState.LIVE if first is None else SlotState.PENDING,
                key_type=new.key_type,
                providers=new.providers,
                permissions=new.permissions,
                algorithms=new.algorithms,
                nonce_policy=new.nonce_policy,
                fallback=new.fallback,
                sign_and_decrypt=new.sign_and_decrypt,
                derive_to_software=new.derive_to_software,
                imported_wrapping_key=new.imported_wrapping_key,
                creator=new.creator,
                generation=1,
                revision=1,
                created=now,
                versions=versions_,
                access=(AccessEntry(new.creator, Role.ADMINISTER, new.permissions),),
                attributes=new.attributes,
            )
        )

    def begin_version(self, slot_id: SlotId, new: NewVersion, *, instead_of: KeyId | None = None) -> SlotRecord:
        """A version is CREATING, owned by this process; its key may be made now.

        Args:
            instead_of: a version that was begun and could not be made, abandoned in the same commit.

        Raises:
            KeyUseError: KEY_STATE_FORBIDS while another version is being made.
            RequestError: INVALID_PERMISSIONS, INVALID_ARGUMENT.
        """
        owner, is_alive = self._store.incarnation, self._store.owner_is_alive
        return self._change(
            slot_id, lambda record: versions.begin(record, new, owner, _now(), is_alive, instead_of=instead_of)
        )

    def activate(self, slot_id: SlotId, key_id: KeyId, made: MadeKey) -> SlotRecord:
        """The version is ACTIVE, the former one ROTATED, in one commit.

        Raises:
            KeyUseError: KEY_STATE_FORBIDS where it was given up meanwhile; the key is to be destroyed then, and
                the version abandoned and removed.
        """
        return self._change(
            slot_id, lambda record: versions.activate(record, key_id, made, self._store.incarnation, _now())
        )

    def abandon(self, slot_id: SlotId, key_id: KeyId) -> bool:
        """A version that is CREATING will not be made. Repeating it is fine.

        Whether it is abandoned now. Only then may its material be destroyed: otherwise it is active after all (a
        commit whose outcome was not known had taken place) or forgotten already.
        """
        changed = self._store.change(slot_id, lambda record: versions.abandon(record, key_id, _now()))
        version = None if changed is None else changed.by_key_id(key_id)
        return version is not None and version.state is KeyVersionState.ABANDONED

    def remove_abandoned(self, slot_id: SlotId, key_id: KeyId) -> None:
        """Forget an abandoned version, whose material must be gone; a slot made for it goes too. Repeating is fine."""
        self._store.change(slot_id, lambda record: versions.remove_abandoned(record, key_id))

    def revoke(self, slot_id: SlotId, number: int = 0) -> SlotRecord:
        """A version serves nothing any more; number 0 is the active one.

        Raises:
            ResourceError: RESOURCE_NOT_FOUND where there is no such version.
            KeyUseError: KEY_STATE_FORBIDS where its state cannot become REVOKED.
        """
        return self._change(slot_id, lambda record: versions.revoke(record, number, _now()))

    def begin_destroy(self, slot_id: SlotId, number: int = 0) -> SlotRecord:
        """A version, or with number 0 the slot with all of them, serves nothing any more.

        The DESTROYING versions of the record are to be destroyed at their providers, then finished one by one. A
        slot without any is DESTROYED at once. Repeating it is fine until it is finished.

        Raises:
            ResourceError: RESOURCE_NOT_FOUND where there is no such version.
            KeyUseError: KEY_STATE_FORBIDS where the version is destroyed already.
        """
        return self._change(slot_id, lambda record: versions.begin_destroy(record, number, _now()))

    def finish_destroy(self, slot_id: SlotId, key_id: KeyId) -> SlotRecord:
        """The material of a version is gone. The last one of a slot that goes frees its name. Repeating is fine."""
        return self._change(slot_id, lambda record: versions.finish_destroy(record, key_id, _now()))

    def grant(self, slot_id: SlotId, principal: str, role: Role, permissions: P) -> SlotRecord:
        """The principal has exactly this role and mask. Raises RequestError (INVALID_PERMISSIONS, INVALID_ARGUMENT)."""
        return self._change(slot_id, lambda record: grants.grant(record, principal, role, permissions))

    def ungrant(self, slot_id: SlotId, principal: str) -> SlotRecord:
        """The principal has no access any more. Raises ResourceError, RequestError (INVALID_ARGUMENT)."""
        return self._change(slot_id, lambda record: grants.ungrant(record, principal))

    def set_attributes(self, slot_id: SlotId, changes: Mapping[int, bytes]) -> SlotRecord:
        """What applications keep with the slot; b"" takes one away. Raises RequestError (INVALID_ARGUMENT)."""
        return self._change(slot_id, lambda record: with_attributes(record, changes))

    def restrict(self, slot_id: SlotId, remove: P, number: int = 0) -> SlotRecord:
        """Take permissions away, from the slot or from one version; they never come back."""
        return self._change(slot_id, lambda record: grants.restrict(record, remove, number))

    def sweep(self) -> list[Unfinished]:
        """What crashes interrupted: to be destroyed at its provider, then removed or finished.

        Versions that dead processes left CREATING are ABANDONED when this returns; what living ones make is left
        out. A record that was tampered with is never acted on.
        """
        found = []
        for item in self._store.unfinished()[0]:
            slot, version = item.slot, item.version
            if version.state is KeyVersionState.CREATING:
                if self._store.owner_is_alive(version.owner):
                    continue
                key_id = version.key_id
                changed = self._store.change(slot.id, partial(versions.abandon, key_id=key_id, now=_now()))
                given_up = None if changed is None else changed.by_key_id(key_id)
                if changed is None or given_up is None or given_up.state is not KeyVersionState.ABANDONED:
                    continue
                slot, version = changed, given_up
            found.append(Unfinished(slot, version))
        return found

    def _change(self, slot_id: SlotId, decide: Decide) -> SlotRecord:
        changed = self._store.change(slot_id, decide)
        if changed is None:
            raise not_found("")
        return changed


def _providers(names: tuple[str, ...]) -> tuple[str, ...]:
    if not 1 <= len(names) <= _PROVIDERS_MAX or len(set(names)) != len(names):
        raise RequestError(
            Status.INVALID_ARGUMENT, f"A slot names 1 to {_PROVIDERS_MAX} different providers, in order of preference."
        )
    return tuple(check_provider_name(name) for name in names)


def _algorithms(names: tuple[str, ...], row: KeyType) -> tuple[str, ...]:
    for name in names:
        if not algorithm(name).takes(row):
            raise RequestError(Status.KEY_TYPE_MISMATCH, f"{name} does not take a key of type {row.name}.")
    return tuple(dict.fromkeys(names))


def _now() -> float:
    # Whole microseconds, as the store keeps them: what is returned is what will be read.
    return time.time_ns() // 1000 / 1_000_000
