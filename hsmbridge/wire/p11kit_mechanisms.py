"""Mechanisms on the p11-kit wire: which ones a client can use at all, and how their parameters are written.

A client refuses every mechanism that is not in its own lists without asking, so what may be advertised follows
from the client's version; so does the form, from the version that it offered.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple

from hsmbridge.wire.p11kit_bodies import ABSENT, U32, U64, BodyReader, malformed, string

Parameter = tuple[int | bytes, ...]
"""The fields of a mechanism's parameter, in the order of its struct."""


class Mechanism(NamedTuple):
    """A mechanism; `parameter` None is NULL."""

    type: int
    parameter: Parameter | None = None


RSA_KEY_PAIR_GEN: Final = 0x0

_PLAIN = frozenset(
    (
        *(0x0, 0xA, 0x1, 0x2, 0x3, 0xB, 0x4, 0x5, 0x6, 0x40, 0x41, 0x42, 0x7, 0x8, 0xC),  # RSA
        *(0x10, 0x2000, 0x11, 0x12, 0x1020, 0x1040, 0x1041, 0x1042),  # DSA, EC, ECDSA
        *(0x20, 0x2001, 0x30, 0x2002, 0x1010, 0x350),  # DH, KEA, generic secret
        *(0x100, 0x110, 0x111, 0x330, 0x1080, 0x1081, 0x1083),  # RC2, RC4, RC5, AES
        *(0x120, 0x130, 0x131, 0x140, 0x300, 0x310, 0x320, 0x340, 0x370, 0x374, 0x1000, 0x1030, 0x1060),  # generation
        *(0x101, 0x121, 0x132, 0x141, 0x301, 0x311, 0x321, 0x331, 0x341),  # ECB
        *(0x103, 0x123, 0x134, 0x143, 0x303, 0x313, 0x333, 0x343, 0x380, 0x381),  # MAC
        *(0x1008, 0x1036, 0x1065, 0x400),  # wrapping
        *(0x200, 0x201, 0x210, 0x211, 0x220, 0x221, 0x250, 0x251, 0x260, 0x261, 0x270, 0x271),  # digests and HMAC
        *(0x1070, 0x230, 0x231, 0x240, 0x241),
    )
)
_PLAIN_SINCE_1 = frozenset(
    (
        *(0x46, 0x1043, 0x1044, 0x1045, 0x1046, 0x108A, 0x138),  # SHA224-RSA, ECDSA with a hash, CMAC
        *(0x392, 0x255, 0x256, 0x396, 0x393, 0x394, 0x395),  # SHA-224, derivation by digests
        *(0x50, 0x51, 0x53, 0x48, 0x49, 0x4B, 0x4C, 0x4D, 0x4F),  # SHA-512/t
        *(0x80010001, 0x80010002, 0x80010003, 0x80010004, 0x80010007, 0x80010023),  # IBM
        *(0x80010025, 0x80010026, 0x80010027, 0x80010028, 0x8001001C, 0x8001001F),
    )
)

# u: CK_ULONG, b: bytes, y: one byte
_PSS, _OAEP = "uuu", "uuub"
_PARAMETERS_0 = {0xD: _PSS, 0x9: _OAEP}
_PARAMETERS_1 = _PARAMETERS_0 | {
    **dict.fromkeys((0xE, 0x47, 0x43, 0x44, 0x45), _PSS),
    **dict.fromkeys((0x1050, 0x8001001B, 0x8001001E), "ubb"),  # ECDH1_DERIVE: kdf, shared data, public data
    **dict.fromkeys((0x1082, 0x1085, 0x2104, 0x2108, 0x2106, 0x2105, 0x2107, 0x1089), "b"),  # AES: IV
    0x1086: "ub",  # AES_CTR: counter bits, block
    0x1087: "bubu",  # AES_GCM: IV, its bits, AAD, tag bits
    **dict.fromkeys((0x122, 0x125, 0x133, 0x136, 0x153, 0x152, 0x150), "b"),  # DES: IV
    **dict.fromkeys((0x222, 0x257, 0x252, 0x262, 0x272, 0x4A, 0x4E), "u"),  # HMAC_GENERAL: bytes of the MAC
    **dict.fromkeys((0x1084, 0x108B, 0x135, 0x137), "u"),  # MAC_GENERAL
    0x21: "b",  # DH_PKCS_DERIVE
    0x80020004: "u",  # IBM_ATTRIBUTEBOUND_WRAP
}
_PARAMETERS_2 = _PARAMETERS_1 | {0x80010031: "u", 0x80070001: "uubu", 0x80010024: "uuuybbu"}  # IBM

_PARAMETERS: Sequence[Mapping[int, str]] = (
    MappingProxyType(_PARAMETERS_0),
    MappingProxyType(_PARAMETERS_1),
    MappingProxyType(_PARAMETERS_2),
)
_PLAINS: Sequence[frozenset[int]] = (_PLAIN, _PLAIN | _PLAIN_SINCE_1, _PLAIN | _PLAIN_SINCE_1)

USABLE: Sequence[frozenset[int]] = tuple(
    plain | frozenset(parameters) for plain, parameters in zip(_PLAINS, _PARAMETERS, strict=True)
)
"""By the version that a client offers, the mechanisms that it lets its application use."""


def takes_parameter(offered: int, type_: int) -> bool:
    """Whether a mechanism is written with a parameter, or at least the place of one."""
    return type_ not in _PLAINS[min(offered, 2)]


def read_mechanism(reader: BodyReader, offered: int, *, cancels: bool = False, after: int = 0) -> Mechanism | None:
    """A mechanism (M), or None for a NULL pointer. Raises WireError.

    Args:
        reader: stands before it.
        offered: the version that the client offered; the form follows from it.
        cancels: a NULL mechanism has a meaning in this call, and mechanism 0 has none.
        after: bytes of the arguments that follow, to tell a NULL mechanism from mechanism 0.
    """
    type_ = reader.u32()
    if type_ == ABSENT:
        return None
    if cancels and type_ == RSA_KEY_PAIR_GEN and reader.left == after:
        # 0.25.0 to 0.25.2 write NULL so.
        return None
    version = min(offered, 2)
    if version == 2:
        if type_ in _PLAINS[2]:
            return Mechanism(type_)
        if not reader.byte():
            return Mechanism(type_)
    form = _PARAMETERS[version].get(type_)
    if form is not None:
        return Mechanism(type_, tuple([_read_field(reader, kind) for kind in form]))
    octets = reader.string()
    return Mechanism(type_, None if octets is None or type_ in _PLAINS[version] else (octets,))


def _read_field(reader: BodyReader, kind: str) -> int | bytes:
    match kind:
        case "u":
            return reader.u64()
        case "y":
            return reader.byte()
        case _:
            return reader.string() or b""


def write_mechanism(mechanism: Mechanism | None, offered: int) -> bytes:
    """A mechanism as a client that offers a version writes it; for tests and other clients."""
    if mechanism is None:
        return U32(ABSENT)
    version = min(offered, 2)
    type_, parameter = mechanism
    head = U32(type_)
    if version == 2:
        if type_ in _PLAINS[2]:
            return head
        if parameter is None:
            return head + b"\0"
        head += b"\1"
    if parameter is None or type_ in _PLAINS[version]:
        return head + U32(ABSENT)
    form = _PARAMETERS[version].get(type_, "b")
    if len(form) != len(parameter):
        raise malformed("a mechanism's parameter has another number of fields")
    return head + b"".join([_write_field(kind, value) for kind, value in zip(form, parameter, strict=True)])


def _write_field(kind: str, value: int | bytes) -> bytes:
    if isinstance(value, bytes):
        return string(value)
    return bytes([value]) if kind == "y" else U64(value)
