"""The hello that opens every connection: both sides speak the highest protocol version that they have in common.

A daemon serves the current version and the one before it. What follows the hello is `hsmbridge.wire.codec`.
"""

from typing import Final

from hsmbridge.core.errors import RequestError, Status, WireError
from hsmbridge.core.messages import HelloReply, HelloRequest
from hsmbridge.core.operations import HELLO_OPCODE
from hsmbridge.wire.codec import decode_request
from hsmbridge.wire.frames import BATCH, Frame

NEWEST_VERSION: Final = 1
OLDEST_VERSION: Final = 1

CLIENT_NAME_MAX: Final = 128


def hello(client: str) -> HelloRequest:
    """The first request of a connection; `client` names the program, for the daemon's log."""
    return HelloRequest(OLDEST_VERSION, NEWEST_VERSION, client[:CLIENT_NAME_MAX])


def read_hello(frame: Frame) -> HelloRequest:
    """The hello in the first frame of a connection. Raises WireError (MALFORMED_FRAME) where it is another request."""
    if frame.opcode != HELLO_OPCODE or frame.flags & BATCH:
        raise WireError(Status.MALFORMED_FRAME, "The first request on a connection must be the hello.")
    _, request = decode_request(frame)
    if not isinstance(request, HelloRequest):
        raise WireError(Status.MALFORMED_FRAME)
    if len(request.client) > CLIENT_NAME_MAX:
        raise RequestError(Status.INVALID_ARGUMENT, f"A client's name has at most {CLIENT_NAME_MAX} characters.")
    return request


def negotiate(request: HelloRequest) -> int:
    """The version to speak. Raises WireError (VERSION_NOT_SUPPORTED), saying what each side speaks."""
    version = min(request.newest_version, NEWEST_VERSION)
    if version < max(request.oldest_version, OLDEST_VERSION):
        raise WireError(
            Status.VERSION_NOT_SUPPORTED,
            f"The client speaks protocol versions {_range(request.oldest_version, request.newest_version)}, "
            f"the daemon {_range(OLDEST_VERSION, NEWEST_VERSION)}; update the older one.",
        )
    return version


def check_hello_reply(reply: HelloReply) -> int:
    """The version that the daemon chose. Raises WireError (VERSION_NOT_SUPPORTED) for one that was not offered."""
    if not OLDEST_VERSION <= reply.version <= NEWEST_VERSION:
        raise WireError(
            Status.VERSION_NOT_SUPPORTED,
            f"The daemon chose protocol version {reply.version}; "
            f"this client speaks {_range(OLDEST_VERSION, NEWEST_VERSION)}.",
        )
    return reply.version


def _range(oldest: int, newest: int) -> str:
    return str(oldest) if oldest == newest else f"{oldest} to {newest}"
