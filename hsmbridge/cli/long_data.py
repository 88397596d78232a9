"""Input that is longer than one call takes: opened instead of read, and output that is complete before it appears.

What fits into one call is still read as a whole, for that is one round trip.
"""

import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from hsmbridge.cli.files import STANDARD, mode_of_output, unusable
from hsmbridge.core.errors import RequestError, Status

_COPIED_AT_ONCE = 1 << 20


class LongInput:
    """An open input, from its beginning."""

    def __init__(self, name: str, file: BinaryIO, begun: bytes = b"") -> None:
        """Args: the input's name for messages; the file; and what was read of it already."""
        self._name = name
        self._file = file
        self._begun = begun

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; none at the end. Raises RequestError (INVALID_ARGUMENT) where it cannot be read."""
        if self._begun:
            data, self._begun = self._begun[:size], self._begun[size:]
            return data
        try:
            return self._file.read(size)
        except OSError as problem:
            raise unusable(self._name, "read", problem) from None

    def read_exactly(self, size: int) -> bytes:
        """`size` bytes, or all that is left where that is less."""
        parts: list[bytes] = []
        while size and (data := self.read(size)):
            parts.append(data)
            size -= len(data)
        return b"".join(parts)

    def put_back(self, data: bytes) -> None:
        """Have `data` be read again next."""
        self._begun = data + self._begun


@contextmanager
def opened_input(name: str, limit: int) -> Iterator[bytes | LongInput]:
    """All of an input that has at most `limit` bytes, else the input itself.

    Raises RequestError (INVALID_ARGUMENT) where it cannot be read.
    """
    try:
        file = sys.stdin.buffer if name == STANDARD else Path(name).open("rb")  # noqa: SIM115 - closed below
    except OSError as problem:
        raise unusable(name, "read", problem) from None
    try:
        begun, whole = _begin(name, file, limit)
        yield begun if whole else LongInput(name, file, begun)
    finally:
        if name != STANDARD:
            file.close()


def _begin(name: str, file: BinaryIO, limit: int) -> tuple[bytes, bool]:
    """What was read of the input, and whether that is all of it."""
    try:
        if name != STANDARD:
            found = os.fstat(file.fileno())
            if stat.S_ISREG(found.st_mode) and found.st_size > limit:
                return b"", False
        begun = file.read(limit + 1)
    except OSError as problem:
        raise unusable(name, "read", problem) from None
    return begun, len(begun) <= limit


@contextmanager
def pending_output(name: str, *, as_json: bool, secret: bool = False) -> Iterator[BinaryIO]:
    """A file to write to, which appears under `name`, or on stdout, once the block has ended without an error.

    Raises RequestError (INVALID_ARGUMENT) where it cannot be written, or would have to stand in a JSON document.
    """
    if name == STANDARD:
        if as_json:
            raise RequestError(Status.INVALID_ARGUMENT, "So much output does not go into a JSON document; give --out.")
        with tempfile.TemporaryFile() as held:
            yield held
            _copy_to_standard(held)
        return
    path = Path(os.path.realpath(name))
    if path.exists() and not path.is_file():
        with tempfile.TemporaryFile() as held, _written(name), path.open("wb") as device:
            yield held
            _copy(held, device)
        return
    with _written(name):
        descriptor, part = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            with _written(name):
                file.flush()
                os.fchmod(descriptor, mode_of_output(secret=secret))
                os.fsync(descriptor)
        Path(part).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(part).unlink()
        raise


@contextmanager
def _written(name: str) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as problem:
        raise unusable(name, "written", problem) from None


def _copy_to_standard(held: BinaryIO) -> None:
    with _written(STANDARD):
        if sys.stdout.isatty():
            held.seek(0)
            while data := held.read(_COPIED_AT_ONCE):
                sys.stdout.write(data.hex())
            sys.stdout.write("\n")
            return
        _copy(held, sys.stdout.buffer)
        sys.stdout.buffer.flush()


def _copy(held: BinaryIO, target: BinaryIO) -> None:
    held.seek(0)
    while data := held.read(_COPIED_AT_ONCE):
        target.write(data)
