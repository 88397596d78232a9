"""THE check: who may use which key for what. The only way to what a provider needs to load a key.

Two questions, in this order, before any provider is called: WHO - the slot's access list has the caller, else the
slot answers as one that does not exist (same status, same text, same way through this module); WHAT - the
permission stands in the slot's ceiling, in the caller's mask and on the version, the algorithm is for that and
takes the key type, the slot allows it, the version's state serves it.

Slots are cached with the stamp of the change counter that was read before them. What was once granted is kept with
the cached record, so that using a key costs two look-ups; a refusal is worked out anew. Nothing here does I/O but
`SlotKeys.refresh`.
"""

import threading
import time
from collections.abc import Mapping
from types import MappingProxyType

from hsmbridge.core.algorithms import PERMISSION_FOR, Algorithm, Kind
from hsmbridge.core.errors import AccessError, KeyUseError, RequestError, ResourceError, Status
from hsmbridge.core.identifiers import QualifiedName
from hsmbridge.core.key_types import KeyType, Maturity, key_type
from hsmbridge.core.lifecycle import USABLE, KeyVersionState
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.core.permissions import permission_names
from hsmbridge.core.policy import Role
from hsmbridge.keys.acquired import AcquiredKey
from hsmbridge.keys.versions import no_version
from hsmbridge.storage.records import AccessEntry, SlotRecord, SlotState, VersionRecord
from hsmbridge.storage.store import Store

__all__ = [
    "AcquiredKey",
    "SlotEntry",
    "SlotKeys",
    "SlotView",
    "acquire",
    "candidates",
    "check_algorithm",
    "not_found",
    "not_permitted",
    "require_administrator",
    "require_new_version",
    "visible",
]

MAX_AGE = 1.0
"""Seconds after which a cached slot is compared with the store even if no change was announced: another node, or
a process that died between its commit and its announcement, announces nothing."""

_CACHED_SLOTS = 4096
_UNSEEN = frozenset({SlotState.PENDING, SlotState.DESTROYED})
_NEVER_THERE = frozenset({KeyVersionState.CREATING, KeyVersionState.ABANDONED})
_SERVED = (KeyVersionState.ACTIVE, KeyVersionState.ROTATED)
_LEGACY_SERVES = P.VERIFY | P.DECRYPT

_Question = tuple[str, P, str, int]


def _permissions_of(kind: Kind) -> P:
    permissions = P.NONE
    for operation in kind.operations:
        permissions |= PERMISSION_FOR.get(operation, P.NONE)
    return permissions


_FITS: Mapping[Kind, P] = MappingProxyType({kind: _permissions_of(kind) for kind in Kind})


class SlotView:
    """What is known of a slot, swapped as a whole: a reader in another thread never sees half of it."""

    __slots__ = ("granted", "record", "stamp", "until")

    def __init__(
        self,
        record: SlotRecord | None,
        stamp: bytes,
        until: float,
        granted: dict[_Question, tuple[AcquiredKey, ...]],
    ) -> None:
        self.record = record
        self.stamp = stamp
        self.until = until
        self.granted = granted


class SlotEntry:
    """A name, and what this process knows of the slot behind it. Unknown is the same as not there."""

    __slots__ = ("name", "view")

    def __init__(self, name: QualifiedName) -> None:
        self.name = name
        self.view = SlotView(None, b"", 0.0, {})

    def __repr__(self) -> str:
        return f"SlotEntry({self.name})"

    @property
    def record(self) -> SlotRecord | None:
        """The slot as it was last read, or None."""
        return self.view.record


class SlotKeys:
    """The slots that this process has read, kept current."""

    def __init__(self, store: Store, *, max_age: float = MAX_AGE, size: int = _CACHED_SLOTS) -> None:
        self._store = store
        self._stamp = store.changes.stamp
        self._max_age = max_age
        self._size = size
        self._entries: dict[QualifiedName, SlotEntry] = {}
        self._adding = threading.Lock()

    def entry(self, name: QualifiedName) -> SlotEntry:
        """The entry of a name, whatever is behind it; it may have to be refreshed first."""
        found = self._entries.get(name)
        if found is not None:
            return found
        with self._adding:
            if len(self._entries) >= self._size:
                del self._entries[next(iter(self._entries))]
            return self._entries.setdefault(name, SlotEntry(name))

    def entry_is_current(self, entry: SlotEntry) -> bool:
        """Whether nothing changed since the entry was read, as far as can be known without I/O."""
        view = entry.view
        return view.stamp == self._stamp() and time.monotonic() < view.until

    def refresh(self, entry: SlotEntry) -> None:
        """Make an entry current; one that is already costs nothing. Blocking.

        Raises:
            StoreError: STORE_TAMPERED, STORE_UNAVAILABLE; the entry stays as it was, and not current.
        """
        if self.entry_is_current(entry):
            # Of many calls that found it stale at once, only the first one reads.
            return
        view, stamp, until = entry.view, self._stamp(), time.monotonic() + self._max_age
        if view.stamp:
            known = None if view.record is None else (view.record.id, view.record.revision)
            if self._store.revision_of(entry.name) == known:
                entry.view = SlotView(view.record, stamp, until, view.granted)
                return
        entry.view = SlotView(self._store.find(entry.name), stamp, until, {})


def acquire(entry: SlotEntry, principal: str, permission: P, row: Algorithm | None, version: int = 0) -> AcquiredKey:
    """The one key version to use; version 0 is the active one, or the newest rotated one if that may serve.

    Args:
        row: the algorithm, or None where the operation names none.

    Raises:
        ResourceError: RESOURCE_NOT_FOUND where the caller does not see the slot, or it has no such version.
        KeyUseError: KEY_OPERATION_NOT_PERMITTED, ALGORITHM_NOT_ALLOWED, KEY_STATE_FORBIDS.
        RequestError: KEY_TYPE_MISMATCH, INVALID_ARGUMENT where the algorithm is for something else.
    """
    return candidates(entry, principal, permission, row, version)[0]


def candidates(
    entry: SlotEntry, principal: str, permission: P, row: Algorithm | None, version: int = 0
) -> tuple[AcquiredKey, ...]:
    """The key versions that may serve, in the order to try them: active, then rotated, newest first. Never none.

    Raises as `acquire` does.
    """
    view = entry.view
    question = (principal, permission, "" if row is None else row.name, version)
    granted = view.granted.get(question)
    if granted is None:
        granted = view.granted[question] = _decide(entry.name, view.record, principal, permission, row, version)
    return granted


def visible(entry: SlotEntry, principal: str) -> SlotRecord:
    """The slot, if the caller is in its access list. Raises ResourceError (RESOURCE_NOT_FOUND)."""
    return _who(entry.name, entry.view.record, principal)[0]


def require_administrator(entry: SlotEntry, principal: str) -> SlotRecord:
    """The slot, if the caller administers it.

    Raises:
        ResourceError: RESOURCE_NOT_FOUND where the caller does not see it.
        AccessError: ACCESS_DENIED where the caller may only use it.
    """
    record, access = _who(entry.name, entry.view.record, principal)
    if access.role is not Role.ADMINISTER:
        raise AccessError(Status.ACCESS_DENIED, f"You may use slot {record.name}, but not administer it.")
    return record


def require_new_version(entry: SlotEntry, principal: str) -> SlotRecord:
    """The slot, if the caller may have a new version made in it.

    GENERATE must stand in ceiling and mask; a slot that never had a version may be filled by who administers it.

    Raises:
        ResourceError: RESOURCE_NOT_FOUND where the caller does not see it.
        KeyUseError: KEY_OPERATION_NOT_PERMITTED.
    """
    record, access = _who(entry.name, entry.view.record, principal)
    if P.GENERATE in record.permissions & access.permissions:
        return record
    if access.role is Role.ADMINISTER and all(version.state in _NEVER_THERE for version in record.versions):
        return record
    raise not_permitted(f"Slot {record.name}", P.GENERATE, record.permissions & access.permissions)


def check_algorithm(permission: P, row: Algorithm | None, taken_by: KeyType, allowed: tuple[str, ...]) -> None:
    """Refuse an algorithm that does not fit the operation, the key or the slot.

    Args:
        allowed: the names that the slot allows; empty allows all.

    Raises:
        RequestError: INVALID_ARGUMENT, KEY_TYPE_MISMATCH.
        KeyUseError: ALGORITHM_NOT_ALLOWED.
    """
    if row is None:
        return
    if permission & ~_FITS[row.kind]:
        raise RequestError(
            Status.INVALID_ARGUMENT,
            f"{row.name} is for {row.kind}; one cannot {', '.join(permission_names(permission))} with it.",
        )
    if not row.takes(taken_by):
        raise RequestError(Status.KEY_TYPE_MISMATCH, f"{row.name} does not take a key of type {taken_by.name}.")
    if allowed and row.name not in allowed:
        raise KeyUseError(
            Status.ALGORITHM_NOT_ALLOWED, f"The slot does not allow {row.name}; it allows {', '.join(allowed)}."
        )
    if permission & P.DECRYPT and not row.decrypts(allowed):
        raise KeyUseError(
            Status.ALGORITHM_NOT_ALLOWED,
            f"{row.name} decrypts only under keys of a slot that allows it by name; choose another algorithm.",
        )
    if permission & ~_LEGACY_SERVES and not row.makes(allowed):
        unless = " unless the slot allows it by name" if row.maturity is Maturity.BY_NAME else ""
        raise KeyUseError(
            Status.ALGORITHM_NOT_ALLOWED,
            f"{row.name} only verifies and decrypts what exists{unless}; choose another algorithm.",
        )


def not_found(name: QualifiedName | str) -> ResourceError:
    """The answer for a slot that is not there, and for one that the caller may not see."""
    shown = f" {name}" if str(name) else ""
    return ResourceError(
        Status.RESOURCE_NOT_FOUND,
        f"There is no slot{shown}, or you have no access to it; `hsmbridge slot list` shows yours.",
    )


def not_permitted(what: str, permission: P, instead: P) -> KeyUseError:
    """The refusal of an operation that a key's permissions do not allow."""
    possible = ", ".join(permission_names(instead)) or "nothing"
    return KeyUseError(
        Status.KEY_OPERATION_NOT_PERMITTED,
        f"{what} does not let you {', '.join(permission_names(permission))}; it lets you {possible}.",
    )


def _decide(
    name: QualifiedName,
    record: SlotRecord | None,
    principal: str,
    permission: P,
    row: Algorithm | None,
    number: int,
) -> tuple[AcquiredKey, ...]:
    record, access = _who(name, record, principal)
    asked = _versions(record, number)
    theirs = record.permissions & access.permissions
    permitted = [version for version in asked if not permission & ~(theirs & version.permissions)]
    if permission & ~theirs or (asked and not permitted):
        raise not_permitted(f"Slot {record.name}", permission, theirs)
    check_algorithm(permission, row, key_type(record.key_type), record.algorithms)
    serving = [version for version in permitted if version.state in _SERVED and not permission & ~USABLE[version.state]]
    if number and not serving:
        raise KeyUseError(
            Status.KEY_STATE_FORBIDS,
            f"Version {number} of slot {record.name} is {permitted[0].state}; its state forbids the operation.",
        )
    if not serving:
        raise no_version(record, 0)
    if permission & ~USABLE[KeyVersionState.ROTATED]:
        serving = serving[:1]
    return tuple(AcquiredKey.of_version(record, version) for version in serving)


def _who(name: QualifiedName, record: SlotRecord | None, principal: str) -> tuple[SlotRecord, AccessEntry]:
    access = None if record is None or record.state in _UNSEEN else record.entry_for(principal)
    if record is None or access is None:
        raise not_found(name)
    return record, access


def _versions(record: SlotRecord, number: int) -> list[VersionRecord]:
    """The version asked for, or with number 0 those that may serve by their state, the active one first."""
    if number:
        version = record.version(number)
        if version is None or version.state in _NEVER_THERE:
            raise no_version(record, number)
        return [version]
    return sorted(record.in_state(*_SERVED), key=lambda version: (_SERVED.index(version.state), -version.number))
