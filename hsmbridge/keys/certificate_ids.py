"""The ids of certificates, trust stores and CRLs on one connection, and the certificates that live only there.

As with slots: random, the connection's own, the same one for the same name, dead when it ends. A transient
certificate exists until its id is released.
"""

import secrets
import threading

from hsmbridge.core.errors import LimitError, ResourceError, Status
from hsmbridge.core.identifiers import CryptoResourceId, QualifiedName, ResourceKind

NAMES_MAX = 65_536
"""Names that one connection may resolve."""

TRANSIENT_MAX = 1024
"""Transient certificates alive on one connection."""

TRANSIENT_BYTES_MAX = 8 * 1024 * 1024
"""Bytes of them all."""


class CertificateIds:
    """What the ids of one connection stand for. May be used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ids: dict[tuple[ResourceKind, QualifiedName], CryptoResourceId] = {}
        self._names: dict[int, tuple[ResourceKind, QualifiedName]] = {}
        self._transient: dict[int, tuple[bytes, ...]] = {}
        self._held = 0

    def named(self, kind: ResourceKind, name: QualifiedName) -> CryptoResourceId:
        """The id of a name, the same one every time. Raises LimitError (TOO_MANY_RESOURCES)."""
        with self._lock:
            known = self._ids.get((kind, name))
            if known is not None:
                return known
            if len(self._ids) >= NAMES_MAX:
                raise LimitError(
                    Status.TOO_MANY_RESOURCES, "This connection knows too many certificates; open another one."
                )
            number = self._fresh()
            self._names[number] = kind, name
            self._ids[kind, name] = CryptoResourceId(number, kind)
            return self._ids[kind, name]

    def name(self, resource: CryptoResourceId) -> QualifiedName:
        """The name behind an id. Raises ResourceError (RESOURCE_NOT_FOUND)."""
        kind, name = self._names.get(resource.number, (None, None))
        if name is None or kind is not resource.kind:
            raise _unknown()
        return name

    def hold(self, chain: tuple[bytes, ...]) -> CryptoResourceId:
        """The id of a new transient certificate with its chain. Raises LimitError (TOO_MANY_RESOURCES)."""
        size = sum(map(len, chain))
        with self._lock:
            if len(self._transient) >= TRANSIENT_MAX or self._held + size > TRANSIENT_BYTES_MAX:
                raise LimitError(
                    Status.TOO_MANY_RESOURCES, "This connection holds as many certificates as it may; release some."
                )
            number = self._fresh()
            self._transient[number] = chain
            self._held += size
            return CryptoResourceId(number, ResourceKind.CERTIFICATE)

    def transient(self, resource: CryptoResourceId) -> tuple[bytes, ...]:
        """A transient certificate with its chain. Raises ResourceError (RESOURCE_NOT_FOUND)."""
        chain = self._transient.get(resource.number) if resource.kind is ResourceKind.CERTIFICATE else None
        if chain is None:
            raise _unknown()
        return chain

    def release(self, resource: CryptoResourceId) -> None:
        """A transient certificate is not needed any more. Raises ResourceError (RESOURCE_NOT_FOUND)."""
        with self._lock:
            chain = self._transient.pop(resource.number, None)
            if chain is None:
                raise _unknown()
            self._held -= sum(map(len, chain))

    def close(self) -> None:
        """The connection ended."""
        with self._lock:
            for table in (self._ids, self._names, self._transient):
                table.clear()
            self._held = 0

    def _fresh(self) -> int:
        number = secrets.randbits(64)
        while number in self._names or number in self._transient:
            number = secrets.randbits(64)
        return number


def _unknown() -> ResourceError:
    return ResourceError(
        Status.RESOURCE_NOT_FOUND, "There is no such certificate on this connection, or it was released already."
    )
