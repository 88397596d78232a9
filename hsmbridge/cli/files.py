"""Reading input and writing output of commands: files, or stdin and stdout as "-".

An output file appears under its name only when it is complete. One that holds a secret is only its owner's.
"""

import base64
import os
import stat
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from hsmbridge.core.errors import LimitError, RequestError, Status
from hsmbridge.core.secrets import Secret

STANDARD = "-"
_PASSPHRASE_MAX = 4096


def read_input(name: str, limit: int) -> bytes:
    """All of a file, at most `limit` bytes.

    Raises LimitError (DATA_TOO_LARGE), naming the limit; RequestError (INVALID_ARGUMENT) where it cannot be read.
    """
    try:
        if name == STANDARD:
            data = sys.stdin.buffer.read(limit + 1)
        else:
            with Path(name).open("rb") as file:
                found = os.fstat(file.fileno())
                if stat.S_ISREG(found.st_mode) and found.st_size > limit:
                    raise _too_large(name, f"{found.st_size:,}", limit)
                data = file.read(limit + 1)
    except OSError as problem:
        raise unusable(name, "read", problem) from None
    if len(data) > limit:
        raise _too_large(name, f"more than {limit:,}", limit)
    return data


def read_small(name: str) -> bytes:
    """All of a file that holds a key, a signature or the like."""
    return read_input(name, 1 << 20)


def write_output(name: str, data: bytes, *, secret: bool = False) -> None:
    """Write all of `data`; on a terminal as a line of hexadecimal digits."""
    try:
        if name == STANDARD:
            _write_standard(data)
        else:
            _write_file(Path(name), data, mode_of_output(secret=secret))
    except BrokenPipeError:
        raise
    except OSError as problem:
        raise unusable(name, "written", problem) from None


def read_passphrase(file: str | None, descriptor: int | None) -> Secret | None:
    """A passphrase from a file that only its owner reads, or from an inherited descriptor; None where neither is named.

    One line end after it is dropped. Raises RequestError (INVALID_ARGUMENT).
    """
    if file is not None and descriptor is not None:
        raise RequestError(Status.INVALID_ARGUMENT, "The passphrase comes from a file or a descriptor, not from both.")
    try:
        if file is not None:
            with Path(file).open("rb") as opened:
                if stat.S_IMODE(os.fstat(opened.fileno()).st_mode) & 0o077:
                    raise RequestError(
                        Status.INVALID_ARGUMENT, f"{file} can be read by others; let it be your own with mode 0600."
                    )
                content = opened.read(_PASSPHRASE_MAX + 1)
        elif descriptor is not None:
            with os.fdopen(descriptor, "rb") as opened:
                content = opened.read(_PASSPHRASE_MAX + 1)
        else:
            return None
    except OSError as problem:
        raise unusable(file or f"Descriptor {descriptor}", "read", problem) from None
    content = content.removesuffix(b"\n").removesuffix(b"\r")
    if not 0 < len(content) <= _PASSPHRASE_MAX:
        raise RequestError(Status.INVALID_ARGUMENT, f"A passphrase has 1 to {_PASSPHRASE_MAX} bytes, on one line.")
    return Secret(content)


def encode_base64(data: bytes) -> str:
    """Bytes as JSON documents carry them."""
    return base64.b64encode(data).decode()


def decode_hex(option: str, text: str) -> bytes:
    """The bytes of hexadecimal digits. Raises RequestError (INVALID_ARGUMENT), naming the option."""
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise RequestError(Status.INVALID_ARGUMENT, f"{option} takes hexadecimal digits, two for each byte.") from None


def _write_standard(data: bytes) -> None:
    if sys.stdout.isatty():
        print(data.hex())
    else:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


def _write_file(path: Path, data: bytes, mode: int) -> None:
    # Through links, so that the file they lead to is replaced and not the link; a device or pipe is just written.
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        path.write_bytes(data)
        return
    descriptor, part = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        Path(part).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(part).unlink()
        raise


def mode_of_output(*, secret: bool) -> int:
    """The mode of a new file: a secret is only its owner's."""
    return 0o600 if secret else 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _too_large(name: str, size: str, limit: int) -> LimitError:
    what = "The input" if name == STANDARD else name
    return LimitError(
        Status.DATA_TOO_LARGE,
        f"{what} has {size} bytes; one call takes at most {limit:,} (max_frame of the daemon). Raise it there, or"
        " divide the data.",
    )


def unusable(name: str, verb: str, problem: OSError) -> RequestError:
    """What is raised for a file that cannot be "read" or "written"."""
    what = {"read": "The input", "written": "The output"}[verb] if name == STANDARD else name
    return RequestError(Status.INVALID_ARGUMENT, f"{what} cannot be {verb}: {problem.strerror or problem}.")
