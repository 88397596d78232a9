"""Wrong PINs, counted by who gave them: another connection, another daemon process or a restart is no further try.

The count is in a file that all daemon processes write, one at a time. The PIN guards against accidents of one's own
programs, so a lock ends by itself.
"""

import fcntl
import hmac
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

import msgspec
import structlog

from hsmbridge.frontends.p11kit.numbers import Ckr
from hsmbridge.frontends.p11kit.refusals import Refused

WRONG_PINS: Final = 3
"""So many wrong PINs of one principal, one after another, and no further one is looked at for a while."""

LOCKED_TIME: Final = 300.0
"""Seconds from the last wrong PIN for which the next is not looked at."""

_PRINCIPALS: Final = 4096
_Wrong = dict[str, tuple[int, float]]
"""By principal, how many, and until when they lock, by the machine's monotonic clock."""

_log = structlog.get_logger(__name__)


class PinCounter:
    """Compares PINs. Shared by all connections."""

    def __init__(self, pin: bytes, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Args: the right one, the file of the count, and a clock in seconds that all processes share."""
        self._pin = pin
        self._path = path
        self._clock = clock

    def check(self, principal: str, pin: bytes) -> None:
        """Raises Refused (CKR_PIN_INCORRECT, CKR_PIN_LOCKED; CKR_FUNCTION_FAILED where nothing can be counted)."""
        try:
            with _held(self._path) as file:
                self._check(file, principal, pin)
        except OSError as problem:
            _log.error("no PIN is looked at, for wrong ones cannot be counted", reason=problem.strerror)
            raise Refused(Ckr.FUNCTION_FAILED) from None

    def _check(self, file: BinaryIO, principal: str, pin: bytes) -> None:
        all_wrong = _read(file)
        wrong, until = all_wrong.pop(principal, (0, 0.0))
        now = self._clock()
        if wrong >= WRONG_PINS:
            if now < until <= now + LOCKED_TIME:  # a later time is of before the machine was started
                raise Refused(Ckr.PIN_LOCKED)
            wrong = 0
        if len(all_wrong) >= _PRINCIPALS:
            del all_wrong[next(iter(all_wrong))]
        # It counts as wrong until it was seen to be right, so that whatever happens now is no further try.
        _write(file, {**all_wrong, principal: (wrong + 1, now + LOCKED_TIME)})
        if not hmac.compare_digest(pin, self._pin):
            raise Refused(Ckr.PIN_INCORRECT)
        _write(file, all_wrong)


@contextmanager
def _held(path: Path) -> Iterator[BinaryIO]:
    """The file, for this process alone."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    with os.fdopen(os.open(path, flags, 0o600), "r+b", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def _read(file: BinaryIO) -> _Wrong:
    content = file.read()
    try:
        return msgspec.msgpack.decode(content, type=_Wrong) if content else {}
    except msgspec.MsgspecError:
        _log.error("the count of wrong PINs could not be read and begins anew")
        return {}


def _write(file: BinaryIO, all_wrong: _Wrong) -> None:
    content = msgspec.msgpack.encode(all_wrong)
    file.seek(0)
    file.write(content)
    file.truncate(len(content))
