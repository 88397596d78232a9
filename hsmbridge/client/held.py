"""What the holders of resources that live on one connection have in common: their id, and giving it back.

The daemon counts. A holder that is released gives back its share at once; one that is collected only leaves a note
for the next call, for a finaliser may run inside any line.
"""

from typing import Self

from hsmbridge.client.calls import release_resource
from hsmbridge.client.connection import Connection
from hsmbridge.core.errors import ConnectionLost, HsmBridgeError, ResourceError, Status
from hsmbridge.core.identifiers import CryptoResourceId


class Held:
    """Where a resource lives, and its id until it is given back."""

    __slots__ = ("connection", "resource")

    def __init__(self, connection: Connection, resource: CryptoResourceId) -> None:
        self.connection = connection
        self.resource: CryptoResourceId | None = resource


class HeldResource:
    """A resource of one connection; a context manager. A class that is one has a slot for `_held`."""

    __slots__ = ()

    _held: Held

    @property
    def active(self) -> bool:
        """Whether it holds anything as far as the client knows; the daemon is not asked."""
        return self._held.resource is not None and self._held.connection.failure is None

    @property
    def resource(self) -> CryptoResourceId:
        """The id. Raises ResourceError (RESOURCE_NOT_FOUND) once released, ConnectionLost with the connection."""
        return self.resource_on(self._held.connection)

    def resource_on(self, connection: Connection) -> CryptoResourceId:
        """The id, if it is one of `connection`. Raises as `resource`."""
        resource = self._held.resource
        if resource is None:
            raise ResourceError(Status.RESOURCE_NOT_FOUND, "This guard was released; what it held is gone.")
        if connection is not self._held.connection or connection.failure is not None:
            raise ConnectionLost(
                Status.CONNECTION_LOST,
                "The connection on which this lived is lost, and the key or certificate with it; make it again.",
            )
        return resource

    def release(self) -> None:
        """Give it back now; a second time does nothing. Raises what goes wrong."""
        resource = self._take()
        if resource is not None:
            release_resource(self._held.connection, resource, self._release_timeout())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.release()
        except HsmBridgeError:
            # The body's own outcome counts; what was held ends with the connection at the latest.
            return

    def __del__(self) -> None:
        resource = self._take()
        if resource is not None:
            self._held.connection.released.append(resource)

    def _release_timeout(self) -> float | None:
        raise NotImplementedError

    def _take(self) -> CryptoResourceId | None:
        held: Held | None = getattr(self, "_held", None)
        if held is None:
            return None
        resource, held.resource = held.resource, None
        return resource
