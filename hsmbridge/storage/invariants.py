"""What no change of a slot may break, checked by the store whatever asked for the change.

The second line: `hsmbridge.keys` decides and explains to callers; a violation found here is a mistake in the
program and says so.
"""

from hsmbridge.core.errors import Status, StoreError
from hsmbridge.core.lifecycle import TRANSITIONS, KeyVersionState
from hsmbridge.core.policy import Role
from hsmbridge.storage.records import SlotRecord, SlotState

_SLOT_MOVES = {
    SlotState.PENDING: {SlotState.LIVE, SlotState.DESTROYING, SlotState.DESTROYED},
    SlotState.LIVE: {SlotState.DESTROYING, SlotState.DESTROYED},
    SlotState.DESTROYING: {SlotState.DESTROYED},
    SlotState.DESTROYED: set[SlotState](),
}
_FIXED = (
    "id",
    "name",
    "key_type",
    "providers",
    "algorithms",
    "nonce_policy",
    "fallback",
    "sign_and_decrypt",
    "derive_to_software",
    "imported_wrapping_key",
    "creator",
    "created",
)
_GONE = (KeyVersionState.ABANDONED,)


def check_record(record: SlotRecord) -> None:
    """Refuse a record that is not sound in itself. Raises StoreError (INTERNAL)."""
    _require(len(tuple(record.in_state(KeyVersionState.ACTIVE))) <= 1, "two active versions")
    _require(len({version.number for version in record.versions}) == len(record.versions), "a number twice")
    _require(all(version.number > 0 for version in record.versions), "a number below 1")
    _require(len({entry.principal for entry in record.access}) == len(record.access), "a principal twice")
    _require(any(entry.role is Role.ADMINISTER for entry in record.access), "no administrator")
    granted = [version.permissions for version in record.versions] + [entry.permissions for entry in record.access]
    _require(all(permissions & ~record.permissions == 0 for permissions in granted), "a permission above the ceiling")
    for version in record.versions:
        _require(bool(version.owner) == (version.state is KeyVersionState.CREATING), "an owner where none belongs")
        if version.state is KeyVersionState.DESTROYED:
            _require(not version.reference, "a destroyed version with a reference")


def check_change(before: SlotRecord, after: SlotRecord) -> None:
    """Refuse a change that is not legal. Raises StoreError (INTERNAL)."""
    check_record(after)
    for name in _FIXED:
        _require(getattr(before, name) == getattr(after, name), f"{name} changed")
    _require(after.state is before.state or after.state in _SLOT_MOVES[before.state], "slot state")
    _require(after.generation >= before.generation, "generation went back")
    _require(after.permissions & ~before.permissions == 0, "a permission was added to the slot")
    for old in before.versions:
        new = after.by_key_id(old.key_id)
        if new is None:
            _require(old.state in _GONE, f"a version vanished while {old.state}")
            continue
        _require(new.state is old.state or new.state in TRANSITIONS[old.state], f"{old.state} to {new.state}")
        _require(new.permissions & ~old.permissions == 0, "a permission was added to a version")
        _require((new.number, new.provider, new.origin) == (old.number, old.provider, old.origin), "a version changed")
    for new in after.versions:
        if before.by_key_id(new.key_id) is None:
            _require(new.state is KeyVersionState.CREATING, f"a version began as {new.state}")


def _require(holds: bool, broken: str) -> None:
    if not holds:
        raise StoreError(Status.INTERNAL, origin=f"a change of a slot would break its rules: {broken}")
