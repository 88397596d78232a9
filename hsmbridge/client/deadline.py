"""How long a call may take: the stack's default, an override of one call, or no limit at all."""

from enum import Enum
from math import isfinite
from typing import Final

from hsmbridge.core.errors import RequestError, Status

DEFAULT_TIMEOUT: Final = 30.0
"""Seconds a call may take unless the stack or the call says otherwise."""

GRACE: Final = 2.0
"""Seconds that the client waits beyond the deadline for the daemon's own word that it passed."""


class Unset(Enum):
    """A timeout that was not given; None is one that says "no limit"."""

    UNSET = "the stack's own"

    def __repr__(self) -> str:
        return "UNSET"


UNSET: Final = Unset.UNSET
Timeout = float | None | Unset


def check_timeout(seconds: float | None) -> float | None:
    """`seconds` if a call can take so long; None is no limit. Raises RequestError (INVALID_ARGUMENT)."""
    if seconds is not None and not (seconds > 0 and isfinite(seconds)):
        raise RequestError(
            Status.INVALID_ARGUMENT, "A timeout is a positive number of seconds, or None for no limit at all."
        )
    return seconds
