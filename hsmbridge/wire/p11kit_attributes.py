"""Attributes on the p11-kit wire: templates, and the buffers of C_GetAttributeValue.

How a value is encoded follows from the attribute's type alone, by the table below, which both sides must have
alike; a type that is not in it travels as plain bytes, numbers then in the byte order of the client's machine.
Nesting and counts are bounded before anything is allocated.
"""

from collections.abc import Mapping, Sequence
from enum import Enum, auto
from types import MappingProxyType
from typing import Final, NamedTuple

from hsmbridge.core.errors import WireError
from hsmbridge.wire.p11kit_bodies import ABSENT, U32, U64, BodyReader, malformed, string

MAX_ATTRIBUTES: Final = 256
"""In one template, those of nested ones included."""
MAX_DEPTH: Final = 4
"""Templates inside templates."""
MAX_MECHANISMS: Final = 1024
"""Of one CKA_ALLOWED_MECHANISMS."""


class AttributeKind(Enum):
    """How a value is encoded."""

    BYTE = auto()
    ULONG = auto()
    ATTRIBUTES = auto()
    MECHANISMS = auto()
    DATE = auto()
    BYTES = auto()


AttributeValue = int | bytes | tuple[int, ...] | tuple["Attribute", ...]
"""A number for BYTE and ULONG; bytes; mechanisms; a nested template."""


class Attribute(NamedTuple):
    """One attribute; `value` None stands for an ulValueLen of -1: not available, sensitive, or too long."""

    type: int
    value: AttributeValue | None


class AttributeRoom(NamedTuple):
    """One buffer of C_GetAttributeValue; `room` 0 asks for the size."""

    type: int
    room: int


_B, _U = AttributeKind.BYTE, AttributeKind.ULONG
# TOKEN PRIVATE TRUSTED; SENSITIVE ENCRYPT DECRYPT WRAP UNWRAP SIGN SIGN_RECOVER VERIFY VERIFY_RECOVER DERIVE;
# EXTRACTABLE LOCAL NEVER_EXTRACTABLE ALWAYS_SENSITIVE; MODIFIABLE COPYABLE; SECONDARY_AUTH ALWAYS_AUTHENTICATE
# WRAP_WITH_TRUSTED; RESET_ON_INIT HAS_RESET COLOR
_BYTE = (
    *(0x1, 0x2, 0x86),
    *range(0x103, 0x10D),
    *range(0x162, 0x166),
    *(0x170, 0x171, 0x200, 0x202, 0x210, 0x301, 0x302, 0x405),
)
# CLASS CERTIFICATE_TYPE CERTIFICATE_CATEGORY JAVA_MIDP_SECURITY_DOMAIN KEY_TYPE MODULUS_BITS PRIME_BITS
# SUB_PRIME_BITS VALUE_BITS VALUE_LEN KEY_GEN_MECHANISM AUTH_PIN_FLAGS HW_FEATURE_TYPE, displays, MECHANISM_TYPE
_ULONG = (
    *(0x0, 0x80, 0x87, 0x88, 0x100, 0x121, 0x133, 0x134, 0x160, 0x161, 0x166, 0x201, 0x300),
    *range(0x400, 0x405),
    *(0x406, 0x500),
)
_ALWAYS = {
    **dict.fromkeys(_BYTE, _B),
    **dict.fromkeys(_ULONG, _U),
    0x40000211: AttributeKind.ATTRIBUTES,  # WRAP_TEMPLATE
    0x40000212: AttributeKind.ATTRIBUTES,  # UNWRAP_TEMPLATE
    0x40000600: AttributeKind.MECHANISMS,  # ALLOWED_MECHANISMS
    0x110: AttributeKind.DATE,  # START_DATE
    0x111: AttributeKind.DATE,  # END_DATE
}
# From 0.25.0: DERIVE_TEMPLATE and vendor types of IBM; two more of them from 0.25.6.
_SINCE_1 = {
    0x40000213: AttributeKind.ATTRIBUTES,
    **dict.fromkeys((*range(0x80010001, 0x80010005), 0x80010008, 0x8001000C, 0x8001000D), _B),
    **dict.fromkeys((0x800D0001, 0x8001000A, 0x80010005), _U),
}
_SINCE_2 = dict.fromkeys((0x800D0101, 0x800D0009), _U)

KINDS: Sequence[Mapping[int, AttributeKind]] = (
    MappingProxyType(_ALWAYS),
    MappingProxyType(_ALWAYS | _SINCE_1),
    MappingProxyType(_ALWAYS | _SINCE_1 | _SINCE_2),
)
"""By the version that the client offered, the kinds of types that are not plain bytes."""


def kind_of(offered: int, type_: int) -> AttributeKind:
    """How a client that offered a version encodes the values of an attribute type."""
    return KINDS[min(offered, 2)].get(type_, AttributeKind.BYTES)


class _Budget:
    """What one message may still hold of attributes."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = MAX_ATTRIBUTES

    def spend(self, number: int) -> None:
        self.left -= number
        if self.left < 0:
            raise malformed(f"a template has more than {MAX_ATTRIBUTES} attributes")


def read_template(reader: BodyReader, offered: int) -> tuple[Attribute, ...]:
    """A template (aA). Raises WireError."""
    return _read_attributes(reader, KINDS[min(offered, 2)], _Budget(), 0)


def _read_attributes(
    reader: BodyReader, kinds: Mapping[int, AttributeKind], budget: _Budget, depth: int
) -> tuple[Attribute, ...]:
    if depth > MAX_DEPTH:
        raise malformed("templates are nested too deeply")
    number = reader.count(5, MAX_ATTRIBUTES)
    budget.spend(number)
    return tuple([_read_attribute(reader, kinds, budget, depth) for _ in range(number)])


def _read_attribute(reader: BodyReader, kinds: Mapping[int, AttributeKind], budget: _Budget, depth: int) -> Attribute:
    type_ = reader.u32()
    if not reader.byte():
        return Attribute(type_, None)
    # The length in the memory of the client's machine; what counts is the value.
    reader.u32()
    value: AttributeValue
    match kinds.get(type_, AttributeKind.BYTES):
        case AttributeKind.BYTE:
            value = reader.byte()
        case AttributeKind.ULONG:
            value = reader.u64()
        case AttributeKind.ATTRIBUTES:
            value = _read_attributes(reader, kinds, budget, depth + 1)
        case AttributeKind.MECHANISMS:
            value = tuple([reader.u64() for _ in range(reader.count(8, MAX_MECHANISMS))])
        case AttributeKind.DATE:
            value = reader.string() or b""
            if len(value) not in {0, 8}:
                raise malformed("a date has eight digits")
        case AttributeKind.BYTES:
            value = reader.string() or b""
    return Attribute(type_, value)


def read_rooms(reader: BodyReader, offered: int) -> tuple[AttributeRoom, ...]:
    """The buffers of C_GetAttributeValue (fA), which must end the body. Raises WireError.

    Of the clients that offer version 1 only some write what is inside a nested template, so both forms are tried.
    """
    if offered != 1:
        return _read_rooms(reader, _Budget(), 0, nested=offered >= 2)
    start = reader.place
    try:
        rooms = _read_rooms(reader, _Budget(), 0, nested=True)
    except WireError:
        reader.place = start
    else:
        if not reader.left:
            return rooms
        reader.place = start
    return _read_rooms(reader, _Budget(), 0, nested=False)


def _read_rooms(reader: BodyReader, budget: _Budget, depth: int, *, nested: bool) -> tuple[AttributeRoom, ...]:
    if depth > MAX_DEPTH:
        raise malformed("templates are nested too deeply")
    number = reader.count(8, MAX_ATTRIBUTES)
    budget.spend(number)
    rooms = []
    for _ in range(number):
        wanted = AttributeRoom(reader.u32(), reader.u32())
        rooms.append(wanted)
        if nested and wanted.room and KINDS[2].get(wanted.type) is AttributeKind.ATTRIBUTES:
            _read_rooms(reader, budget, depth + 1, nested=True)
    return tuple(rooms)


def memory_size(value: AttributeValue, kind: AttributeKind) -> int:
    """The bytes that a value takes in the memory of a 64-bit client."""
    match kind:
        case AttributeKind.BYTE:
            return 1
        case AttributeKind.ULONG:
            return 8
        case AttributeKind.ATTRIBUTES:
            return 24 * len(_sequence(value))
        case AttributeKind.MECHANISMS:
            return 8 * len(_sequence(value))
        case _:
            return len(_octets(value))


def write_template(attributes: Sequence[Attribute], offered: int) -> bytes:
    """A template (aA), for a client that offered a version."""
    kinds = KINDS[min(offered, 2)]
    return U32(len(attributes)) + b"".join([_write_attribute(attribute, kinds, offered) for attribute in attributes])


def _write_attribute(attribute: Attribute, kinds: Mapping[int, AttributeKind], offered: int) -> bytes:
    type_, value = attribute
    if value is None:
        return U32(type_) + b"\0"
    kind = kinds.get(type_, AttributeKind.BYTES)
    head = U32(type_) + b"\1" + U32(memory_size(value, kind))
    match kind:
        case AttributeKind.BYTE:
            return head + bytes([_number(value)])
        case AttributeKind.ULONG:
            return head + U64(_number(value))
        case AttributeKind.ATTRIBUTES:
            inner = [item for item in _sequence(value) if isinstance(item, Attribute)]
            return head + write_template(inner, offered)
        case AttributeKind.MECHANISMS:
            numbers = [item for item in _sequence(value) if isinstance(item, int)]
            return head + U32(len(numbers)) + b"".join(map(U64, numbers))
        case AttributeKind.DATE:
            octets = _octets(value)
            return head + (string(octets) if octets else U32(ABSENT))
        case AttributeKind.BYTES:
            return head + string(_octets(value))


def _number(value: AttributeValue) -> int:
    if not isinstance(value, int):
        raise TypeError("a number is expected")
    return value


def _octets(value: AttributeValue) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError("bytes are expected")
    return value


def _sequence(value: AttributeValue) -> "tuple[int, ...] | tuple[Attribute, ...]":
    if not isinstance(value, tuple):
        raise TypeError("a sequence is expected")
    return value
