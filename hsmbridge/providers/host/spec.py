"""What a host process is told at its start and what it answers: once each, through inherited file descriptors.

The PIN stands beside the specification, never in it, so that the specification can be compared, logged and hashed.
"""

import hashlib
import os
from pathlib import Path
from typing import Final

import msgspec

from hsmbridge import __version__
from hsmbridge.core.errors import HsmBridgeError, RequestError, Status, error_from_wire
from hsmbridge.core.secrets import Pin
from hsmbridge.providers.registry import ProviderSpec
from hsmbridge.wire.frames import DEFAULT_MAX_FRAME, FRAME_ALLOWANCE, body_limit

SOCKET_PATH_MAX: Final = 107
"""Bytes of a unix socket's path: the kernel's 108 less the NUL."""


class HostSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One provider host, without its PIN.

    Attributes:
        provider: what it opens.
        directory: where its lock and socket are; only its own user may enter it.
        max_frame: the most data in one call, in bytes.
        drain_timeout: seconds that it serves on when its supervisor is gone.
        processors: the only ones that it runs on; none is all.
        version: of hsmbridge; a host of another version is replaced, not adopted.
    """

    provider: ProviderSpec
    directory: str
    max_frame: int = DEFAULT_MAX_FRAME
    drain_timeout: float = 30.0
    processors: tuple[int, ...] = ()
    version: str = __version__

    @property
    def name(self) -> str:
        """The provider's instance name."""
        return self.provider.name

    @property
    def socket_path(self) -> Path:
        """Where it listens."""
        return Path(self.directory) / f"{self.name}.sock"

    @property
    def lock_path(self) -> Path:
        """What it locks as long as it lives."""
        return Path(self.directory) / f"{self.name}.lock"

    @property
    def max_body(self) -> int:
        """The longest body of a call or reply: a call repeats what a request says, and adds the key's names."""
        return body_limit(self.max_frame) + FRAME_ALLOWANCE

    def digest(self) -> bytes:
        """SHA-256 of all this: two hosts with the same digest are interchangeable."""
        return hashlib.sha256(msgspec.msgpack.encode(self, order="deterministic")).digest()


class HostReport(msgspec.Struct, frozen=True, array_like=True):
    """How the start went. `status` 0 is ready; otherwise the reason, for whoever asks why the provider is away."""

    status: int
    message: str = ""
    incident: str = ""
    incarnation: bytes = b""

    def problem(self) -> HsmBridgeError:
        """The reason as an error."""
        return error_from_wire(self.status, self.message, self.incident)


def check_socket_path(path: Path) -> None:
    """Raises RequestError (INVALID_CONFIGURATION) for a path that the kernel does not take."""
    if len(os.fsencode(path)) > SOCKET_PATH_MAX:
        raise RequestError(
            Status.INVALID_CONFIGURATION,
            f"A socket path may have {SOCKET_PATH_MAX} bytes; choose a shorter runtime_dir or provider name.",
            origin=str(path),
        )


def memory_file(name: str, content: bytes) -> int:
    """An inheritable-by-choice file in memory that holds `content`, read from its beginning."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC)
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def write_spec(spec: HostSpec, pin: Pin | None) -> int:
    """A file descriptor for a new host to read its specification and PIN from."""
    revealed = None if pin is None else pin.reveal()
    return memory_file("hsmbridge-host", msgspec.msgpack.encode((spec, revealed)))


def read_spec(fd: int) -> tuple[HostSpec, Pin | None]:
    """Specification and PIN; closes `fd`. Raises RequestError (INVALID_CONFIGURATION)."""
    with os.fdopen(fd, "rb") as file:
        content = file.read()
    try:
        spec, pin = msgspec.msgpack.decode(content, type=tuple[HostSpec, str | None])
    except msgspec.MsgspecError:
        raise RequestError(Status.INVALID_CONFIGURATION, "The host's specification cannot be read.") from None
    return spec, None if pin is None else Pin(pin)
