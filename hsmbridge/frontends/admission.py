"""How many connections a front end has, by principal, and how it lets go of them all."""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

import structlog

from hsmbridge.core.errors import HsmBridgeError, LimitError, Status, error
from hsmbridge.frontends.refusal_log import RefusalLog

_log = structlog.get_logger(__name__)


class Finishing(Protocol):
    """A connection that can be told to come to its end."""

    def finish(self) -> None:
        """Take nothing more, and close when what is under way was answered."""
        ...


_C = TypeVar("_C", bound=Finishing)


class Admission(Generic[_C]):
    """Counts connections in and out. On the loop's own thread.

    Attributes:
        connections: those that were let in and have not left.
    """

    def __init__(self, most: int, most_of_one_principal: int, changed: Callable[[int], None] | None = None) -> None:
        """`changed` is told the number of connections whenever it changes."""
        self.connections: set[_C] = set()
        self._refusals = RefusalLog()
        self._changed = changed
        self._most = most
        self._most_of_one_principal = most_of_one_principal
        self._per_principal: Counter[str] = Counter()
        self._draining = False
        self._left = asyncio.Event()

    def watch_connections(self, changed: Callable[[int], None]) -> None:
        """Have `changed` told the number of connections whenever it changes."""
        self._changed = changed

    def admit(self, connection: _C, principal: str) -> None:
        """Count a connection in. Raises LimitError (TOO_MANY_CONNECTIONS) or WireError (CONNECTION_LOST)."""
        if self._draining:
            raise error(Status.CONNECTION_LOST)
        if len(self.connections) >= self._most:
            raise LimitError(Status.TOO_MANY_CONNECTIONS, "The daemon has as many connections as it takes; try later.")
        if self._per_principal[principal] >= self._most_of_one_principal:
            raise LimitError(
                Status.TOO_MANY_CONNECTIONS,
                f"You have {self._per_principal[principal]} connections, as many as one user may; close some.",
            )
        self.connections.add(connection)
        self._per_principal[principal] += 1
        self._tell()

    def tell_refused(self, principal: str, refusal: HsmBridgeError) -> None:
        """Log that a connection was refused."""
        status = refusal.status.name
        self._refusals.tell(_log.info, "connection refused", status, principal=principal, status=status)

    def tell_dropped(self, principal: str, problem: HsmBridgeError) -> None:
        """Log that a connection was ended for what its client sent."""
        status = problem.status.name
        self._refusals.tell(_log.info, "a connection was dropped", status, principal=principal, reason=problem.message)

    def tell_lost(self, principal: str, problem: OSError) -> None:
        """Log that there was nothing left to serve a connection with."""
        self._refusals.tell(
            _log.error, "a connection was dropped", str(problem.errno), principal=principal, reason=problem.strerror
        )

    def leave(self, connection: _C, principal: str) -> None:
        """Count a connection out."""
        if connection in self.connections:
            self.connections.discard(connection)
            self._left.set()
            self._per_principal[principal] -= 1
            if not self._per_principal[principal]:
                del self._per_principal[principal]
            self._tell()

    def flush_log(self) -> None:
        """Log now how many more connections were refused or dropped since that was logged last."""
        self._refusals.flush()

    def _tell(self) -> None:
        if self._changed is not None:
            self._changed(len(self.connections))

    async def drain(self) -> None:
        """Let nobody in and take nothing more, answer what is under way, and close every connection."""
        self._draining = True
        for connection in tuple(self.connections):
            connection.finish()
        while self.connections:
            self._left.clear()
            await self._left.wait()
        self.flush_log()
