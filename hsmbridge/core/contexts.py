"""The states of a context and the calls that lead from one to the next: one table for daemon and clients.

CREATED --init--> INITIALIZED --update*--> UPDATING --finalize--> FINALIZED --reset--> CREATED
any --failure or deadline--> ERROR (only close is left)
"""

from collections.abc import Mapping
from enum import StrEnum, unique
from types import MappingProxyType
from typing import Final


@unique
class ContextState(StrEnum):
    """Where a context stands."""

    CREATED = "created"
    INITIALIZED = "initialized"
    UPDATING = "updating"
    FINALIZED = "finalized"
    ERROR = "error"
    CLOSED = "closed"


@unique
class ContextCall(StrEnum):
    """What is asked of a context; closing is always possible and no call of these."""

    INIT = "init"
    UPDATE = "update"
    FINALIZE = "finalize"
    READ = "read"
    RESET = "reset"


_S = ContextState
NEXT: Final[Mapping[ContextCall, Mapping[ContextState, ContextState]]] = MappingProxyType(
    {
        ContextCall.INIT: {_S.CREATED: _S.INITIALIZED},
        ContextCall.UPDATE: {_S.INITIALIZED: _S.UPDATING, _S.UPDATING: _S.UPDATING},
        ContextCall.FINALIZE: {_S.INITIALIZED: _S.FINALIZED, _S.UPDATING: _S.FINALIZED},
        ContextCall.READ: {_S.FINALIZED: _S.FINALIZED},
        ContextCall.RESET: {_S.FINALIZED: _S.CREATED},
    }
)
"""For each call the states that it may be made in, and the one that it leads to."""
