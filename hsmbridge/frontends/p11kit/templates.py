"""What a template asks of a new key, and how much of it one key may have.

Clients ask for more than they need: RSA keys that sign and decrypt, AES keys that encrypt and wrap. With ATTENUATE
what would break key separation is left out and the attributes read back as they are; with REFUSE such a template is
inconsistent. What would make a key weaker than it was asked for is refused under both.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from hsmbridge.core.algorithms import ALGORITHMS, Algorithm
from hsmbridge.core.key_types import KEY_TYPES, Family, KeyType, Maturity
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.frontends.p11kit.numbers import Cka, Ckk, Cko, Ckr
from hsmbridge.frontends.p11kit.objects import PERMISSIONS
from hsmbridge.frontends.p11kit.public_keys import curve_of
from hsmbridge.frontends.p11kit.refusals import Refused
from hsmbridge.frontends.p11kit.settings import TemplatePolicy
from hsmbridge.frontends.p11kit.tokens import BESIDE
from hsmbridge.wire.p11kit_attributes import Attribute, AttributeValue

_EXPONENT: Final = 65537
_WRAPPING: Final = P.WRAP | P.UNWRAP
_BY_DEFAULT: Final[Mapping[Family, P]] = {
    Family.RSA: P.SIGN | P.VERIFY,
    Family.EC: P.SIGN | P.VERIFY,
    Family.AES: P.ENCRYPT | P.DECRYPT,
    Family.HMAC: P.SIGN | P.VERIFY,
    Family.SECRET: P.SIGN | P.VERIFY | P.DERIVE,
}
"""Uses of a key whose template names none."""

Template = Mapping[int, AttributeValue | None]


@dataclass(frozen=True, slots=True)
class Wanted:
    """A new key.

    Attributes:
        on_token: it is to last, in a slot.
        label, id, subject: CKA_LABEL, CKA_ID and CKA_SUBJECT; `id` None where none was given.
        permissions: what it gets.
        sign_and_decrypt: an RSA key gets both.
        algorithms: rows of CKA_ALLOWED_MECHANISMS; empty where there was none.
    """

    on_token: bool
    label: bytes
    id: bytes | None
    permissions: P
    sign_and_decrypt: bool = False
    algorithms: tuple[str, ...] = ()
    subject: bytes = b""


def table(template: Sequence[Attribute]) -> Template:
    """A template by type. Raises Refused (CKR_TEMPLATE_INCONSISTENT) where a type stands there twice."""
    found = dict(template)
    if len(found) != len(template):
        raise Refused(Ckr.TEMPLATE_INCONSISTENT)
    return found


def number(template: Template, type_: int) -> int | None:
    """A number of a template, or None. Raises Refused (CKR_ATTRIBUTE_VALUE_INVALID)."""
    value = template.get(type_)
    if value is None or isinstance(value, int):
        return value
    raise Refused(Ckr.ATTRIBUTE_VALUE_INVALID)


def octets(template: Template, type_: int) -> bytes | None:
    """Bytes of a template, or None. Raises Refused (CKR_ATTRIBUTE_VALUE_INVALID)."""
    value = template.get(type_)
    if value is None or isinstance(value, bytes):
        return value
    raise Refused(Ckr.ATTRIBUTE_VALUE_INVALID)


def required(template: Template, type_: int) -> bytes:
    """Bytes that must be there. Raises Refused (CKR_TEMPLATE_INCOMPLETE)."""
    value = octets(template, type_)
    if not value:
        raise Refused(Ckr.TEMPLATE_INCOMPLETE)
    return value


# Key types


def pair_type(key_gen: int, public: Template) -> KeyType:
    """The key type of a pair. Raises Refused."""
    if key_gen == KEY_TYPES["EC-P256"].key_gen:
        row = curve_of(required(public, Cka.EC_PARAMS))
        if row.family is not Family.EC:
            raise Refused(Ckr.ATTRIBUTE_VALUE_INVALID)
        return row
    bits = number(public, Cka.MODULUS_BITS)
    if bits is None:
        raise Refused(Ckr.TEMPLATE_INCOMPLETE)
    exponent = octets(public, Cka.PUBLIC_EXPONENT)
    if exponent and int.from_bytes(exponent, "big") != _EXPONENT:
        raise Refused(Ckr.ATTRIBUTE_VALUE_INVALID)
    return sized(Family.RSA, bits)


def secret_type(template: Template, ckk: int | None, size: int | None) -> KeyType:
    """The type of a secret key of so many bytes. Raises Refused."""
    given = number(template, Cka.KEY_TYPE)
    ckk = given if ckk is None else ckk
    if given is not None and given != ckk and not (ckk == Ckk.GENERIC_SECRET and given in _HMAC):
        raise Refused(Ckr.TEMPLATE_INCONSISTENT)
    if given in _HMAC:
        row = _HMAC[given]
        if size not in {None, row.bytes}:
            raise Refused(Ckr.KEY_SIZE_RANGE)
        return row
    if ckk is None or size is None:
        raise Refused(Ckr.TEMPLATE_INCOMPLETE)
    family = {int(Ckk.AES): Family.AES, int(Ckk.GENERIC_SECRET): Family.SECRET}.get(ckk)
    if family is None:
        raise Refused(Ckr.ATTRIBUTE_VALUE_INVALID)
    return sized(family, size * 8)


def sized(family: Family, bits: int) -> KeyType:
    """The key type of a family and a size. Raises Refused (CKR_KEY_SIZE_RANGE)."""
    for row in KEY_TYPES.values():
        if row.family is family and row.bits == bits:
            return row
    raise Refused(Ckr.KEY_SIZE_RANGE)


_HMAC: Final = {row.ckk: row for row in KEY_TYPES.values() if row.family is Family.HMAC}


# What it may do


def wanted(
    row: KeyType,
    templates: Mapping[Cko, Template],
    policy: TemplatePolicy,
    *,
    from_outside: bool = False,
    on_token: bool | None = None,
) -> Wanted:
    """What a new key is to be, from its template or the two of a pair.

    Args:
        row: its type.
        templates: by class.
        policy: what becomes of requests that go too far.
        from_outside: it is imported or unwrapped, and such keys never wrap others.
        on_token: instead of what the template says.

    Raises:
        Refused: CKR_TEMPLATE_INCONSISTENT and others.
    """
    main = templates.get(Cko.PRIVATE_KEY) or templates.get(Cko.SECRET_KEY) or templates.get(Cko.PUBLIC_KEY) or {}
    for kind, template in templates.items():
        _check(kind, row, template, policy)
    asked = _asked(row, templates)
    if number(main, Cka.WRAP_WITH_TRUSTED):
        # No wrapping key is trusted, so nothing may take this one out.
        asked &= ~P.EXPORT
    token = bool(number(main, Cka.TOKEN)) if on_token is None else on_token
    granted = asked & row.permissions
    if from_outside:
        granted &= ~_WRAPPING
    if (P.WRAP | P.DECRYPT) & granted == P.WRAP | P.DECRYPT or (P.UNWRAP | P.ENCRYPT) & granted == P.UNWRAP | P.ENCRYPT:
        granted &= ~_WRAPPING
    both = row.family is Family.RSA and (P.SIGN | P.DECRYPT) & granted == P.SIGN | P.DECRYPT
    if both and not token:
        granted &= ~(P.DECRYPT | P.ENCRYPT)
    if policy is TemplatePolicy.REFUSE and (granted != asked or both):
        raise Refused(Ckr.TEMPLATE_INCONSISTENT)
    label, subject = _first(templates, Cka.LABEL), _first(templates, Cka.SUBJECT)
    key_id = _first(templates, Cka.ID) or None
    return Wanted(token, label, key_id, granted, both and token, _algorithms(main, row), subject)


def _first(templates: Mapping[Cko, Template], type_: Cka) -> bytes:
    return next((found for found in (octets(one, type_) for one in _ordered(templates)) if found), b"")


def _asked(row: KeyType, templates: Mapping[Cko, Template]) -> P:
    """The uses that templates ask for; a half whose template names none gets what goes with the other half's."""
    asked, silent = P.NONE, []
    for kind, template in templates.items():
        named = False
        for attribute, permission in PERMISSIONS[kind].items():
            value = number(template, attribute)
            named = named or (value is not None and attribute != Cka.EXTRACTABLE)
            if value:
                asked |= permission
        if not named:
            silent.append(kind)
    if len(silent) == len(templates):
        return asked | _BY_DEFAULT.get(row.family, P.NONE) & _possible(templates)
    for kind in silent:
        for one, other in _COUNTERPARTS:
            if kind is Cko.PUBLIC_KEY and other in asked:
                asked |= one
            elif kind is Cko.PRIVATE_KEY and one in asked:
                asked |= other
    return asked


_COUNTERPARTS: Final = ((P.VERIFY, P.SIGN), (P.ENCRYPT, P.DECRYPT))
"""What the public half does, and the private one."""


def _ordered(templates: Mapping[Cko, Template]) -> list[Template]:
    """The private half's template first: it is the key."""
    return sorted(templates.values(), key=lambda one: one is not templates.get(Cko.PRIVATE_KEY))


def _possible(templates: Mapping[Cko, Template]) -> P:
    possible = P.NONE
    for kind in templates:
        for permission in PERMISSIONS[kind].values():
            possible |= permission
    return possible


def _check(kind: Cko, row: KeyType, template: Template, policy: TemplatePolicy) -> None:
    """Raises Refused for what cannot be had, whatever the policy, and for what only REFUSE minds."""
    if number(template, Cka.CLASS) not in {None, int(kind)}:
        raise Refused(Ckr.TEMPLATE_INCONSISTENT)
    if number(template, Cka.KEY_TYPE) not in {None, row.ckk}:
        raise Refused(Ckr.TEMPLATE_INCONSISTENT)
    if number(template, Cka.TRUSTED):
        # Only a security officer may say so, and there is none here.
        raise Refused(Ckr.ATTRIBUTE_READ_ONLY)
    if number(template, Cka.ALWAYS_AUTHENTICATE):
        raise Refused(Ckr.TEMPLATE_INCONSISTENT)
    for dated in (Cka.START_DATE, Cka.END_DATE):
        if octets(template, dated):
            raise Refused(Ckr.ATTRIBUTE_VALUE_INVALID)
    if policy is TemplatePolicy.REFUSE and kind is not Cko.PUBLIC_KEY and number(template, Cka.SENSITIVE) == 0:
        raise Refused(Ckr.TEMPLATE_INCONSISTENT)


def _algorithms(template: Template, row: KeyType) -> tuple[str, ...]:
    mechanisms = template.get(Cka.ALLOWED_MECHANISMS)
    if not isinstance(mechanisms, tuple) or not mechanisms:
        return ()
    fitting = [one for one in ALGORITHMS.values() if one.takes(row)]
    names = tuple(one.name for one in fitting if one.ckm in mechanisms or _served_beside(one, mechanisms))
    if not names:
        raise Refused(Ckr.ATTRIBUTE_VALUE_INVALID)
    return names


def copied_algorithms(template: Template, row: KeyType, algorithms: tuple[str, ...]) -> tuple[str, ...]:
    """The algorithms of a copy: those of its original, and of those the ones that its template names.

    Raises Refused (CKR_TEMPLATE_INCONSISTENT) where none is left.
    """
    named = _algorithms(template, row)
    if not named or not algorithms:
        return named or algorithms
    both = tuple(name for name in algorithms if name in named)
    if not both:
        raise Refused(Ckr.TEMPLATE_INCONSISTENT)
    return both


def _served_beside(row: Algorithm, mechanisms: tuple[int, ...]) -> bool:
    """Whether one of the mechanisms that take a digest stands for a row; what goes by name only needs its own."""
    return row.maturity is Maturity.CURRENT and not set(BESIDE.get(row.scheme, ())).isdisjoint(mechanisms)
