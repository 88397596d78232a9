"""The contexts that one connection has open: what each is for, and what it holds until it is closed."""

import secrets
import threading
from typing import Final

from hsmbridge.core.algorithms import Algorithm, KeyOperation
from hsmbridge.core.errors import LimitError, ResourceError, Status, error
from hsmbridge.core.identifiers import CryptoResourceId
from hsmbridge.core.messages import ContextKind
from hsmbridge.core.params import DEFAULT_SIGNATURE, SignatureParameters
from hsmbridge.core.room import Room
from hsmbridge.engine.contexts import ContextMachine, Spool
from hsmbridge.keys.access import AcquiredKey, SlotView

CONTEXTS_MAX: Final = 1024
"""Contexts that one connection may have open."""


class Context:
    """One context. Its machine says who may touch the rest.

    Attributes:
        resource: the key as the client named it; None for a digest.
        parameters: of signatures.
        keys: the key versions that it may use, held; several only while it is not known which one verifies or decrypts.
        view: what was known of the slot when the keys were last seen to be permitted.
        provider: where it runs.
        stream: the operation under way at the provider; 0 for none.
        spool: the data that is held back instead.
        nonce, aad: what it was initialised with.
        output: what was not read yet of a finalized context's output.
    """

    __slots__ = (
        "_lock",
        "aad",
        "keys",
        "kind",
        "machine",
        "nonce",
        "operation",
        "output",
        "parameters",
        "provider",
        "resource",
        "row",
        "spool",
        "stream",
        "view",
    )

    def __init__(
        self,
        kind: ContextKind,
        operation: KeyOperation,
        row: Algorithm,
        resource: CryptoResourceId | None,
        parameters: SignatureParameters = DEFAULT_SIGNATURE,
    ) -> None:
        self._lock = threading.Lock()
        self.machine = ContextMachine()
        self.kind = kind
        self.operation = operation
        self.row = row
        self.resource = resource
        self.parameters = parameters
        self.keys: tuple[AcquiredKey, ...] = ()
        self.view: SlotView | None = None
        self.provider = ""
        self.stream = 0
        self.spool: Spool | None = None
        self.nonce = b""
        self.aad = b""
        self.output = memoryview(b"")

    @property
    def version(self) -> int:
        """The key version that it works with; 0 for none, or while several may be it."""
        return self.keys[0].version if len(self.keys) == 1 else 0

    def clear(self) -> int:
        """Let go of data; the stream that is to be closed at the provider, or 0."""
        with self._lock:
            stream, self.stream = self.stream, 0
            spool, self.spool = self.spool, None
            self.output = memoryview(b"")
            self.nonce = self.aad = b""
        if spool is not None:
            spool.clear()
        return stream

    def take_keys(self) -> tuple[AcquiredKey, ...]:
        """The keys that it held, to be released; once."""
        with self._lock:
            keys, self.keys = self.keys, ()
        return keys


class OpenContexts:
    """The contexts of one connection by their ids: random, its own, dead when it ends. Any thread may use it.

    Attributes:
        making: contexts that are being created, by the identity of the request: one whose deadline passes in the
            middle is given up before it has an id.
    """

    def __init__(self, limit: int = CONTEXTS_MAX) -> None:
        """Args: limit: contexts open at once."""
        self.making: dict[int, Context] = {}
        self.held: Room | None = None
        self._limit = limit
        self._lock = threading.Lock()
        self._open: dict[int, Context] = {}
        self._closed = False

    def __len__(self) -> int:
        return len(self._open)

    def check_room(self) -> None:
        """Raises LimitError (TOO_MANY_RESOURCES)."""
        if len(self._open) + len(self.making) >= self._limit:
            raise LimitError(
                Status.TOO_MANY_RESOURCES,
                f"{self._limit} contexts are open on this connection, which is its limit; close some.",
            )

    def add(self, context: Context) -> int:
        """The id of a new context. Raises WireError (CONNECTION_LOST) where the connection has ended."""
        with self._lock:
            if self._closed:
                raise error(Status.CONNECTION_LOST)
            number = secrets.randbits(64)
            while number in self._open:
                number = secrets.randbits(64)
            self._open[number] = context
            return number

    def get(self, number: int) -> Context:
        """The context behind an id. Raises ResourceError (RESOURCE_NOT_FOUND)."""
        context = self._open.get(number)
        if context is None:
            raise _no_context()
        return context

    def remove(self, number: int) -> Context:
        """The context behind an id, which is dead from now on. Raises ResourceError (RESOURCE_NOT_FOUND)."""
        context = self._open.pop(number, None)
        if context is None:
            raise _no_context()
        return context

    def close(self) -> list[Context]:
        """The connection ended: every context that was open. None is added any more."""
        with self._lock:
            self._closed = True
            contexts = list(self._open.values())
            self._open.clear()
            return contexts


def _no_context() -> ResourceError:
    return ResourceError(
        Status.RESOURCE_NOT_FOUND, "There is no such context on this connection, or it was closed already."
    )
