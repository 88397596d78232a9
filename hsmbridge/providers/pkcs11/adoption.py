"""Keys on the token that somebody else made: found by a PKCS#11 URI (RFC 7512), and left where they are.

A URI names exactly one private or secret key, by CKA_ID, CKA_LABEL or both. What the key may be used for is what its
attributes say. Keys of hsmbridge's own are refused: a slot has them, or a sweep removes them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pkcs11 import Attribute, Certificate, Object, ObjectClass, Session
from pkcs11.exceptions import PKCS11Error

from hsmbridge.core.calls import ForeignKey, KeyTarget, TokenIdentity
from hsmbridge.core.errors import ProviderError, RequestError, Status
from hsmbridge.core.key_types import KEY_TYPES, Family, KeyType
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.core.permissions import permission_names, permissions_from_bits
from hsmbridge.core.pkcs11_uri import parse_uri
from hsmbridge.providers.pkcs11.making import curve_parameters
from hsmbridge.providers.pkcs11.objects import (
    Place,
    Sought,
    class_of,
    find_at,
    is_ours,
    list_objects,
    public_halves,
    public_key_hash,
)
from hsmbridge.providers.pkcs11.parameter_sets import MODULE_LATTICE_AND_HASH, PARAMETER_SETS
from hsmbridge.providers.pkcs11.public_keys import is_of_type, told_public_key
from hsmbridge.providers.pkcs11.templates import Template, meant

_TYPES: Mapping[str | None, frozenset[int]] = MappingProxyType(
    {
        None: frozenset({int(ObjectClass.PRIVATE_KEY), int(ObjectClass.SECRET_KEY)}),
        "private": frozenset({int(ObjectClass.PRIVATE_KEY)}),
        "secret-key": frozenset({int(ObjectClass.SECRET_KEY)}),
    }
)
_CKK_GENERIC_SECRET = 0x10
_USES: tuple[tuple[Attribute, P], ...] = (
    (Attribute.SIGN, P.SIGN),
    (Attribute.VERIFY, P.VERIFY),
    (Attribute.ENCRYPT, P.ENCRYPT),
    (Attribute.DECRYPT, P.DECRYPT),
    (Attribute.WRAP, P.WRAP),
    (Attribute.UNWRAP, P.UNWRAP),
    (Attribute.DERIVE, P.DERIVE),
    (Attribute.ENCAPSULATE, P.ENCAPSULATE),
    (Attribute.DECAPSULATE, P.DECAPSULATE),
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a URI names."""

    template: Template
    classes: frozenset[int]


@dataclass(frozen=True, slots=True)
class Found:
    """A key that is there.

    Attributes:
        permissions: what the token lets it be used for.
        public_key: SubjectPublicKeyInfo in DER, or b"" for secret keys.
        has_public: a public object stands beside the private one.
    """

    row: KeyType
    permissions: P
    public_key: bytes
    has_public: bool
    place: Place

    def foreign_key(self) -> ForeignKey:
        return ForeignKey(self.row.name, int(self.permissions), self.public_key, self.place.label)


def wanted(uri: str, token: TokenIdentity) -> Wanted:
    """What to look for.

    Raises:
        RequestError: INVALID_ARGUMENT where the URI is none, or names no key.
        ProviderError: WRONG_TOKEN where it names another token.
    """
    try:
        parsed = parse_uri(uri)
    except RequestError as problem:
        raise RequestError(Status.INVALID_ARGUMENT, problem.message) from None
    told = ((parsed.token, token.label), (parsed.serial, token.serial), (parsed.model, token.model))
    if any(said not in {None, is_} for said, is_ in (*told, (parsed.manufacturer, token.manufacturer))):
        raise ProviderError(
            Status.WRONG_TOKEN,
            f"The URI names another token than {token.label!r} (serial {token.serial!r}); choose its provider.",
        )
    if parsed.type not in _TYPES:
        raise RequestError(
            Status.INVALID_ARGUMENT, "Only keys are adopted: write type=private or type=secret-key in the URI."
        )
    if not parsed.id and not parsed.object:
        raise RequestError(Status.INVALID_ARGUMENT, "Name one key on the token, by id=..., by object=... or by both.")
    template: Template = {}
    if parsed.id:
        template[Attribute.ID] = parsed.id
    if parsed.object:
        template[Attribute.LABEL] = parsed.object
    return Wanted(template, _TYPES[parsed.type])


def find(session: Session, what: Wanted) -> Found:
    """The one key that is wanted.

    Raises:
        ProviderError: KEY_MATERIAL_MISSING where there is none.
        RequestError: INVALID_ARGUMENT where there are several, or it is one of ours; NOT_SUPPORTED for a key that
            cannot be used from here.
    """
    fitting = [item for item in list_objects(session, what.template) if class_of(item) in what.classes]
    if not fitting:
        raise ProviderError(
            Status.KEY_MATERIAL_MISSING, "There is no such private or secret key on the token; check id and object."
        )
    if len(fitting) > 1:
        raise RequestError(
            Status.INVALID_ARGUMENT,
            f"{len(fitting)} keys on the token fit this URI; name one by its id, or by id, object and type together.",
        )
    item = fitting[0]
    if is_ours(item):
        raise RequestError(Status.INVALID_ARGUMENT, "hsmbridge made this key itself; it belongs to a slot already.")
    if not _true(item, Attribute.TOKEN):
        raise RequestError(Status.INVALID_ARGUMENT, "This key is a session object, which will be gone.")
    return _examined(session, item)


def again(session: Session, sought: Sought) -> Found | None:
    """What is to be said now of a key that was adopted, or None where it is not there any more."""
    if sought.place is None:
        return None
    found = find_at(session, sought.place, sought.row)
    item = found.private or found.secret
    return None if item is None else _examined(session, item)


def check_target(found: Found, target: KeyTarget) -> None:
    """Raises RequestError: KEY_TYPE_MISMATCH, INVALID_PERMISSIONS where the key cannot be what is asked for."""
    if found.row.name != target.key_type:
        raise RequestError(
            Status.KEY_TYPE_MISMATCH, f"The key on the token is of type {found.row.name}, not {target.key_type}."
        )
    lacking = permissions_from_bits(target.permissions) & ~(found.permissions | P.GENERATE)
    if lacking:
        raise RequestError(
            Status.INVALID_PERMISSIONS,
            f"The token does not let this key {', '.join(permission_names(lacking))}; it can"
            f" {', '.join(permission_names(found.permissions)) or 'do nothing here'}.",
        )


def _examined(session: Session, item: Object) -> Found:
    if _true(item, Attribute.ALWAYS_AUTHENTICATE):
        raise RequestError(
            Status.NOT_SUPPORTED,
            "This key wants its PIN before each use (CKA_ALWAYS_AUTHENTICATE); it cannot be adopted.",
        )
    row = _row_of(item)
    place = Place(object_class=class_of(item) or 0, id=_id_of(item), label=_label_of(item))
    if not place.id and not place.label:
        raise RequestError(
            Status.INVALID_ARGUMENT, "This key has neither id nor label, so it could not be found again."
        )
    permissions = _allowed(item) | _export(item)
    if row.symmetric:
        return Found(row, permissions & meant(row), b"", has_public=False, place=place)
    public, info = _public_half(session, item, row, place)
    if public is not None:
        permissions |= _allowed(public)
    place = Place(
        object_class=place.object_class, id=place.id, label=place.label, public_key_hash=public_key_hash(info)
    )
    return Found(row, permissions & meant(row), info, has_public=public is not None, place=place)


def _public_half(session: Session, item: Object, row: KeyType, place: Place) -> tuple[Object | None, bytes]:
    """The public object and what it says; without one, what the private key or a certificate tells."""
    told = told_public_key(row, item)
    halves = list(public_halves(session, place, row))
    for public, info in halves:
        if told in {None, info}:
            if told is None and len({other for _, other in halves}) > 1:
                break
            return public, info
    if told is None:
        told = _certified(session, row, place)
    if told is None:
        raise RequestError(
            Status.INVALID_ARGUMENT,
            "The token does not tell the public half of this key; put its public key or certificate beside it, under"
            " the same id.",
        )
    return None, told


def _certified(session: Session, row: KeyType, place: Place) -> bytes | None:
    if not place.id:
        return None
    for item in list_objects(session, {Attribute.ID: place.id, Attribute.CLASS: ObjectClass.CERTIFICATE}):
        if not isinstance(item, Certificate):
            continue
        try:
            key = x509.load_der_x509_certificate(bytes(item[Attribute.VALUE])).public_key()
        except (PKCS11Error, ValueError):
            continue
        info = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        if is_of_type(row, info):
            return info
    return None


def _row_of(item: Object) -> KeyType:
    """The row of a key. Raises RequestError (NOT_SUPPORTED) where the table has none."""
    try:
        kind = int(item[Attribute.KEY_TYPE])
        fitting = [row for row in KEY_TYPES.values() if _fits(item, row, kind)]
    except (PKCS11Error, ValueError, NotImplementedError):
        fitting = []
    if not fitting:
        raise RequestError(
            Status.NOT_SUPPORTED, "The token has this key, but it is of a type that hsmbridge does not know."
        )
    return fitting[0]


def _fits(item: Object, row: KeyType, kind: int) -> bool:
    if row.symmetric:
        # hsmbridge's HMAC keys are generic secrets of any length; a foreign key keeps the type that its token says.
        return row.ckk == kind and int(item[Attribute.VALUE_LEN]) == row.bytes
    if row.ckk != kind:
        return False
    if row.family is Family.RSA:
        return int.from_bytes(bytes(item[Attribute.MODULUS])).bit_length() == row.bits
    if row.family in MODULE_LATTICE_AND_HASH:
        return int(item[Attribute.PARAMETER_SET]) == PARAMETER_SETS[row.name]
    return bytes(item[Attribute.EC_PARAMS]) == curve_parameters(row)


def _allowed(item: Object) -> P:
    given = P.NONE
    for attribute, permission in _USES:
        if _true(item, attribute):
            given |= permission
    return given


def _export(item: Object) -> P:
    """A key that only a trusted wrapping key takes out is none that ours can."""
    leaves = _true(item, Attribute.EXTRACTABLE) and not _true(item, Attribute.WRAP_WITH_TRUSTED)
    return P.EXPORT if leaves else P.NONE


def _true(item: Object, attribute: Attribute) -> bool:
    try:
        return bool(item[attribute])
    except PKCS11Error:
        return False  # an object of this class has none


def _id_of(item: Object) -> bytes:
    try:
        return bytes(item[Attribute.ID])
    except PKCS11Error:
        return b""


def _label_of(item: Object) -> str:
    try:
        return str(item[Attribute.LABEL])
    except (PKCS11Error, UnicodeDecodeError):
        return ""
