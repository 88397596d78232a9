"""How a call reaches the daemon: find the key's id, send, wait, and decide what may be sent a second time.

Two things are sent again, once. A request that was not sent at all, because the connection turned out to be dead,
goes out on a new one; a request that may have been carried out goes out again if the operation table says that
this does no harm. Neither where it names a key by guard or id: that key died with its connection. A slot whose id
the daemon does not know any more is looked up once more by its name: it may have been made anew.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from time import monotonic
from typing import Self, TypeVar

import msgspec

from hsmbridge.client.connection import Connection, SafeToRepeat
from hsmbridge.client.deadline import UNSET, Timeout, check_timeout
from hsmbridge.client.keys import Key, slot_name
from hsmbridge.client.shared import Lifetime, SharedConnection, acquire, release
from hsmbridge.client.socket_path import default_socket
from hsmbridge.core.errors import (
    ConnectionLost,
    HsmBridgeError,
    ProviderError,
    RequestError,
    ResourceError,
    Status,
    WireError,
)
from hsmbridge.core.identifiers import CryptoResourceId
from hsmbridge.core.messages import ReleaseRequest, ResolveReply, ResolveRequest
from hsmbridge.core.operations import OPERATION_FOR
from hsmbridge.wire.codec import MAX_BATCH, decode_batch_reply, decode_reply, encode_batch, encode_request
from hsmbridge.wire.frames import Frame

Buffer = bytes | bytearray | memoryview
"""What is taken wherever the API says bytes."""

Reply = TypeVar("Reply", bound=msgspec.Struct)
_Answer = TypeVar("_Answer")
_Body = TypeVar("_Body")

_BATCH_ITEM_ALLOWANCE = 1024
"""Bytes counted for what a request of a batch holds besides its data."""


def octets(data: Buffer) -> bytes:
    """`data` as bytes; no copy where it is bytes already."""
    return data if type(data) is bytes else bytes(data)


class Caller:
    """The part of a stack that makes calls. Safe for any number of threads."""

    _shared: SharedConnection | None = None

    def __init__(self, socket: str | os.PathLike[str] | None, timeout: float | None, lifetime: Lifetime) -> None:
        self._timeout = check_timeout(timeout)
        self._shared = acquire(default_socket() if socket is None else Path(socket), lifetime)

    def close(self) -> None:
        """Give up the connection; the process's last stack closes it, and with it every key that lives on it.

        Idempotent. Later calls of this stack raise RequestError (INVALID_ARGUMENT).
        """
        shared, self._shared = self._shared, None
        if shared is not None:
            release(shared)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    @property
    def timeout(self) -> float | None:
        """Seconds that a call may take unless it says otherwise; None is no limit."""
        return self._timeout

    @property
    def max_frame(self) -> int:
        """Bytes of data that the daemon takes in one call. Connects if need be."""
        return self._connection(self._timeout).max_frame

    def _connection(self, left: float | None) -> Connection:
        shared = self._shared
        if shared is None:
            raise RequestError(Status.INVALID_ARGUMENT, "This CryptoStack was closed; make a new one.")
        current = shared.current
        if current is not None and current.failure is None:
            return current
        return shared.connection(left)

    def _perform(
        self,
        kind: type[Reply],
        make: Callable[..., msgspec.Struct],
        *keys: Key,
        timeout: Timeout = UNSET,
    ) -> Reply:
        """Make one call; `make` builds the request from the ids of the keys, in their order."""
        seconds = self._timeout if timeout is UNSET else check_timeout(timeout)
        started = monotonic()
        connection = self._connection(seconds)
        try:
            return self._once(connection, kind, make, keys, seconds)
        except (SafeToRepeat, ResourceError) as problem:
            left = _left_to_repeat(problem, connection, keys, seconds, started)
        return self._once(self._connection(left), kind, make, keys, left)

    def _perform_where(
        self, kind: type[Reply], make: Callable[..., msgspec.Struct], *keys: Key, timeout: Timeout = UNSET
    ) -> tuple[Reply, Connection]:
        """Make one call; its reply, and the connection on which the ids in it live."""

        def attempt(connection: Connection, left: float | None) -> tuple[Reply, Connection]:
            return self._once(connection, kind, make, keys, left), connection

        return self._attempt(attempt, keys, timeout)

    def _once(
        self,
        connection: Connection,
        kind: type[Reply],
        make: Callable[..., msgspec.Struct],
        keys: tuple[Key, ...],
        left: float | None,
    ) -> Reply:
        if len(keys) == 1:
            request = make(self._resource(connection, keys[0], left))
        else:
            request = make(*[self._resource(connection, key, left) for key in keys])
        try:
            frame = connection.exchange(encode_request, request, left)
        except ConnectionLost as lost:
            raise _repeatable(lost, request) from None
        reply = decode_reply(frame)
        if isinstance(reply, kind):
            return reply
        raise _unexpected(reply, kind)

    def _perform_batch(
        self,
        kind: type[Reply],
        make: Callable[[CryptoResourceId, slice], Sequence[msgspec.Struct]],
        sizes: Sequence[int],
        key: Key,
        timeout: Timeout,
    ) -> list[Reply | HsmBridgeError]:
        """Make one call for each of `sizes`, the bytes of data in it, in as few round trips as the limits allow.

        Each has a reply or an error of its own; what is wrong with the key itself is raised.
        """
        answers: list[Reply | HsmBridgeError] = []
        for part in parts(sizes, self.max_frame if sizes else 0):

            def attempt(
                connection: Connection, left: float | None, part: slice = part
            ) -> list[msgspec.Struct | HsmBridgeError]:
                requests = make(self._resource(connection, key, left), part)
                return _answers(requests, exchange(connection, encode_batch, requests, requests[0], left))

            for answer in self._attempt(attempt, (key,), timeout):
                if not isinstance(answer, (kind, HsmBridgeError)):
                    raise _unexpected(answer, kind)
                answers.append(answer)
        return answers

    def _attempt(
        self, attempt: Callable[[Connection, float | None], _Answer], keys: Sequence[Key], timeout: Timeout
    ) -> _Answer:
        seconds = self._timeout if timeout is UNSET else check_timeout(timeout)
        started = monotonic()
        connection = self._connection(seconds)
        try:
            return attempt(connection, seconds)
        except (SafeToRepeat, ResourceError) as problem:
            left = _left_to_repeat(problem, connection, keys, seconds, started)
        return attempt(self._connection(left), left)

    def _resource(self, connection: Connection, key: Key, left: float | None) -> CryptoResourceId:
        if isinstance(key, str):
            found = connection.slots.get(key)
        elif isinstance(key, CryptoResourceId):
            return key
        else:
            found = key.resource_on(connection)
        if found is None:
            name = slot_name(key)
            request = ResolveRequest(name)
            reply = decode_reply(exchange(connection, encode_request, request, request, left))
            if not isinstance(reply, ResolveReply):
                raise _unexpected(reply, ResolveReply)
            found = connection.slots[name] = reply.resource
        return found


def release_resource(connection: Connection, resource: CryptoResourceId, timeout: float | None) -> None:
    """Give back the client's share in an ephemeral key."""
    decode_reply(connection.exchange(encode_request, ReleaseRequest(resource), timeout))


def exchange(
    connection: Connection,
    encode: Callable[[int, _Body, int], bytes],
    body: _Body,
    request: msgspec.Struct,
    left: float | None,
) -> Frame:
    """Send and wait. Raises SafeToRepeat where the connection was lost and `request` once more does no harm."""
    try:
        return connection.exchange(encode, body, left)
    except ConnectionLost as lost:
        raise _repeatable(lost, request) from None


def _repeatable(lost: ConnectionLost, request: msgspec.Struct) -> ConnectionLost:
    """`lost`, as SafeToRepeat where sending the request once more does no harm."""
    if isinstance(lost, SafeToRepeat) or not OPERATION_FOR[type(request)].idempotent:
        return lost
    return SafeToRepeat(lost.status, lost.message)


def _answers(requests: Sequence[msgspec.Struct], frame: Frame) -> list[msgspec.Struct | HsmBridgeError]:
    answers = decode_batch_reply(frame)
    if len(answers) != len(requests):
        raise WireError(Status.MALFORMED_FRAME, "The daemon did not answer every request of a batch.")
    first = answers[0]
    if isinstance(first, ResourceError) and all(isinstance(answer, ResourceError) for answer in answers):
        # The key itself is not there; that is no matter of the single requests.
        raise first
    return answers


def _forget(connection: Connection, keys: Sequence[Key]) -> bool:
    """Drop the ids that the slots among `keys` were known by; False where there were none."""
    dropped = [connection.slots.pop(name, None) for name in map(slot_name, keys) if name]
    return any(dropped)


def _left_to_repeat(
    problem: HsmBridgeError, connection: Connection, keys: Sequence[Key], seconds: float | None, started: float
) -> float | None:
    """Seconds left for a second attempt. Raises `problem` where there is to be none."""
    if isinstance(problem, SafeToRepeat):
        if not all(map(slot_name, keys)):
            raise problem
    elif problem.status is not Status.RESOURCE_NOT_FOUND or not _forget(connection, keys):
        raise problem
    if seconds is None:
        return None
    left = started + seconds - monotonic()
    if left <= 0:
        raise ProviderError(Status.OPERATION_TIMED_OUT)
    return left


def _unexpected(reply: msgspec.Struct, kind: type[msgspec.Struct]) -> WireError:
    return WireError(Status.MALFORMED_FRAME, f"The daemon answered with {type(reply).__name__}, not {kind.__name__}.")


def parts(sizes: Sequence[int], max_frame: int) -> Iterator[slice]:
    """Runs of requests that fit into one frame; one that is too large alone is a run of its own, to be refused."""
    if 0 < len(sizes) <= MAX_BATCH and sum(sizes) + len(sizes) * _BATCH_ITEM_ALLOWANCE <= max_frame:
        yield slice(0, len(sizes))
        return
    start = 0
    filled = 0
    for index, size in enumerate(sizes):
        weight = size + _BATCH_ITEM_ALLOWANCE
        if index > start and (filled + weight > max_frame or index - start == MAX_BATCH):
            yield slice(start, index)
            start, filled = index, 0
        filled += weight
    if start < len(sizes):
        yield slice(start, len(sizes))
