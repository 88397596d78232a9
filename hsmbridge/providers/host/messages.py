"""What is said to a provider host besides provider calls.

The first frame of a connection is ATTACH (a daemon process that will send calls) or CONTROL (the supervisor); the
reply says which incarnation of the host this is, for key handles are valid only for it.
"""

from typing import Final

import msgspec

ATTACH_OPCODE: Final = 0x8001
CONTROL_OPCODE: Final = 0x8002
STOP_OPCODE: Final = 0x8003


class AttachRequest(msgspec.Struct, frozen=True, array_like=True):
    """A daemon process begins a connection for calls. → AttachReply."""

    client: str = ""


class AttachReply(msgspec.Struct, frozen=True, array_like=True):
    """Who answers. `incarnation` is 16 random bytes that change with every start."""

    name: str
    incarnation: bytes
    pid: int


class ControlRequest(msgspec.Struct, frozen=True, array_like=True):
    """A supervisor takes the host over; `digest` is that of the specification that it wants. → ControlReply."""

    digest: bytes


class ControlReply(msgspec.Struct, frozen=True, array_like=True):
    """`adopted` is False where the host serves another specification: it is to be stopped then."""

    adopted: bool
    name: str
    incarnation: bytes
    pid: int


class StopRequest(msgspec.Struct, frozen=True, array_like=True):
    """On a control connection: finish what is under way and exit. The end of the connection is the answer."""


class ProviderState(msgspec.Struct, frozen=True, array_like=True):
    """One provider host as the supervisor sees it.

    Attributes:
        name: of the provider instance.
        available: it can be called, at `socket`.
        status, message, incident: why it is not available.
        pid: of the host process, 0 where there is none.
        socket: path of its socket.
        incarnation: as in AttachReply; empty where it is not available.
    """

    name: str
    available: bool
    status: int = 0
    message: str = ""
    incident: str = ""
    pid: int = 0
    socket: str = ""
    incarnation: bytes = b""


class ProviderStates(msgspec.Struct, frozen=True, array_like=True):
    """Every provider host; one packet on a worker's control socket (SOCK_SEQPACKET), sent at start and each change.

    Attributes:
        reloads: how often the service was told to reload; a worker that sees it grow tries again what failed inside it.
    """

    providers: tuple[ProviderState, ...] = ()
    reloads: int = 0


STATES_PACKET_MAX: Final = 128 * 1024
"""Bytes to offer when a packet is received."""
