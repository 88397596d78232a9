"""C_FindObjects and the attributes of objects. Nothing here reaches a provider."""

from dataclasses import dataclass
from typing import Final

from hsmbridge.core import messages as m
from hsmbridge.frontends.asking import Answer, ask, nothing
from hsmbridge.frontends.p11kit.numbers import Cka, Cko, Ckr
from hsmbridge.frontends.p11kit.objects import KEPT_ATTRIBUTES, KeyObject, PkcsObject, matches
from hsmbridge.frontends.p11kit.refusals import Refused
from hsmbridge.frontends.p11kit.state import Active, Application
from hsmbridge.wire.p11kit_attributes import Attribute, AttributeKind, AttributeRoom, kind_of, memory_size

_CLASSES: Final = frozenset(set(Cko) - {Cko.DATA})
_FOUND_MAX: Final = 1024
"""Handles in one reply of C_FindObjects."""


@dataclass(slots=True, eq=False)
class Search:
    """A search under way: the handles that were not given yet."""

    left: list[int]

    @property
    def size(self) -> int:
        """Nothing that counts."""
        return 0


class Finding:
    """One method a function of PKCS#11."""

    def __init__(self, application: Application) -> None:
        """`application`: whose calls these are."""
        self._application = application

    def find_objects_init(self, handle: int, template: tuple[Attribute, ...]) -> Answer:
        """The whole search is done here; what changes later does not change what was found."""
        application = self._application
        session = application.session(handle)
        if Active.FIND in session.operations:
            raise Refused(Ckr.OPERATION_ACTIVE)
        search = Search([])
        session.operations[Active.FIND] = search
        try:
            wanted = dict(template)
            if wanted.get(Cka.CLASS, Cko.PUBLIC_KEY) not in _CLASSES:
                return ()
            found = [(one, b"") for one in application.session_objects() if matches(one, template, application.offered)]
            if wanted.get(Cka.TOKEN, 1) != 0:
                listing = yield from application.directory.listing(application.principal)
                found += [(one, listing.stamp) for one in listing.find(template, application.offered)]
            trusted = application.trusted(session)
            search.left = [
                application.handle(one, stamp)
                for one, stamp in found
                if session.token.holds(one.provider) and (trusted or not one.private) and not application.hidden(one)
            ]
            search.left.reverse()
        except BaseException:
            session.operations.pop(Active.FIND, None)
            raise
        return ()

    def find_objects(self, handle: int, most: int | None) -> Answer:
        """The next handles."""
        yield from nothing()
        search = self._search(handle)
        count = min(most or 0, _FOUND_MAX, len(search.left))
        return ([search.left.pop() for _ in range(count)],)

    def find_objects_final(self, handle: int) -> Answer:
        """The search is over."""
        yield from nothing()
        self._search(handle)
        del self._application.session(handle).operations[Active.FIND]
        return ()

    def _search(self, handle: int) -> Search:
        search = self._application.session(handle).operations.get(Active.FIND)
        if not isinstance(search, Search):
            raise Refused(Ckr.OPERATION_NOT_INITIALIZED)
        return search

    def get_attribute_value(self, handle: int, object_handle: int, rooms: tuple[AttributeRoom, ...]) -> Answer:
        """Each attribute by itself: its value, or that it is secret, unknown or too long for its buffer."""
        application = self._application
        session = application.session(handle)
        one = yield from application.live(session, object_handle, Ckr.OBJECT_HANDLE_INVALID)
        answers = []
        worst = Ckr.OK
        for wanted in rooms:
            answer, ckr = _attribute(one, wanted, application.offered)
            answers.append(answer)
            worst = worst or ckr
        return answers, int(worst)

    def get_object_size(self, handle: int, object_handle: int) -> Answer:
        """What the attributes take, roughly."""
        application = self._application
        session = application.session(handle)
        one = yield from application.live(session, object_handle, Ckr.OBJECT_HANDLE_INVALID)
        return (sum(_size(type_, one, application.offered) for type_ in one.attributes),)

    def set_attribute_value(self, handle: int, object_handle: int, template: tuple[Attribute, ...]) -> Answer:
        """Label, id and subject of a key; any other attribute may only be set to what it is already."""
        application = self._application
        session = application.session(handle)
        one = yield from application.live(session, object_handle, Ckr.OBJECT_HANDLE_INVALID)
        changes: dict[int, bytes] = {}
        for attribute in template:
            if attribute.type not in one.attributes:
                raise Refused(Ckr.ATTRIBUTE_TYPE_INVALID)
            if matches(one, (attribute,), application.offered):
                continue
            if attribute.type not in KEPT_ATTRIBUTES or not isinstance(one, KeyObject):
                raise Refused(Ckr.ATTRIBUTE_READ_ONLY)
            if not isinstance(attribute.value, bytes):
                raise Refused(Ckr.ATTRIBUTE_VALUE_INVALID)
            changes[attribute.type] = attribute.value
        if not changes or not isinstance(one, KeyObject):
            return ()
        if not one.on_token:
            application.renew(one, changes)
            return ()
        if not session.writes:
            raise Refused(Ckr.SESSION_READ_ONLY)
        yield from ask(m.SlotAttributesRequest(one.origin.slot, changes), m.SlotInfo)
        return ()


def _attribute(one: PkcsObject, wanted: AttributeRoom, offered: int) -> tuple[Attribute, Ckr]:
    value = one.attributes.get(wanted.type)
    if value is None:
        ckr = Ckr.ATTRIBUTE_SENSITIVE if one.is_secret(wanted.type) else Ckr.ATTRIBUTE_TYPE_INVALID
        return Attribute(wanted.type, None), ckr
    if wanted.room and wanted.room < _size(wanted.type, one, offered):
        return Attribute(wanted.type, None), Ckr.BUFFER_TOO_SMALL
    return Attribute(wanted.type, value), Ckr.OK


def _size(type_: int, one: PkcsObject, offered: int) -> int:
    kind: AttributeKind = kind_of(offered, type_)
    return memory_size(one.attributes[type_], kind)
