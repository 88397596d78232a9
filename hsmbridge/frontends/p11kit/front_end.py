"""The p11-kit front end: a unix stream socket, one connection an application process. It makes and counts connections.

What a connection does is in `connection`; here is what all of them share.
"""

import asyncio
import threading
from collections.abc import Callable
from typing import Protocol

from hsmbridge.engine.runner import Runner
from hsmbridge.frontends.admission import Admission
from hsmbridge.frontends.p11kit.connection import P11KitConnection
from hsmbridge.frontends.p11kit.directory import Directory
from hsmbridge.frontends.p11kit.settings import P11KitSettings
from hsmbridge.service.dispatcher import Dispatcher


class Turns(Protocol):
    """Knows of all front ends together who speaks, and so whether staying with one client holds up another."""

    def hear(self, connection: object, *, single: bool) -> None:
        """Somebody sent something."""
        ...

    def alone(self) -> bool:
        """Whether one client has been the only one for a while, and asks for one thing at a time."""
        ...


class P11KitFrontEnd(Admission[P11KitConnection]):
    """Makes and counts connections."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        dispatcher: Dispatcher,
        runner: Runner,
        settings: P11KitSettings,
        *,
        stamp: Callable[[], bytes],
        watch_deadlines: Callable[[], None],
        turns: Turns,
    ) -> None:
        """Prepare to take connections.

        Args:
            loop: the event loop that it lives on.
            dispatcher: what requests mean.
            runner: what carries them out.
            settings: what the configuration says.
            stamp: a value that differs after any change of the store.
            watch_deadlines: has somebody look at deadlines as long as operations wait.
            turns: whose turn it is.
        """
        self.loop = loop
        self.dispatcher = dispatcher
        self.runner = runner
        self.settings = settings
        self.directory = Directory(settings.tokens, stamp, loop.time, settings.trust_stores)
        self.watch_deadlines = watch_deadlines
        self.turns = turns
        self.thread = threading.get_ident()
        super().__init__(settings.max_connections, settings.max_connections_per_principal)

    def connection(self) -> P11KitConnection:
        """A protocol for one new connection."""
        return P11KitConnection(self)

    def in_use(self, principal: str, slot: int) -> bool:
        """Whether an application of a principal, at this process, has a session with the token in a slot."""
        applications = (connection.application for connection in self.connections)
        return any(one is not None and one.principal == principal and one.sessions_of(slot) for one in applications)
