"""CryptoResourceGuard: the client's holder of an ephemeral key.

The count that keeps the key alive is the daemon's alone. A guard that is released gives back its share of it at
once; one that is collected only leaves a note for the next call, for a finaliser may run inside any line.
"""

from typing import Self

from hsmbridge.client.bound import BoundKey
from hsmbridge.client.calls import release_resource
from hsmbridge.client.connection import Connection
from hsmbridge.client.key_use import KeyUse
from hsmbridge.core.errors import ConnectionLost, HsmBridgeError, ResourceError, Status
from hsmbridge.core.identifiers import CryptoResourceId


class CryptoResourceGuard(BoundKey):
    """Holds an ephemeral key; a context manager, usable wherever a key is named.

    Attributes:
        public_key: SubjectPublicKeyInfo in DER, or b"" for secret keys.
    """

    __slots__ = ("__weakref__", "_connection", "_resource", "public_key")

    def __init__(
        self, stack: KeyUse, connection: Connection, resource: CryptoResourceId, public_key: bytes = b""
    ) -> None:
        super().__init__(stack)
        self._connection = connection
        self._resource: CryptoResourceId | None = resource
        self.public_key = public_key

    @property
    def slot_name(self) -> str:
        return ""

    @property
    def active(self) -> bool:
        """Whether it holds a key as far as the client knows; the daemon is not asked."""
        return self._resource is not None and self._connection.failure is None

    @property
    def resource(self) -> CryptoResourceId:
        """The id. Raises ResourceError (RESOURCE_NOT_FOUND) once released, ConnectionLost with the connection."""
        return self.resource_on(self._connection)

    def resource_on(self, connection: Connection) -> CryptoResourceId:
        """The id, if it is one of `connection`. Raises as `resource`."""
        resource = self._resource
        if resource is None:
            raise ResourceError(Status.RESOURCE_NOT_FOUND, "This guard was released; its key is gone.")
        if connection is not self._connection or connection.failure is not None:
            raise ConnectionLost(
                Status.CONNECTION_LOST,
                "The connection on which this key lived is lost, and the key with it; make it again.",
            )
        return resource

    def release(self) -> None:
        """Give the key back now; a second time does nothing. Raises what goes wrong."""
        resource = self._take()
        if resource is not None:
            release_resource(self._connection, resource, self._stack.timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.release()
        except HsmBridgeError:
            # The body's own outcome counts; the key ends with the connection at the latest.
            return

    def __del__(self) -> None:
        resource = self._take()
        if resource is not None:
            self._connection.released.append(resource)

    def __repr__(self) -> str:
        return f"<CryptoResourceGuard, {'active' if self.active else 'ended'}>"

    def _take(self) -> CryptoResourceId | None:
        resource = getattr(self, "_resource", None)
        self._resource = None
        return resource
