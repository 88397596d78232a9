"""Reading the secrets that the configuration points at: PINs and the store's passphrase.

From a file that only its owner reads, an inherited file descriptor, or a systemd credential; never from an
argument or an environment variable. One line end after the secret is dropped. A file descriptor is read once.
"""

import os
import stat
from pathlib import Path
from typing import Final

from hsmbridge.config.sections import ProviderSection, StoreSection
from hsmbridge.core.errors import RequestError, Status
from hsmbridge.core.secrets import Pin, Secret

_LIMIT: Final = 4096
_CREDENTIALS_VARIABLE: Final = "CREDENTIALS_DIRECTORY"


def read_pin(provider: ProviderSection) -> Pin | None:
    """The PIN of a provider, None where it names none. Raises RequestError (INVALID_CONFIGURATION)."""
    secret = _read("PIN", provider.pin_file, provider.pin_fd, provider.pin_credential)
    if secret is None:
        return None
    try:
        return Pin(secret.decode())
    except UnicodeDecodeError:
        raise _unusable("PIN", "it is not UTF-8 text") from None


def read_passphrase(store: StoreSection) -> Secret | None:
    """The passphrase of the store, None where it has none. Raises RequestError (INVALID_CONFIGURATION)."""
    secret = _read("passphrase", store.passphrase_file, store.passphrase_fd, store.passphrase_credential)
    if secret is None:
        return None
    if not secret:
        raise _unusable("passphrase", "it is empty")
    return Secret(secret)


def _read(what: str, file: Path | None, descriptor: int | None, credential: str | None) -> bytes | None:
    if file is not None:
        return _line(what, _read_file(what, file))
    if descriptor is not None:
        return _line(what, _read_descriptor(what, descriptor))
    if credential is not None:
        return _line(what, _read_file(what, _credential(what, credential), given_by_systemd=True))
    return None


def _read_file(what: str, path: Path, *, given_by_systemd: bool = False) -> bytes:
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise _unusable(what, f"{path} is not a plain file")
            # systemd hands credentials out on a file system of the service's own, some versions with mode 0440.
            if not given_by_systemd and (found.st_mode & 0o077 or found.st_uid not in {0, os.geteuid()}):
                raise _unusable(
                    what, f"{path} can be read or changed by others; let it be your own file with mode 0600"
                )
            return file.read(_LIMIT + 1)
    except OSError as problem:
        raise _unusable(what, f"{path} cannot be read: {problem.strerror or problem}") from None


def _read_descriptor(what: str, descriptor: int) -> bytes:
    try:
        with os.fdopen(descriptor, "rb") as file:
            return file.read(_LIMIT + 1)
    except OSError as problem:
        raise _unusable(
            what,
            f"file descriptor {descriptor} cannot be read ({problem.strerror or problem}); it must be open when"
            " `hsmbridge serve` starts, and is read once",
        ) from None


def _credential(what: str, name: str) -> Path:
    folder = os.environ.get(_CREDENTIALS_VARIABLE, "")
    if not folder:
        raise _unusable(
            what, f"credential {name} is not there: the service was not started by systemd with LoadCredential="
        )
    return Path(folder) / name


def _line(what: str, content: bytes) -> bytes:
    if len(content) > _LIMIT:
        raise _unusable(what, f"it has more than {_LIMIT} bytes")
    return content.removesuffix(b"\n").removesuffix(b"\r")


def _unusable(what: str, why: str) -> RequestError:
    return RequestError(Status.INVALID_CONFIGURATION, f"The {what} cannot be had: {why}.")
