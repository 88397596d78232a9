"""Directories, locks and the client socket: made, checked, and refused with a sentence where they cannot be used."""

import fcntl
import os
import socket
import stat
from pathlib import Path

from hsmbridge.core.errors import RequestError, ResourceError, Status
from hsmbridge.providers.host.spec import check_socket_path


def make_directory(path: Path, mode: int) -> None:
    """Make a directory, or check that one belongs to this user and nobody else may write there.

    Raises RequestError (INVALID_CONFIGURATION).
    """
    try:
        path.mkdir(mode=mode, parents=True, exist_ok=True)
        found = path.stat()
    except OSError as problem:
        raise _unusable(f"The directory {path} cannot be made: {problem.strerror}") from problem
    if found.st_uid != os.geteuid():
        raise _unusable(f"The directory {path} belongs to another user (uid {found.st_uid})")
    if found.st_mode & 0o022 & ~mode:
        raise _unusable(f"Others may write to the directory {path}; take that away (chmod go-w)")
    if mode == 0o700 and found.st_mode & 0o077:
        raise _unusable(f"Others may look into the directory {path}; take that away (chmod 700)")
    if not os.access(path, os.W_OK | os.X_OK):
        raise _unusable(f"The directory {path} cannot be written to; it may be on a read-only file system")


def take_lock(path: Path) -> int:
    """A locked file with our process id in it, for as long as the file descriptor is open.

    Raises ResourceError (RESOURCE_EXISTS) where another process holds it, and RequestError where it cannot be made.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    except OSError as problem:
        raise _unusable(f"The lock {path} cannot be made: {problem.strerror}") from problem
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(fd, 20).decode("ascii", "replace").strip() or "unknown"
        os.close(fd)
        raise ResourceError(
            Status.RESOURCE_EXISTS,
            f"hsmbridge is already running here (pid {holder}, lock {path}); stop it, or use another runtime_dir.",
        ) from None
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd


def listen(path: Path, mode: int, backlog: int) -> socket.socket:
    """A listening socket. One that is there already is stale, as the lock is ours; anything else is left alone.

    Raises RequestError (INVALID_CONFIGURATION).
    """
    check_socket_path(path)
    try:
        if path.is_symlink() or (path.exists() and not stat.S_ISSOCK(path.stat().st_mode)):
            raise _unusable(f"{path} is there and is no socket; move it away")
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        mask = os.umask(0o177)
        try:
            listener.bind(os.fspath(path))
        finally:
            os.umask(mask)
        path.chmod(mode)
        listener.listen(backlog)
    except OSError as problem:
        raise _unusable(f"The socket {path} cannot be made: {problem.strerror}") from problem
    return listener


def _unusable(what: str) -> RequestError:
    return RequestError(Status.INVALID_CONFIGURATION, f"{what}.")
