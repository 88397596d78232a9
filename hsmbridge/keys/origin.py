"""What a new key may be used for, by how it came to be.

Key separation (`hsmbridge.core.permissions`) plus what the origin forbids: a key whose value somebody outside once
knew, or could choose, never wraps others unless its slot says so, and one that was unwrapped never leaves again,
or a second wrapping key would carry out what the first brought in. A key that was adopted had a life before: it is
treated as one from outside, and what it may do is cut down to the rules instead of being refused.
"""

from typing import Protocol

from hsmbridge.core.errors import RequestError, Status
from hsmbridge.core.key_types import Family, KeyType, Maturity, check_permissions_fit
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.core.permissions import check_separation, permission_names
from hsmbridge.storage.records import NewSlot, Origin, SlotRecord

_WRAPPING = P.WRAP | P.UNWRAP
_FROM_OUTSIDE = frozenset({Origin.IMPORTED, Origin.UNWRAPPED, Origin.ADOPTED})
_OF_A_PUBLIC_KEY = P.VERIFY | P.ENCRYPT | P.ENCAPSULATE | P.WRAP | P.GENERATE
_GIVEN_ONLY_IF_ASKED = P.EXPORT | P.GENERATE


_PREFERRED = ((P.DECRYPT, P.WRAP), (P.ENCRYPT, P.UNWRAP))
"""Of uses that may not stand on one key, what an adopted key keeps and what it loses."""


class AdoptedSlot(Protocol):
    """What the slot of an adopted key says explicitly, as SlotAdoptRequest does."""

    @property
    def sign_and_decrypt(self) -> bool: ...
    @property
    def imported_wrapping_key(self) -> bool: ...


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


def check_public_key_permissions(row: KeyType, asked: P) -> None:
    """Refuse what a public key alone cannot do. Raises RequestError (INVALID_PERMISSIONS)."""
    _refuse(asked & ~_OF_A_PUBLIC_KEY, f"A public key of type {row.name} without its private half cannot", "")


def permissions_of_adopted_key(row: KeyType, token: P, asked: P, slot: AdoptedSlot) -> P:
    """The permissions of a key that was there already: what its token allows, cut down to what the rules allow.

    Args:
        row: its key type.
        token: what its token lets it be used for.
        asked: the most that it is to get; NONE is all that the token allows, but EXPORT.
        slot: what the slot says explicitly.

    Raises:
        RequestError: INVALID_PERMISSIONS where what was asked for cannot stand on one key, or nothing is left.
    """
    rsa = row.family is Family.RSA
    if asked:
        check_permissions_fit(row, asked)
        check_separation(asked, rsa=rsa, sign_and_decrypt=slot.sign_and_decrypt)
    wanted = asked or row.permissions & ~_GIVEN_ONLY_IF_ASKED
    granted = wanted & token & row.permissions
    if not slot.imported_wrapping_key:
        granted &= ~_WRAPPING
    for kept, dropped in _PREFERRED:
        if kept & granted:
            granted &= ~dropped
    if rsa and not (P.SIGN | P.DECRYPT) & ~granted and not slot.sign_and_decrypt:
        granted &= ~(P.DECRYPT | P.ENCRYPT)
    if not granted:
        raise RequestError(
            Status.INVALID_PERMISSIONS,
            f"Nothing is left that this key may do: its token lets it {', '.join(permission_names(token)) or 'nothing'}"
            f"{', of which the rules for adopted keys or what was asked for leave nothing' if token else ''}.",
        )
    # New versions are generated into the slot by the service; no token says anything of that.
    return granted | asked & P.GENERATE


def _refuse(forbidden: P, beginning: str, end: str) -> None:
    if forbidden:
        raise RequestError(Status.INVALID_PERMISSIONS, f"{beginning} {' or '.join(permission_names(forbidden))}{end}.")
