"""CryptoResourceGuard: the client's holder of an ephemeral key."""

from hsmbridge.client.bound import BoundKey
from hsmbridge.client.connection import Connection
from hsmbridge.client.context_making import ContextMaking
from hsmbridge.client.held import Held, HeldResource
from hsmbridge.core.identifiers import CryptoResourceId


class CryptoResourceGuard(HeldResource, BoundKey):
    """Holds an ephemeral key; a context manager, usable wherever a key is named.

    Attributes:
        public_key: SubjectPublicKeyInfo in DER, or b"" for secret keys.
    """

    __slots__ = ("__weakref__", "_held", "public_key")

    def __init__(
        self, stack: ContextMaking, connection: Connection, resource: CryptoResourceId, public_key: bytes = b""
    ) -> None:
        super().__init__(stack)
        self._held = Held(connection, resource)
        self.public_key = public_key

    @property
    def slot_name(self) -> str:
        return ""

    def __repr__(self) -> str:
        return f"<CryptoResourceGuard, {'active' if self.active else 'ended'}>"

    def _release_timeout(self) -> float | None:
        return self._stack.timeout
