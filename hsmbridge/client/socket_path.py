"""Where the daemon's socket is, when nobody says.

Root's daemon lives under /run/hsmbridge. Everyone else has a daemon of their own under $XDG_RUNTIME_DIR or, where
a session has none, under a folder of /tmp that nobody else can have made; and takes the machine's daemon when
their own is not there.
"""

import os
import stat
from pathlib import Path

from hsmbridge.core.errors import RequestError, Status

SOCKET_NAME = "hsmbridge.sock"
SOCKET_VARIABLE = "HSMBRIDGE_SOCKET"
SOCKET_PATH_MAX = 107
"""Bytes of a unix socket's path: the kernel's 108 less the NUL."""

SYSTEM_RUNTIME_DIRECTORY = Path("/run/hsmbridge")


def runtime_directory() -> Path:
    """The folder for sockets of the current user's daemon; it need not exist.

    Raises RequestError (INVALID_CONFIGURATION) where the only place left is a folder of /tmp that is somebody else's.
    """
    if os.geteuid() == 0:
        return SYSTEM_RUNTIME_DIRECTORY
    session = os.environ.get("XDG_RUNTIME_DIR", "")
    if Path(session).is_absolute():
        return Path(session) / "hsmbridge"
    return _owned(Path("/tmp") / f"hsmbridge-{os.geteuid()}")  # noqa: S108 - owner and mode are checked


def default_socket() -> Path:
    """$HSMBRIDGE_SOCKET, or the socket of the current user's daemon, or the one of the machine's daemon."""
    named = os.environ.get(SOCKET_VARIABLE, "")
    if named:
        return Path(named)
    own = runtime_directory() / SOCKET_NAME
    system = SYSTEM_RUNTIME_DIRECTORY / SOCKET_NAME
    return system if not own.exists() and system.exists() else own


def check_socket_path(path: Path) -> Path:
    """`path` if the kernel takes it. Raises RequestError (INVALID_CONFIGURATION)."""
    length = len(os.fsencode(path))
    if length > SOCKET_PATH_MAX:
        raise RequestError(
            Status.INVALID_CONFIGURATION,
            f"The socket path {path} has {length} bytes; the kernel takes at most {SOCKET_PATH_MAX}."
            " Name a shorter one.",
        )
    return path


def _owned(folder: Path) -> Path:
    try:
        found = folder.lstat()
    except FileNotFoundError:
        return folder
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise RequestError(
            Status.INVALID_CONFIGURATION,
            f"{folder} is not a folder that you alone can use; remove it, or set XDG_RUNTIME_DIR or {SOCKET_VARIABLE}.",
        )
    return folder
