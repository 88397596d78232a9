"""Objects on a token: found, listed and removed by CKA_ID.

Finding is what costs: tokens go through their objects one by one (SoftHSM takes 20 ms for 1,000), so callers keep
what they found.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
from pkcs11 import Attribute, Object, ObjectClass, PrivateKey, PublicKey, SecretKey, Session
from pkcs11.exceptions import ObjectHandleInvalid, PKCS11Error

from hsmbridge.core.errors import ProviderError, Status
from hsmbridge.core.identifiers import KEY_ID_LENGTH
from hsmbridge.core.key_types import KeyType
from hsmbridge.providers.pkcs11.public_keys import is_of_type, public_key_info, told_public_key
from hsmbridge.providers.pkcs11.templates import LABEL_PREFIX, Template

_CLASSES: tuple[tuple[type[Object], ObjectClass], ...] = (
    (PrivateKey, ObjectClass.PRIVATE_KEY),
    (PublicKey, ObjectClass.PUBLIC_KEY),
    (SecretKey, ObjectClass.SECRET_KEY),
)


@dataclass(slots=True)
class KeyObjects:
    """The objects of one key in one session."""

    private: Object | None = None
    public: Object | None = None
    secret: Object | None = None

    def usable(self, sought: "Sought") -> bool:
        """A public half alone is what a crash left of a key, unless no more was ever there."""
        return self.private is not None or self.secret is not None or (sought.public_only and self.public is not None)

    def destroy(self) -> None:
        """Remove them, the private half first."""
        for item in (self.private, self.secret, self.public):
            if item is not None:
                item.destroy()


class Place(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Where a key stands that somebody else made.

    Attributes:
        object_class: CKO_* of its private or secret object.
        id, label: CKA_ID and CKA_LABEL, as far as it has them.
        public_key_hash: SHA-256 of its SubjectPublicKeyInfo, so that no other key is used in its place.
    """

    object_class: int
    id: bytes
    label: str
    public_key_hash: bytes = b""


@dataclass(frozen=True, slots=True)
class Sought:
    """How a key is found.

    Attributes:
        key_id: what we call it; the CKA_ID of a key that we made.
        ephemeral: it lives in a session.
        public_only: only its public half was ever there.
        row: its key type.
        place: of a key that we did not make.
    """

    key_id: bytes
    row: KeyType
    ephemeral: bool = False
    public_only: bool = False
    place: Place | None = None


class Reference(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """A key's persistent form.

    Attributes:
        serial: of the token that the key was made on.
        has_public: a public object stands beside the private one.
        run: for an ephemeral key, which run of the provider made it; else empty.
        public_only: no private key was ever there.
        place: where the key of somebody else stands.
    """

    version: int = 1
    serial: str
    key_id: bytes
    key_type: str
    has_public: bool
    run: bytes = b""
    public_only: bool = False
    place: Place | None = None

    def sought(self, row: KeyType) -> Sought:
        return Sought(self.key_id, row, bool(self.run), self.public_only, self.place)


def find_key(session: Session, sought: Sought) -> KeyObjects:
    """The objects of a key, none where there are none.

    Raises:
        ProviderError: PROVIDER_FAILED where two objects of one class could be meant.
    """
    if sought.place is not None:
        return find_at(session, sought.place, sought.row)
    found = KeyObjects()
    for item in list_objects(session, {Attribute.ID: sought.key_id}):
        if isinstance(item, PrivateKey):
            twice, found.private = found.private is not None, item
        elif isinstance(item, PublicKey):
            twice, found.public = found.public is not None, item
        elif isinstance(item, SecretKey):
            twice, found.secret = found.secret is not None, item
        else:
            continue
        if twice:
            raise _twice()
    return found


def find_at(session: Session, place: Place, row: KeyType) -> KeyObjects:
    """The objects of a key that somebody else made, none where there are none or where another key stands now."""
    main = [item for item in list_objects(session, named(place)) if class_of(item) == place.object_class]
    if len(main) > 1:
        raise _twice()
    if not main:
        return KeyObjects()
    if place.object_class == ObjectClass.SECRET_KEY:
        return KeyObjects(secret=main[0])
    told = told_public_key(row, main[0])
    if told is not None and public_key_hash(told) != place.public_key_hash:
        return KeyObjects()
    for public, info in public_halves(session, place, row):
        if public_key_hash(info) == place.public_key_hash:
            return KeyObjects(private=main[0], public=public)
    return KeyObjects(private=main[0])


def public_halves(session: Session, place: Place, row: KeyType) -> Iterator[tuple[Object, bytes]]:
    """The public objects that may belong to a private one, each with its SubjectPublicKeyInfo."""
    by = {Attribute.ID: place.id} if place.id else {Attribute.LABEL: place.label}
    for item in list_objects(session, {**by, Attribute.CLASS: ObjectClass.PUBLIC_KEY}):
        try:
            info = public_key_info(row, item)
        except (PKCS11Error, ProviderError):
            continue  # of another type
        if is_of_type(row, info):
            yield item, info


def named(place: Place) -> Template:
    """A template for what has the place's id and label."""
    wanted: Template = {Attribute.ID: place.id} if place.id else {}
    if place.label:
        wanted[Attribute.LABEL] = place.label
    return wanted


def public_key_hash(info: bytes) -> bytes:
    """What a Place remembers of a public key."""
    return hashlib.sha256(info).digest()


def class_of(item: Object) -> int | None:
    """CKO_* of a key, or None for what is no key."""
    for kind, object_class in _CLASSES:
        if isinstance(item, kind):
            return int(object_class)
    return None


def remove_key(session: Session, key_id: bytes) -> None:
    """Remove every key object of ours with this CKA_ID, the private half first. None is fine."""
    mine = [item for item in list_objects(session, {Attribute.ID: key_id}) if is_ours(item)]
    for item in sorted(mine, key=lambda item: isinstance(item, PublicKey)):
        try:
            item.destroy()
        except ObjectHandleInvalid:
            continue  # somebody was faster


def list_key_ids(session: Session) -> list[bytes]:
    """The CKA_ID of every object on the token that is ours, each once, of half-made pairs too."""
    ids: dict[bytes, None] = {}
    for item in list_objects(session, {Attribute.TOKEN: True}):
        if is_ours(item):
            ids[bytes(item[Attribute.ID])] = None
    return [key_id for key_id in ids if len(key_id) == KEY_ID_LENGTH]


def list_objects(session: Session, template: Template) -> list[Object]:
    """Every object that fits."""
    # The generator keeps the search, and with it the session, until it is exhausted.
    return list(session.get_objects(template))


def _twice() -> ProviderError:
    return ProviderError(
        Status.PROVIDER_FAILED,
        "Two objects on the token have the id of this key; an administrator must remove the wrong one.",
    )


def is_ours(item: Object) -> bool:
    """Whether hsmbridge made it."""
    if class_of(item) is None:
        return False
    try:
        label: object = item[Attribute.LABEL]
    except UnicodeDecodeError:
        return False
    except ObjectHandleInvalid:
        return False  # removed since it was found
    return isinstance(label, str) and label.startswith(LABEL_PREFIX)
