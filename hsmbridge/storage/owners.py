"""Owners: which processes are alive, so that a sweep never takes work away from one that still does it.

Every process that opens the store has an incarnation, a random name, and holds a flock(2) on a file of that name
beside the store for as long as it lives. The kernel gives the lock up when the process ends, however it ends;
process ids, which are used again and mean nothing across containers, play no part.
"""

import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from hsmbridge.core.errors import Status, StoreError

OPENING_TIMEOUT = 60.0
"""Seconds that a process waits for another one that makes or migrates the store."""

_POLL = 0.02
_NAME_LENGTH = 32
_STARTING = ".starting-"


class Owners(Protocol):
    """Who works on the store."""

    @property
    def incarnation(self) -> str:
        """The name of this process."""
        ...

    def is_alive(self, owner: str) -> bool:
        """Whether the process of that name still lives."""
        ...

    def close(self) -> None:
        """This process does no more work."""
        ...


class FileOwners:
    """Owners of a store on a local file system."""

    def __init__(self, directory: Path) -> None:
        """Take part under a new name. `directory` is made if need be. Raises OSError."""
        directory.mkdir(mode=0o700, exist_ok=True)
        self._directory = directory
        self._incarnation, self._fd = _enter(directory)

    @property
    def incarnation(self) -> str:
        return self._incarnation

    def is_alive(self, owner: str) -> bool:
        if owner == self._incarnation:
            return True
        if len(owner) != _NAME_LENGTH or not owner.isalnum():
            return False
        return not _remove_if_dead(self._directory / owner)

    def forget_dead(self) -> None:
        """Remove the files of processes that ended."""
        for path in self._directory.iterdir():
            if path.name != self._incarnation:
                _remove_if_dead(path)

    def close(self) -> None:
        if self._fd >= 0:
            (self._directory / self._incarnation).unlink(missing_ok=True)
            os.close(self._fd)
            self._fd = -1


@contextmanager
def opening(directory: Path) -> Iterator[None]:
    """One process at a time makes or migrates the store.

    Raises:
        StoreError: STORE_UNAVAILABLE where another process does so for longer than `OPENING_TIMEOUT`.
        OSError: the directory cannot be used.
    """
    directory.mkdir(mode=0o700, exist_ok=True)
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _wait_for_lock(fd)
        yield
    finally:
        os.close(fd)


def _wait_for_lock(fd: int) -> None:
    # flock(2) itself knows no deadline.
    deadline = time.monotonic() + OPENING_TIMEOUT
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise StoreError(
                    Status.STORE_UNAVAILABLE, "Another process is opening the store and does not end; end it."
                ) from None
            time.sleep(_POLL)
        else:
            return


def _enter(directory: Path) -> tuple[str, int]:
    # The file gets its final name only when it is locked, so that nobody can take it for a dead one's. Under its
    # first name somebody may, between the two calls below; then the rename fails and another name is tried.
    while True:
        incarnation = secrets.token_hex(_NAME_LENGTH // 2)
        starting = directory / f"{_STARTING}{incarnation}"
        fd = os.open(starting, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX)
        try:
            starting.rename(directory / incarnation)
        except FileNotFoundError:
            os.close(fd)
        else:
            return incarnation, fd


def _remove_if_dead(path: Path) -> bool:
    """Whether no living process holds the file, which is then removed. What cannot be known counts as alive."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True
