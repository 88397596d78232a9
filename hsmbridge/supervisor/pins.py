"""Where a PIN comes from: a file that only its owner can read, a file descriptor, or a systemd credential.

Never the command line or the environment, which other processes can read. Messages about a PIN's source reach
clients as the reason why a provider is away, so they name no path; the log has it.
"""

import os
import stat
from pathlib import Path

import msgspec

from hsmbridge.core.errors import RequestError, Status
from hsmbridge.core.secrets import PIN_LENGTH_MAX, Pin

CREDENTIALS_VARIABLE = "CREDENTIALS_DIRECTORY"
_READ_MAX = PIN_LENGTH_MAX + 3
"""Longer than any PIN with its line end, so that one that is too long is seen to be."""


class PinSource(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Exactly one of the three.

    Attributes:
        file: path of a file that belongs to the daemon's user, readable by nobody else.
        fd: number of an inherited file descriptor, 3 or above; it is read to its end once, and the PIN kept.
        credential: name of a systemd credential (LoadCredential=).
    """

    file: str = ""
    fd: int | None = None
    credential: str = ""

    def __post_init__(self) -> None:
        given = (bool(self.file), self.fd is not None, bool(self.credential))
        if sum(given) != 1:
            raise RequestError(
                Status.INVALID_CONFIGURATION, "Give a PIN by exactly one of pin_file, pin_fd and pin_credential."
            )
        if self.fd is not None and self.fd < 3:
            raise RequestError(Status.INVALID_CONFIGURATION, "pin_fd is 3 or above; 0, 1 and 2 are the daemon's own.")


class PinReader:
    """Reads PINs from their sources, and remembers those that can be read only once."""

    def __init__(self) -> None:
        self._from_fds: dict[int, Pin] = {}

    def read(self, provider: str, source: PinSource) -> Pin:
        """The PIN of a provider. Raises RequestError (INVALID_CONFIGURATION), saying what to do."""
        if source.fd is not None:
            if source.fd not in self._from_fds:
                self._from_fds[source.fd] = _read_fd(provider, source.fd)
            return self._from_fds[source.fd]
        if source.credential:
            return _read_credential(provider, source.credential)
        return _read_file(provider, Path(source.file), private=True)


def _read_credential(provider: str, name: str) -> Pin:
    directory = os.environ.get(CREDENTIALS_VARIABLE, "")
    if not directory:
        raise _unusable(provider, f"is the systemd credential {name!r}, but systemd passed none (LoadCredential=)")
    if "/" in name or name in {".", ".."}:
        raise _unusable(provider, "names a credential that is no file name")
    # systemd itself guards the directory; it may let the user in by an access list, which shows as group bits.
    return _read_file(provider, Path(directory) / name, private=False)


def _read_file(provider: str, path: Path, *, private: bool) -> Pin:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as problem:
        raise _unusable(provider, f"cannot be opened: {problem.strerror}", path) from problem
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise _unusable(provider, "is not a regular file", path)
        if private and found.st_uid not in {os.geteuid(), 0}:
            raise _unusable(provider, "belongs to another user; make it the daemon's own (chown)", path)
        if private and found.st_mode & 0o077:
            raise _unusable(provider, "can be read by others than its owner; make it private (chmod 600)", path)
        return _pin(provider, os.read(fd, _READ_MAX), path)
    finally:
        os.close(fd)


def _read_fd(provider: str, fd: int) -> Pin:
    content = b""
    try:
        with os.fdopen(fd, "rb", buffering=0) as file:
            while len(content) < _READ_MAX and (piece := file.read(_READ_MAX)):
                content += piece
    except OSError as problem:
        raise _unusable(provider, f"is file descriptor {fd}, which cannot be read: {problem.strerror}") from problem
    return _pin(provider, content)


def _pin(provider: str, content: bytes, path: Path | None = None) -> Pin:
    line = content.removesuffix(b"\n").removesuffix(b"\r")
    try:
        return Pin(line.decode())
    except UnicodeDecodeError:
        raise _unusable(provider, "is not UTF-8 text", path) from None
    except RequestError as problem:
        raise RequestError(problem.status, f"Provider {provider}: {problem.message}", origin=str(path or "")) from None


def _unusable(provider: str, why: str, path: Path | None = None) -> RequestError:
    return RequestError(
        Status.INVALID_CONFIGURATION, f"The PIN source of provider {provider} {why}.", origin=str(path or "")
    )
