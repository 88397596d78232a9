"""How a call of PKCS#11 or of an SSH agent asks the service: a generator of requests, sent the reply to each.

So what calls mean can be read and tested without sockets, threads or an event loop.
"""

from collections.abc import Generator, Sequence
from typing import TypeVar

import msgspec

from hsmbridge.core.errors import RequestError, Status
from hsmbridge.wire.p11kit import Result

T = TypeVar("T")
_Reply = TypeVar("_Reply", bound=msgspec.Struct)

Asking = Generator[msgspec.Struct, msgspec.Struct, T]
"""Yields requests of the service, is sent their replies or thrown HsmBridgeError, and returns what it found."""

Answer = Asking[Sequence[Result]]
"""A call, as far as its results."""


def ask(request: msgspec.Struct, reply: type[_Reply]) -> Asking[_Reply]:
    """Ask one thing. Raises what the service raises."""
    answered = yield request
    if not isinstance(answered, reply):
        raise RequestError(Status.INTERNAL, origin=f"{type(answered).__name__} in place of {reply.__name__}")
    return answered


def nothing() -> Asking[None]:
    """Ask nothing; makes a generator of a function that has nothing to ask."""
    yield from ()
