"""Wrong PINs, counted by who gave them: another connection is no further try.

Each daemon process counts by itself. The PIN guards against accidents of one's own programs, so a lock ends by itself.
"""

import hmac
from collections.abc import Callable
from typing import Final

from hsmbridge.frontends.p11kit.numbers import Ckr
from hsmbridge.frontends.p11kit.refusals import Refused

WRONG_PINS: Final = 3
"""So many wrong PINs of one principal, one after another, and no further one is looked at for a while."""

LOCKED_TIME: Final = 300.0
"""Seconds from the last wrong PIN for which the next is not looked at."""

_PRINCIPALS: Final = 4096


class PinCounter:
    """Compares PINs. Shared by all connections."""

    def __init__(self, pin: bytes, clock: Callable[[], float]) -> None:
        """Args: the right one, and a clock in seconds."""
        self._pin = pin
        self._clock = clock
        self._wrong: dict[str, tuple[int, float]] = {}

    def check(self, principal: str, pin: bytes) -> None:
        """Raises Refused (CKR_PIN_INCORRECT, CKR_PIN_LOCKED)."""
        wrong, until = self._wrong.get(principal, (0, 0.0))
        now = self._clock()
        if wrong >= WRONG_PINS:
            if now < until:
                raise Refused(Ckr.PIN_LOCKED)
            wrong = 0
        if hmac.compare_digest(pin, self._pin):
            self._wrong.pop(principal, None)
            return
        self._wrong.pop(principal, None)
        if len(self._wrong) >= _PRINCIPALS:
            del self._wrong[next(iter(self._wrong))]
        self._wrong[principal] = (wrong + 1, now + LOCKED_TIME)
        raise Refused(Ckr.PIN_INCORRECT)
