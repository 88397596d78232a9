"""States of a key version, what each allows, and which may follow which.

CREATING, ABANDONED and DESTROYING never serve a caller: they mark work that a crash may have interrupted and
that the sweep completes.
"""

from collections.abc import Mapping
from enum import StrEnum, unique
from types import MappingProxyType

from hsmbridge.core.permissions import KeyOperationPermission


@unique
class KeyVersionState(StrEnum):
    """Where a key version stands in its life."""

    CREATING = "creating"
    ABANDONED = "abandoned"
    PRE_ACTIVE = "pre-active"
    ACTIVE = "active"
    ROTATED = "rotated"
    REVOKED = "revoked"
    DESTROYING = "destroying"
    DESTROYED = "destroyed"


_ALL = ~KeyOperationPermission.NONE
_NONE = KeyOperationPermission.NONE

USABLE: Mapping[KeyVersionState, KeyOperationPermission] = MappingProxyType(
    {
        KeyVersionState.CREATING: _NONE,
        KeyVersionState.ABANDONED: _NONE,
        KeyVersionState.PRE_ACTIVE: _NONE,
        KeyVersionState.ACTIVE: _ALL,
        KeyVersionState.ROTATED: (
            KeyOperationPermission.DECRYPT
            | KeyOperationPermission.VERIFY
            | KeyOperationPermission.DECAPSULATE
            | KeyOperationPermission.UNWRAP
        ),
        KeyVersionState.REVOKED: _NONE,
        KeyVersionState.DESTROYING: _NONE,
        KeyVersionState.DESTROYED: _NONE,
    }
)
"""The operations that a version in each state may serve."""

_S = KeyVersionState
TRANSITIONS: Mapping[KeyVersionState, frozenset[KeyVersionState]] = MappingProxyType(
    {
        _S.CREATING: frozenset({_S.ACTIVE, _S.PRE_ACTIVE, _S.ABANDONED}),
        _S.ABANDONED: frozenset(),
        _S.PRE_ACTIVE: frozenset({_S.ACTIVE, _S.REVOKED, _S.DESTROYING}),
        _S.ACTIVE: frozenset({_S.ROTATED, _S.REVOKED, _S.DESTROYING}),
        _S.ROTATED: frozenset({_S.REVOKED, _S.DESTROYING}),
        _S.REVOKED: frozenset({_S.DESTROYING}),
        _S.DESTROYING: frozenset({_S.DESTROYED}),
        _S.DESTROYED: frozenset(),
    }
)
"""The legal moves. An abandoned version has no successor: the sweep removes its record with its material."""
