"""What becomes of key versions: pure decisions, from a slot's record to the record as it is to be.

The legal moves stand in `hsmbridge.core.lifecycle.TRANSITIONS`; nothing here reads or writes. The store runs each
decision inside a transaction, so two at once come one after the other. A decision that finds its work done already
gives back the very record that it got.
"""

from collections.abc import Callable
from dataclasses import replace

from hsmbridge.core.calls import MadeKey
from hsmbridge.core.errors import HsmBridgeError, KeyUseError, ProviderError, RequestError, ResourceError, Status
from hsmbridge.core.identifiers import KeyId
from hsmbridge.core.lifecycle import TRANSITIONS, KeyVersionState
from hsmbridge.core.permissions import permission_names
from hsmbridge.storage.records import NewVersion, SlotRecord, SlotState, VersionRecord

REFERENCE_MAX = 64 * 1024
"""Bytes of what a provider may ask the store to keep of a key."""

_S = KeyVersionState
_NEVER_THERE = frozenset({_S.CREATING, _S.ABANDONED})


def first_version(new: NewVersion, owner: str, now: float) -> VersionRecord:
    """Version 1 of a slot that is made with it."""
    return _creating(new, 1, owner, now)


def begin(
    record: SlotRecord,
    new: NewVersion,
    owner: str,
    now: float,
    is_alive: Callable[[str], bool],
    *,
    instead_of: KeyId | None = None,
) -> SlotRecord:
    """A version is CREATING; what a dead owner left CREATING, and `instead_of`, are ABANDONED.

    Raises:
        KeyUseError: KEY_STATE_FORBIDS while another version of the slot is being made.
        RequestError: INVALID_PERMISSIONS above the slot's ceiling, INVALID_ARGUMENT for a provider not of the slot's.
        ResourceError: RESOURCE_NOT_FOUND where the slot was destroyed.
    """
    _require_usable(record)
    if new.provider not in record.providers:
        raise RequestError(
            Status.INVALID_ARGUMENT,
            f"Slot {record.name} keeps its keys in {', '.join(record.providers)}, not in {new.provider}.",
        )
    if new.permissions & ~record.permissions:
        above = ", ".join(permission_names(new.permissions & ~record.permissions))
        raise RequestError(Status.INVALID_PERMISSIONS, f"Slot {record.name} does not allow its keys to {above}.")
    versions = []
    for version in record.versions:
        given_up = version.key_id == instead_of or not is_alive(version.owner)
        if version.state is _S.CREATING and not given_up:
            raise KeyUseError(
                Status.KEY_STATE_FORBIDS,
                f"A version of slot {record.name} is being made just now; try again when that is done.",
            )
        versions.append(_moved(version, _S.ABANDONED, now) if version.state is _S.CREATING else version)
    number = 1 + max((version.number for version in versions), default=0)
    return replace(record, versions=(*versions, _creating(new, number, owner, now)))


def activate(record: SlotRecord, key_id: KeyId, made: MadeKey, owner: str, now: float) -> SlotRecord:
    """The version is ACTIVE and the former active one ROTATED; a slot that was waiting for it is LIVE.

    Raises:
        KeyUseError: KEY_STATE_FORBIDS where it is not CREATING by `owner` any more.
        ProviderError: PROVIDER_FAILED where the provider's reference is larger than a store keeps.
    """
    version = record.by_key_id(key_id)
    if version is None or version.state is not _S.CREATING or version.owner != owner:
        raise KeyUseError(
            Status.KEY_STATE_FORBIDS,
            f"The new version of slot {record.name} was given up meanwhile, because the slot or its maker went away.",
        )
    if len(made.reference) > REFERENCE_MAX:
        raise ProviderError(Status.PROVIDER_FAILED, origin=f"a reference of {len(made.reference)} bytes")
    active = replace(
        _moved(version, _S.ACTIVE, now),
        reference=made.reference,
        public_key=made.public_key,
        protection=made.protection,
    )
    versions = (
        _moved(other, _S.ROTATED, now) if other.state is _S.ACTIVE else active if other.key_id == key_id else other
        for other in record.versions
    )
    return _noticed(record, versions=tuple(versions), state=SlotState.LIVE)


def abandon(record: SlotRecord, key_id: KeyId, now: float) -> SlotRecord:
    """A version that is CREATING will not be made: ABANDONED. Any other state is left alone."""
    version = record.by_key_id(key_id)
    if version is None or version.state is not _S.CREATING:
        return record
    return _with(record, _moved(version, _S.ABANDONED, now))


def remove_abandoned(record: SlotRecord, key_id: KeyId) -> SlotRecord | None:
    """An abandoned version is gone; a slot that was to begin with it goes too (None)."""
    version = record.by_key_id(key_id)
    if version is None or version.state is not _S.ABANDONED:
        return record
    left = tuple(other for other in record.versions if other.key_id != key_id)
    if record.state is SlotState.PENDING and not left:
        return None
    return replace(record, versions=left)


def revoke(record: SlotRecord, number: int, now: float) -> SlotRecord:
    """A version is REVOKED; number 0 is the active one.

    Raises:
        ResourceError: RESOURCE_NOT_FOUND where there is no such version.
        KeyUseError: KEY_STATE_FORBIDS where its state cannot become REVOKED.
    """
    return _noticed(_with(record, _moved(_named(record, number), _S.REVOKED, now)))


def begin_destroy(record: SlotRecord, number: int, now: float) -> SlotRecord:
    """A version, or with number 0 the slot with all of them, is DESTROYING. What is so already is left alone.

    Raises:
        ResourceError: RESOURCE_NOT_FOUND where there is no such version.
        KeyUseError: KEY_STATE_FORBIDS where the version cannot be destroyed (any more).
    """
    if number:
        version = _named(record, number)
        if version.state is _S.DESTROYING:
            return record
        return _noticed(_with(record, _moved(version, _S.DESTROYING, now)))
    if record.state in (SlotState.DESTROYING, SlotState.DESTROYED):
        return record
    versions = tuple(_on_slot_destroy(version, now) for version in record.versions)
    return _noticed(record, versions=versions, state=_destroying_or_destroyed(versions))


def finish_destroy(record: SlotRecord, key_id: KeyId, now: float) -> SlotRecord:
    """The material of a version is gone: DESTROYED; the last one of a slot that goes ends the slot."""
    version = record.by_key_id(key_id)
    if version is None or version.state is not _S.DESTROYING:
        return record
    changed = _with(record, replace(_moved(version, _S.DESTROYED, now), reference=b""))
    if changed.state is SlotState.DESTROYING:
        changed = replace(changed, state=_destroying_or_destroyed(changed.versions))
    return changed


def no_version(record: SlotRecord, number: int) -> HsmBridgeError:
    """The refusal of a version number that the slot does not have."""
    if not number:
        return KeyUseError(
            Status.KEY_STATE_FORBIDS, f"Slot {record.name} has no active version; rotate it to make one."
        )
    return ResourceError(Status.RESOURCE_NOT_FOUND, f"Slot {record.name} has no version {number}.")


def _named(record: SlotRecord, number: int) -> VersionRecord:
    version = record.version(number) if number else record.active
    if version is None or version.state in _NEVER_THERE:
        raise no_version(record, number)
    return version


def _moved(version: VersionRecord, state: KeyVersionState, now: float) -> VersionRecord:
    if state not in TRANSITIONS[version.state]:
        end = "already" if state is version.state else f"and cannot become {state}"
        raise KeyUseError(Status.KEY_STATE_FORBIDS, f"Version {version.number} is {version.state} {end}.")
    return replace(version, state=state, owner="", changed=now)


def _with(record: SlotRecord, version: VersionRecord) -> SlotRecord:
    versions = tuple(version if other.key_id == version.key_id else other for other in record.versions)
    return replace(record, versions=versions)


def _noticed(
    record: SlotRecord, *, versions: tuple[VersionRecord, ...] | None = None, state: SlotState | None = None
) -> SlotRecord:
    return replace(
        record,
        versions=record.versions if versions is None else versions,
        state=record.state if state is None else state,
        generation=record.generation + 1,
    )


def _creating(new: NewVersion, number: int, owner: str, now: float) -> VersionRecord:
    return VersionRecord(
        key_id=new.key_id,
        number=number,
        state=_S.CREATING,
        provider=new.provider,
        permissions=new.permissions,
        token=new.token,
        fell_back_from=new.fell_back_from,
        origin=new.origin,
        owner=owner,
        created=now,
        changed=now,
    )


def _on_slot_destroy(version: VersionRecord, now: float) -> VersionRecord:
    if version.state is _S.CREATING:
        return _moved(version, _S.ABANDONED, now)
    if _S.DESTROYING in TRANSITIONS[version.state]:
        return _moved(version, _S.DESTROYING, now)
    return version


def _destroying_or_destroyed(versions: tuple[VersionRecord, ...]) -> SlotState:
    left = any(version.state is _S.DESTROYING for version in versions)
    return SlotState.DESTROYING if left else SlotState.DESTROYED


def _require_usable(record: SlotRecord) -> None:
    if record.state in (SlotState.DESTROYING, SlotState.DESTROYED):
        raise KeyUseError(Status.KEY_STATE_FORBIDS, f"Slot {record.name} is being destroyed.")
