"""Where labs are, and what each one's record says of it.

A lab is a folder with a `lab.json` in it: whatever has none is not touched. New ones get an unpredictable name that
leaves room for the sockets inside, in $XDG_RUNTIME_DIR or, where a session has none, in /tmp.
"""

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from hsmbridge.core.errors import RequestError, ResourceError, Status
from hsmbridge.lab.options import LabOptions

LAB_VARIABLE = "HSMBRIDGE_LAB"
PREFIX = "hb-lab-"
RECORD = "lab.json"

_SOCKET_PATH_MAX = 107
_LONGEST_SOCKET = "run/providers/software.sock"
_FORMAT = 1


class LabRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a lab's folder says of it.

    Attributes:
        created: seconds since 1970.
        format: of this record.
    """

    options: LabOptions
    created: float
    format: int = _FORMAT


def new_directory() -> Path:
    """An empty folder for a lab, which nobody else can enter or foresee."""
    return Path(tempfile.mkdtemp(prefix=PREFIX, dir=_bases()[0]))


@contextmanager
def temporary_directory() -> Iterator[Path]:
    """A folder with a short path for one rig, removed afterwards."""
    path = Path(tempfile.mkdtemp(prefix="hb", dir=_bases()[0]))
    try:
        yield path
    finally:
        shutil.rmtree(path)


def claim_directory(path: Path) -> Path:
    """Make `path`, or take it where it is empty and private. Raises RequestError (INVALID_CONFIGURATION)."""
    directory = path.absolute()
    longest = len(os.fsencode(directory / _LONGEST_SOCKET))
    if longest > _SOCKET_PATH_MAX:
        raise _unusable(
            directory,
            f"has too long a path: its sockets would have {longest} bytes, and the system takes {_SOCKET_PATH_MAX}",
        )
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        status = directory.stat()
        taken = any(directory.iterdir())
    except OSError as problem:
        raise _unusable(directory, f"cannot be used: {problem.strerror}") from None
    if (directory / RECORD).exists():
        raise _unusable(directory, f"holds a lab already; end it with `hsmbridge lab down {directory}`")
    if taken:
        raise _unusable(directory, "is not empty, and a lab's folder is removed with all that is in it; name a new one")
    if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
        raise _unusable(directory, f"is open to other users; run: chmod 700 {directory}")
    return directory


def read_record(directory: Path) -> LabRecord:
    """The record of a lab.

    Raises:
        ResourceError: RESOURCE_NOT_FOUND where `directory` holds no lab, or one of somebody else.
    """
    path = directory / RECORD
    try:
        if {directory.stat().st_uid, path.stat().st_uid} != {os.geteuid()}:
            raise ResourceError(Status.RESOURCE_NOT_FOUND, f"The lab in {directory} belongs to another user.")
        return msgspec.json.decode(path.read_bytes(), type=LabRecord)
    except (OSError, msgspec.MsgspecError):
        raise ResourceError(
            Status.RESOURCE_NOT_FOUND, f"There is no lab in {directory}; `hsmbridge lab list` shows those there are."
        ) from None


def write_record(directory: Path, record: LabRecord) -> None:
    """Make the folder a lab."""
    (directory / RECORD).write_bytes(msgspec.json.encode(record))


def labs() -> list[Path]:
    """The labs of this user in the usual places, oldest first; those made with a folder of their own are not."""
    found = []
    for base in _bases():
        for directory in base.glob(f"{PREFIX}*"):
            try:
                found.append((read_record(directory).created, directory))
            except ResourceError:
                continue
    return [directory for _, directory in sorted(found)]


def current() -> Path | None:
    """The lab that $HSMBRIDGE_LAB names."""
    named = os.environ.get(LAB_VARIABLE, "")
    return Path(named) if named else None


def _bases() -> list[Path]:
    # Not $TMPDIR: it may be too long for sockets, and another shell would not look there.
    bases = [Path("/tmp")]  # noqa: S108 - mkdtemp makes the folder
    session = os.environ.get("XDG_RUNTIME_DIR", "")
    if Path(session).is_absolute() and _fits(session) and os.access(session, os.W_OK | os.X_OK):
        bases.insert(0, Path(session))
    return bases


def _fits(base: str) -> bool:
    return len(os.fsencode(Path(base) / f"{PREFIX}xxxxxxxx" / _LONGEST_SOCKET)) <= _SOCKET_PATH_MAX


def _unusable(directory: Path, why: str) -> RequestError:
    return RequestError(Status.INVALID_CONFIGURATION, f"{directory} {why}.")
