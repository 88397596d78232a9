"""What there is to be seen: tokens and objects, asked of the service only when something may have changed.

Shared by all connections of this front end. A listing belongs to a principal and is kept as long as the change
stamp of the store stays the same, and for a second at the most, as the service itself does.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from hsmbridge.core import messages as m
from hsmbridge.core.errors import HsmBridgeError, Status
from hsmbridge.frontends.asking import Asking, ask
from hsmbridge.frontends.p11kit.anchors import anchor_objects
from hsmbridge.frontends.p11kit.certificates import CertificateObject, certificate_object
from hsmbridge.frontends.p11kit.numbers import Cka
from hsmbridge.frontends.p11kit.objects import KeyObject, PkcsObject, matches, objects_of
from hsmbridge.frontends.p11kit.settings import TokenView
from hsmbridge.frontends.p11kit.tokens import Token, tokens_of
from hsmbridge.wire.p11kit_attributes import Attribute

MAX_AGE: Final = 1.0
"""Seconds that something is believed although no change was announced."""

_PRINCIPALS: Final = 256
_CERTIFICATES: Final = 4096
"""Certificates that are remembered, so that lists of them need not carry them."""


class Listing:
    """The objects that one principal sees."""

    __slots__ = ("_by_id", "_by_label", "objects", "stamp", "until")

    def __init__(self, objects: Sequence[PkcsObject], stamp: bytes, until: float) -> None:
        self.objects = objects
        self.stamp = stamp
        self.until = until
        self._by_label: dict[bytes, list[PkcsObject]] = {}
        self._by_id: dict[bytes, list[PkcsObject]] = {}
        for one in objects:
            self._by_label.setdefault(one.label, []).append(one)
            self._by_id.setdefault(one.id, []).append(one)

    def find(self, template: Sequence[Attribute], offered: int) -> list[PkcsObject]:
        """The objects that match a template; label and id lead to them at once."""
        among: Sequence[PkcsObject] = self.objects
        for type_, value in template:
            if type_ == Cka.LABEL and isinstance(value, bytes):
                among = self._by_label.get(value, [])
            elif type_ == Cka.ID and isinstance(value, bytes):
                among = self._by_id.get(value, [])
        return [one for one in among if matches(one, template, offered)]


class _Anchors(NamedTuple):
    """The objects of a trust store, as of a generation of it."""

    created: float
    generation: int
    objects: tuple[PkcsObject, ...]


class Directory:
    """Tokens and listings."""

    def __init__(
        self,
        view: TokenView,
        stamp: Callable[[], bytes],
        clock: Callable[[], float],
        trust_stores: Sequence[str] = (),
    ) -> None:
        """Nothing is asked yet.

        Args:
            view: how providers are shown.
            stamp: a value that differs after any change of the store.
            clock: in seconds.
            trust_stores: NAMESPACE/NAME of those whose anchors are shown to whom may see them.
        """
        self.stamp = stamp
        self._view = view
        self._clock = clock
        self._trust_stores = trust_stores
        self._anchors: dict[str, _Anchors] = {}
        self._listings: dict[str, Listing] = {}
        self._ders: dict[tuple[str, float, int], bytes] = {}
        self._tokens: tuple[Token, ...] = ()
        self._tokens_until = 0.0

    def tokens(self) -> Asking[tuple[Token, ...]]:
        """The tokens, as of now or a moment ago."""
        if self._clock() >= self._tokens_until:
            reply = yield from ask(m.ProvidersRequest(), m.ProvidersReply)
            self._tokens = tokens_of(reply.providers, self._view)
            self._tokens_until = self._clock() + MAX_AGE
        return self._tokens

    def listing(self, principal: str) -> Asking[Listing]:
        """What a principal sees now."""
        known = self._listings.get(principal)
        stamp, now = self.stamp(), self._clock()
        if known is not None and known.stamp == stamp and now < known.until:
            return known
        reply = yield from ask(m.SlotListRequest(), m.SlotListReply)
        keys = [one for slot in reply.slots for one in objects_of(slot, principal)]
        certificates = yield from self._certificates(keys, principal)
        anchors = yield from self._trusted()
        objects: list[PkcsObject] = [*keys, *certificates, *anchors]
        listing = Listing(objects, stamp, now + MAX_AGE)
        self._listings.pop(principal, None)
        if len(self._listings) >= _PRINCIPALS:
            del self._listings[next(iter(self._listings))]
        self._listings[principal] = listing
        return listing

    def _certificates(self, keys: Sequence[KeyObject], principal: str) -> Asking[list[CertificateObject]]:
        reply = yield from ask(m.CertListRequest(), m.CertListReply)
        by_version = _by_version(keys)
        found = []
        for info in reply.certificates:
            one = yield from self._certificate(info, by_version, principal)
            if one is not None:
                found.append(one)
        return found

    def _certificate(
        self, info: m.CertInfo, keys: Mapping[tuple[str, int], KeyObject], principal: str
    ) -> Asking[CertificateObject | None]:
        known = (info.name, info.created, info.generation)
        der = self._ders.get(known)
        if der is None:
            try:
                info = yield from ask(m.CertShowRequest(info.name), m.CertInfo)
            except HsmBridgeError as failure:
                if failure.status is Status.RESOURCE_NOT_FOUND:
                    return None
                raise
            known = (info.name, info.created, info.generation)
            if len(self._ders) >= _CERTIFICATES:
                del self._ders[next(iter(self._ders))]
            der = self._ders[known] = info.chain[0].certificate
        return certificate_object(info, der, principal, keys)

    def _trusted(self) -> Asking[list[PkcsObject]]:
        found: list[PkcsObject] = []
        for name in self._trust_stores:
            try:
                info = yield from ask(m.TrustShowRequest(name), m.TrustInfo)
            except HsmBridgeError as failure:
                # One that was tampered with is believed by nobody, and keeps nobody from their keys; doctor tells.
                if failure.status in (Status.RESOURCE_NOT_FOUND, Status.STORE_TAMPERED):
                    continue
                raise
            known = self._anchors.get(name)
            if known is None or (known.created, known.generation) != (info.created, info.generation):
                known = self._anchors[name] = _Anchors(info.created, info.generation, tuple(anchor_objects(info)))
            found += known.objects
        return found

    def again(self, one: PkcsObject, principal: str) -> Asking[PkcsObject | None]:
        """An object as it is now, or None where it is gone."""
        if not one.origin.slot:
            listing = yield from self.listing(principal)
            found = (other for other in listing.objects if other.kind is one.kind and other.origin == one.origin)
            return next(found, None)
        try:
            slot = yield from ask(m.SlotShowRequest(one.origin.slot), m.SlotInfo)
        except HsmBridgeError as failure:
            if failure.status is Status.RESOURCE_NOT_FOUND:
                return None
            raise
        for other in objects_of(slot, principal):
            if other.kind is one.kind and other.origin == one.origin:
                return other
        return None


def _by_version(keys: Iterable[KeyObject]) -> dict[tuple[str, int], KeyObject]:
    return {(one.origin.slot, one.origin.version): one for one in keys}
