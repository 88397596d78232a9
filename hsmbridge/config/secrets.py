"""Reading the store's passphrase from where the configuration says that it is.

A file that only its owner reads, an inherited file descriptor, or a systemd credential; never an argument or an
environment variable. One line end after it is dropped. PINs are read by the supervisor (`hsmbridge.supervisor.pins`).
"""

import os
import stat
from pathlib import Path
from typing import Final

from hsmbridge.config.sections import P11KitSection, StoreSection
from hsmbridge.core.errors import RequestError, Status
from hsmbridge.core.secrets import Secret

_LIMIT: Final = 4096
_PIN_MAX: Final = 255
_CREDENTIALS_VARIABLE: Final = "CREDENTIALS_DIRECTORY"


def read_passphrase(store: StoreSection) -> Secret | None:
    """The passphrase of the store, None where it has none. Raises RequestError (INVALID_CONFIGURATION)."""
    if store.passphrase_file is not None:
        content = _read_file(store.passphrase_file)
    elif store.passphrase_fd is not None:
        content = _read_descriptor(store.passphrase_fd)
    elif store.passphrase_credential is not None:
        content = _read_file(_credential(store.passphrase_credential), given_by_systemd=True)
    else:
        return None
    if len(content) > _LIMIT:
        raise _unusable(f"it has more than {_LIMIT} bytes")
    content = content.removesuffix(b"\n").removesuffix(b"\r")
    if not content:
        raise _unusable("it is empty")
    return Secret(content)


def read_p11kit_pin(section: P11KitSection) -> bytes:
    """The PIN that PKCS#11 applications give, b"" where none has to. Raises RequestError (INVALID_CONFIGURATION)."""
    if section.pin_file is None:
        return b""
    content = _read_file(section.pin_file).removesuffix(b"\n").removesuffix(b"\r")
    if not 4 <= len(content) <= _PIN_MAX:
        raise _unusable(f"{section.pin_file} holds no PIN of 4 to {_PIN_MAX} bytes")
    return content


def _read_file(path: Path, *, given_by_systemd: bool = False) -> bytes:
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise _unusable(f"{path} is not a plain file")
            # systemd hands credentials out on a file system of the service's own, some versions with mode 0440.
            if not given_by_systemd and (found.st_mode & 0o077 or found.st_uid not in {0, os.geteuid()}):
                raise _unusable(f"{path} can be read or changed by others; let it be your own file with mode 0600")
            return file.read(_LIMIT + 1)
    except OSError as problem:
        raise _unusable(f"{path} cannot be read: {problem.strerror or problem}") from None


def _read_descriptor(descriptor: int) -> bytes:
    try:
        with os.fdopen(descriptor, "rb") as file:
            return file.read(_LIMIT + 1)
    except OSError as problem:
        raise _unusable(
            f"file descriptor {descriptor} cannot be read ({problem.strerror or problem}); it must be open when"
            " `hsmbridge serve` starts, and is read once",
        ) from None


def _credential(name: str) -> Path:
    folder = os.environ.get(_CREDENTIALS_VARIABLE, "")
    if not folder:
        raise _unusable(f"credential {name} is not there: the service was not started by systemd with LoadCredential=")
    return Path(folder) / name


def _unusable(why: str) -> RequestError:
    return RequestError(Status.INVALID_CONFIGURATION, f"The store's passphrase, or a PIN, cannot be had: {why}.")
