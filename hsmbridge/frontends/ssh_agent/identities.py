"""The keys that a caller has in SSH, and their certificates, found among the slots that the service shows it.

Shared by all connections of this front end. What a principal sees is kept as long as the change stamp of the store
stays the same, and for a second at the most, as the service itself does.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

import structlog

from hsmbridge.core import messages as m
from hsmbridge.core.identifiers import default_namespace
from hsmbridge.core.key_types import KeyType, key_type
from hsmbridge.core.lifecycle import KeyVersionState
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.frontends.asking import Asking, ask
from hsmbridge.frontends.ssh_agent.algorithms import public_key_blob, ways_of
from hsmbridge.frontends.ssh_agent.certificates import ATTRIBUTE, UserCertificate, read_certificate
from hsmbridge.wire.ssh_agent import Identity

_log = structlog.get_logger(__name__)

MAX_AGE: Final = 1.0
"""Seconds that something is believed although no change was announced."""

_PRINCIPALS: Final = 256
_BLOBS: Final = 4096
_CERTIFICATES: Final = 1024


@dataclass(frozen=True, slots=True)
class AgentKey:
    """A key version that SSH could use.

    Attributes:
        slot: NAMESPACE/NAME.
        version: its number.
        row: the key type.
        blob: the public key as SSH encodes it.
        comment: what people call it.
        offered: the caller may sign with it, as far as one can see without trying.
        newest: the slot has no other version that signs, so that asking it cannot use another key.
        certificate: that the slot keeps for this key, or None.
    """

    slot: str
    version: int
    row: KeyType
    blob: bytes
    comment: str
    offered: bool
    newest: bool
    certificate: UserCertificate | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """What one principal sees.

    Attributes:
        identities: what it may sign with, in the order of the slots; a certificate stands before its key.
        keys: by public key and by certificate, those that are only seen among them.
    """

    identities: Sequence[Identity]
    keys: Mapping[bytes, AgentKey]
    stamp: bytes
    until: float


class Identities:
    """The listings of all principals."""

    def __init__(
        self,
        patterns: Sequence[str],
        stamp: Callable[[], bytes],
        clock: Callable[[], float],
        today: Callable[[], float] = time.time,
    ) -> None:
        """Prepare to list keys.

        Args:
            patterns: which slots are looked at; none is all.
            stamp: a value that differs after any change of the store.
            clock: seconds, never going back.
            today: seconds since 1970, for certificates.
        """
        self._patterns = tuple(patterns)
        self._stamp = stamp
        self._clock = clock
        self._today = today
        self._listings: dict[str, Listing] = {}
        self._blobs: dict[bytes, bytes | None] = {}
        self._certificates: dict[bytes, UserCertificate | None] = {}

    def listing(self, principal: str) -> Asking[Listing]:
        """What a principal sees now."""
        known = self._listings.get(principal)
        stamp, now = self._stamp(), self._clock()
        if known is not None and known.stamp == stamp and now < known.until:
            return known
        reply = yield from ask(m.SlotListRequest(), m.SlotListReply)
        listing = self._read(reply.slots, principal, stamp, now + MAX_AGE)
        self._listings.pop(principal, None)
        if len(self._listings) >= _PRINCIPALS:
            del self._listings[next(iter(self._listings))]
        self._listings[principal] = listing
        return listing

    def _read(self, slots: Iterable[m.SlotInfo], principal: str, stamp: bytes, until: float) -> Listing:
        keys: dict[bytes, AgentKey] = {}
        for slot in slots:
            for key in self._keys(slot, principal):
                # Several slots may hold one key: the first that may sign answers for it.
                known = keys.get(key.blob)
                if known is None or (key.offered and not known.offered):
                    keys[key.blob] = key
        identities: list[Identity] = []
        certified: dict[bytes, AgentKey] = {}
        today = self._today()
        for key in keys.values():
            comment, certificate = key.comment.encode(), key.certificate
            if certificate is not None and certificate.holds(today):
                certified[certificate.blob] = key
                if key.offered:
                    identities.append(Identity(certificate.blob, comment))
            if key.offered:
                identities.append(Identity(key.blob, comment))
        return Listing(identities, keys | certified, stamp, until)

    def _keys(self, slot: m.SlotInfo, principal: str) -> Iterator[AgentKey]:
        row = key_type(slot.key_type)
        ways = ways_of(row)
        if not ways or not self._is_wanted(slot.name):
            return
        granted = any(
            entry.principal == principal and P.SIGN in P(entry.permissions) & P(slot.permissions)
            for entry in slot.access
        )
        allowed = not slot.algorithms or any(way.algorithm in slot.algorithms for way in ways)
        signing = {version.number for version in slot.versions if version.state == KeyVersionState.ACTIVE}
        namespace, _, name = slot.name.rpartition("/")
        comment = name if namespace == default_namespace(principal) else slot.name
        certificate = self._certificate(slot)
        for version in slot.versions:
            blob = self._blob(version.public_key)
            if blob is None:
                continue
            active = version.number in signing
            offered = active and granted and allowed and not version.unavailable and P.SIGN in P(version.permissions)
            newest = active or not signing
            own = certificate if certificate is not None and certificate.key == blob else None
            yield AgentKey(slot.name, version.number, row, blob, comment, offered, newest, own)

    def _is_wanted(self, name: str) -> bool:
        return not self._patterns or any(fnmatchcase(name, pattern) for pattern in self._patterns)

    def _blob(self, spki: bytes) -> bytes | None:
        if not spki:
            return None
        if spki not in self._blobs:
            if len(self._blobs) >= _BLOBS:
                del self._blobs[next(iter(self._blobs))]
            self._blobs[spki] = public_key_blob(spki)
        return self._blobs[spki]

    def _certificate(self, slot: m.SlotInfo) -> UserCertificate | None:
        kept = slot.attributes.get(ATTRIBUTE)
        if kept is None:
            return None
        if kept not in self._certificates:
            if len(self._certificates) >= _CERTIFICATES:
                del self._certificates[next(iter(self._certificates))]
            try:
                self._certificates[kept] = read_certificate(kept)
            except ValueError as problem:
                _log.warning("a slot's SSH certificate is not offered", slot=slot.name, reason=str(problem))
                self._certificates[kept] = None
        return self._certificates[kept]
