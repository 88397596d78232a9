"""What a new key may be used for, by how it came to be.

Key separation (`hsmbridge.core.permissions`) plus what the origin forbids: a key whose value somebody outside once
knew, or could choose, never wraps others unless its slot says so, and one that was unwrapped never leaves again,
or a second wrapping key would carry out what the first brought in.
"""

from hsmbridge.core.errors import RequestError, Status
from hsmbridge.core.key_types import Family, KeyType, Maturity, check_permissions_fit
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.core.permissions import check_separation, permission_names
from hsmbridge.storage.records import NewSlot, Origin, SlotRecord

_WRAPPING = P.WRAP | P.UNWRAP
_FROM_OUTSIDE = frozenset({Origin.IMPORTED, Origin.UNWRAPPED})


def permissions_of_new_key(row: KeyType, asked: P, origin: Origin, slot: SlotRecord | NewSlot | None) -> P:
    """The permissions that a new key gets: what is asked for, within the slot's ceiling where it goes into one.

    Raises:
        RequestError: INVALID_PERMISSIONS for what cannot stand on one key or what such a key never gets;
            UNKNOWN_KEY_TYPE for a type of which no new keys are made.
    """
    if row.maturity is Maturity.LEGACY and origin is Origin.GENERATED:
        raise RequestError(Status.UNKNOWN_KEY_TYPE, f"No new keys of type {row.name} are made; choose another type.")
    granted = asked if slot is None else asked & slot.permissions
    check_permissions_fit(row, granted)
    check_separation(
        granted,
        rsa=row.family is Family.RSA,
        sign_and_decrypt=slot is not None and slot.sign_and_decrypt,
    )
    if origin in _FROM_OUTSIDE and not (slot is not None and slot.imported_wrapping_key):
        _refuse(granted & _WRAPPING, f"A key that was {origin} may not", " unless its slot says imported_wrapping_key")
    if origin is Origin.UNWRAPPED:
        _refuse(granted & P.EXPORT, "A key that was unwrapped may not be allowed to", "")
    return granted


def _refuse(forbidden: P, beginning: str, end: str) -> None:
    if forbidden:
        raise RequestError(Status.INVALID_PERMISSIONS, f"{beginning} {' or '.join(permission_names(forbidden))}{end}.")
