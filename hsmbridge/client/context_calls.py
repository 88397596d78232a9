"""What the contexts of all kinds share: their state, and their calls to the daemon.

The states and their order are those of `hsmbridge.core.contexts`. A context lives on the connection that it was created
on and dies with it.
"""

from collections.abc import Callable
from threading import Lock
from typing import Final, Protocol, Self, TypeVar

import msgspec

from hsmbridge.client.calls import Buffer, Caller, octets
from hsmbridge.client.connection import Connection
from hsmbridge.client.deadline import UNSET, Timeout, check_timeout
from hsmbridge.core import messages as m
from hsmbridge.core.contexts import NEXT, ContextCall, ContextState
from hsmbridge.core.errors import (
    ConnectionLost,
    ContextError,
    HsmBridgeError,
    SignatureInvalid,
    Status,
    WireError,
)
from hsmbridge.wire.codec import decode_reply, encode_request

PIECE: Final = 1024 * 1024
"""Bytes of one update, or `max_frame` of the daemon where that is less: whatever is given is divided into these."""

_Reply = TypeVar("_Reply", bound=msgspec.Struct)


class Source(Protocol):
    """What is read from: a file opened for bytes, a pipe."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; none at the end."""
        ...


class Sink(Protocol):
    """What is written to."""

    def write(self, data: bytes, /) -> object:
        """Take all of `data`."""
        ...


class Context:
    """What the six kinds share. A context manager; threads that share one take turns.

    Attributes:
        algorithm: that it was created for.
    """

    __slots__ = ("_connection", "_lock", "_number", "_reply", "_stack", "_state", "_timeout", "algorithm")

    def __init__(
        self,
        stack: Caller,
        connection: Connection,
        reply: m.ContextReply,
        algorithm: str,
        timeout: Timeout,
        state: ContextState,
    ) -> None:
        """Made by the `*_context` calls of a CryptoStack, which say what `timeout` is."""
        self.algorithm = algorithm
        self._stack = stack
        self._connection = connection
        self._number = reply.context
        self._reply = reply
        self._timeout = timeout
        self._state = state
        self._lock = Lock()

    # What it is

    @property
    def state(self) -> ContextState:
        """Where it stands as far as the client knows; the daemon is not asked."""
        if self._state is not ContextState.CLOSED and self._connection.failure is not None:
            return ContextState.ERROR
        return self._state

    @property
    def buffered(self) -> bool:
        """Whether the daemon holds all data back until the end, up to `held_max` bytes, instead of streaming it.

        So it is for the decryption of an AEAD, and for what the key's provider takes only at once. Known once the
        context is initialised.
        """
        return self._reply.buffered

    @property
    def held_max(self) -> int:
        """Bytes that a buffered context takes; more raise LimitError (DATA_TOO_LARGE)."""
        return self._reply.held_max

    @property
    def provider(self) -> str:
        """The provider instance that it runs on."""
        return self._reply.provider

    @property
    def version(self) -> int:
        """The key version that it works with; 0 for none, or where only the end tells."""
        return self._reply.version

    # What every kind does

    def reset(self) -> None:
        """Begin anew with the same key, algorithm and configuration: FINALIZED becomes CREATED.

        Raises ContextError: INVALID_OPERATION elsewhere; CONTEXT_RESET_FAILED where its provider cannot.
        """
        self._reply = self._call(ContextCall.RESET, m.ContextReply, lambda: m.ContextResetRequest(self._number))

    def close(self) -> None:
        """Free it in the daemon and at the provider; a second time does nothing. Raises what goes wrong."""
        with self._lock:
            if self._take() and self._connection.failure is None:
                self._exchange(m.Empty, m.ContextCloseRequest(self._number))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.close()
        except HsmBridgeError:
            # The body's own outcome counts; the context ends with the connection at the latest.
            return

    def __del__(self) -> None:
        # A finaliser may run inside any line, so it only leaves a note for the next call.
        if self._take():
            self._connection.contexts_left.append(self._number)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.algorithm}, {self.state}>"

    # Inside

    def _init(self, nonce: Buffer = b"", aad: Buffer = b"") -> None:
        start = m.ContextStart(octets(nonce), octets(aad))
        self._reply = self._call(ContextCall.INIT, m.ContextReply, lambda: m.ContextInitRequest(self._number, start))

    def _restart(self, nonce: Buffer = b"", aad: Buffer = b"") -> None:
        start = m.ContextStart(octets(nonce), octets(aad))
        with self._lock:
            self._reply = self._asked(m.ContextReply, m.ContextResetRequest(self._number, start))
            self._state = ContextState.INITIALIZED

    def _feed(self, data: Buffer) -> bytes:
        """Send data in pieces; the output."""
        view = memoryview(data)
        view = view.cast("B") if view.c_contiguous else memoryview(octets(data))
        most = min(PIECE, self._connection.max_frame)
        if len(view) <= most:
            return self._update(view)
        return b"".join([self._update(view[start : start + most]) for start in range(0, len(view), most)])

    def _update(self, piece: memoryview) -> bytes:
        reply = self._call(
            ContextCall.UPDATE, m.ContextDataReply, lambda: m.ContextUpdateRequest(self._number, bytes(piece))
        )
        return reply.data

    def _read_from(self, source: Source, sink: Sink | None) -> int:
        most = min(PIECE, self._connection.max_frame)
        count = 0
        while data := source.read(most):
            count += len(data)
            output = self._feed(data)
            if output and sink is not None:
                sink.write(output)
        return count

    def _finalize(self, proof: bytes = b"") -> m.ContextFinalReply:
        return self._call(
            ContextCall.FINALIZE,
            m.ContextFinalReply,
            lambda: m.ContextFinalizeRequest(self._number, b"", proof),
        )

    def _call(self, call: ContextCall, kind: type[_Reply], make: Callable[[], msgspec.Struct]) -> _Reply:
        with self._lock:
            try:
                reply = self._asked(kind, make())
            except SignatureInvalid:
                self._state = ContextState.FINALIZED
                raise
            self._state = NEXT[call].get(self._state, self._state)
            return reply

    def _asked(self, kind: type[_Reply], request: msgspec.Struct) -> _Reply:
        if self._state is ContextState.CLOSED:
            raise ContextError(Status.CONTEXT_FAILED, "This context was closed; create another one.")
        if self._connection.failure is not None:
            raise ConnectionLost(
                Status.CONNECTION_LOST, "The connection on which this context lived is lost; create it again."
            )
        try:
            return self._exchange(kind, request)
        except SignatureInvalid:
            raise
        except HsmBridgeError as problem:
            if problem.status is not Status.INVALID_OPERATION:
                self._state = ContextState.ERROR
            raise
        except BaseException:
            # Interrupted: whether the daemon has the data is not known, so nothing may follow it.
            self._state = ContextState.ERROR
            raise

    def _exchange(self, kind: type[_Reply], request: msgspec.Struct) -> _Reply:
        timeout = self._timeout
        seconds = self._stack.timeout if timeout is UNSET else check_timeout(timeout)
        reply = decode_reply(self._connection.exchange(encode_request, request, seconds))
        if not isinstance(reply, kind):
            raise WireError(
                Status.MALFORMED_FRAME, f"The daemon answered with {type(reply).__name__}, not {kind.__name__}."
            )
        return reply

    def _take(self) -> bool:
        """Whether it was open until now."""
        state = getattr(self, "_state", ContextState.CLOSED)
        self._state = ContextState.CLOSED
        return state is not ContextState.CLOSED
