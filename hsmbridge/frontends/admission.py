"""How many connections a front end has, by principal, and how it lets go of them all."""

import asyncio
from collections import Counter
from typing import Generic, Protocol, TypeVar


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

    def __init__(self, most: int, most_of_one_principal: int) -> None:
        self.connections: set[_C] = set()
        self._most = most
        self._most_of_one_principal = most_of_one_principal
        self._per_principal: Counter[str] = Counter()
        self._draining = False
        self._left = asyncio.Event()

    def admit(self, connection: _C, principal: str) -> bool:
        """Count a connection in, if there is room for it."""
        if (
            self._draining
            or len(self.connections) >= self._most
            or self._per_principal[principal] >= self._most_of_one_principal
        ):
            return False
        self.connections.add(connection)
        self._per_principal[principal] += 1
        return True

    def leave(self, connection: _C, principal: str) -> None:
        """Count a connection out."""
        if connection in self.connections:
            self.connections.discard(connection)
            self._left.set()
            self._per_principal[principal] -= 1
            if not self._per_principal[principal]:
                del self._per_principal[principal]

    async def drain(self) -> None:
        """Let nobody in any more, answer what is under way, and close every connection."""
        self._draining = True
        for connection in tuple(self.connections):
            connection.finish()
        while self.connections:
            self._left.clear()
            await self._left.wait()
