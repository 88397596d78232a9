"""The p11-kit parser: every call in every version, and the stream that carries them in any pieces."""

import struct

from hsmbridge.core.errors import WireError
from hsmbridge.wire.p11kit import HANDSHAKE, MAX_OPTIONS, Argument, CallReader, _decode_any, decode_call
from hsmbridge.wire.p11kit_attributes import (
    MAX_ATTRIBUTES,
    Attribute,
    kind_of,
    memory_size,
    read_template,
    write_template,
)
from hsmbridge.wire.p11kit_bodies import BodyReader, string
from hsmbridge.wire.p11kit_calls import CALLS, Call
from hsmbridge.wire.p11kit_mechanisms import USABLE, Mechanism, read_mechanism, write_mechanism
from tests.fuzz.pieces import pieces, uncut
from tests.fuzz.target import Reader, Target

VERSIONS = (0, 1, 2, 255)
MAX_BODY = 1024
TEMPLATE = (
    Attribute(0x0, 3),
    Attribute(0x3, b"label"),
    Attribute(0x108, 1),
    Attribute(0x110, b"20260101"),
    Attribute(0x102, None),
    Attribute(0x40000600, (0x1041, 0x40)),
    Attribute(0x40000211, (Attribute(0x162, 0), Attribute(0x40000212, (Attribute(0x100, 0x1F),)))),
)
MECHANISMS = (
    None,
    Mechanism(0x1041),
    Mechanism(0x250),
    Mechanism(0xD, (0x250, 2, 32)),
    Mechanism(0x9, (0x250, 2, 1, b"label")),
    Mechanism(0x1087, (b"n" * 12, 96, b"aad", 128)),
    Mechanism(0x1050, (1, b"", b"\x04" + bytes(64))),
    Mechanism(0x1085, (bytes(16),)),
)
ROOMS = struct.pack(">I4I", 2, 0x102, 256, 0x40000211, 0)
# One value of each type of argument; templates and mechanisms differ between versions.
ARGUMENTS = {
    "y": b"\1",
    "u": struct.pack(">Q", 1),
    "s": string(b"label"),
    "z": string(b"label"),
    "ay": b"\1" + string(HANDSHAKE),
    "fy": struct.pack(">I", 512),
    "au": b"\1" + struct.pack(">IQQ", 2, 1, 2),
    "fu": struct.pack(">I", 16),
}


def _written(token: str, offered: int, mechanism: Mechanism | None) -> bytes:
    match token:
        case "M":
            return write_mechanism(mechanism, offered)
        case "aA":
            return write_template(TEMPLATE, offered)
        case "fA":
            return ROOMS
        case _:
            return ARGUMENTS[token]


def _mechanisms(offered: int) -> list[Mechanism | None]:
    return [one for one in MECHANISMS if one is None or one.type in USABLE[offered]]


def _bodies(offered: int) -> list[bytes]:
    return [
        call.request_head + b"".join(_written(token, offered, mechanism) for token in call.arguments)
        for call in CALLS.values()
        if call.since <= offered
        for mechanism in (_mechanisms(offered) if "M" in call.arguments else [None])
    ]


def read_call(data: bytes) -> tuple[Call, tuple[Argument, ...]]:
    """A body, behind the version; the quick ways of decoding it must find what the slow one finds."""
    offered, body = VERSIONS[data[0] % 4] if data else 0, data[1:]
    return _same_in_every_way(body, offered)


def read_arguments(data: bytes) -> tuple[Call, tuple[Argument, ...]]:
    """The arguments of a call, behind the version and its number, so that its signature is always right."""
    offered, number = data[:1] or b"\0", data[1:2] or b"\1"
    call = CALLS[1 + number[0] % len(CALLS)]
    return _same_in_every_way(call.request_head + data[2:], VERSIONS[offered[0] % 4])


def _same_in_every_way(body: bytes, offered: int) -> tuple[Call, tuple[Argument, ...]]:
    try:
        slowly = _decode_any(body, offered)
    except WireError:
        found = decode_call(body, offered)
        raise AssertionError(f"read quickly, and not slowly: {found}") from None
    assert decode_call(body, offered) == slowly
    call, arguments = slowly
    assert len(arguments) == len(call.arguments)
    for token, value in zip(call.arguments, arguments, strict=True):
        if token == "aA":
            _comes_back(value, offered)
    return slowly


def _comes_back(template: Argument, offered: int) -> None:
    assert isinstance(template, tuple)
    attributes = [one for one in template if isinstance(one, Attribute)]
    assert len(attributes) == len(template) <= MAX_ATTRIBUTES
    for one in attributes:
        if one.value is not None:
            assert memory_size(one.value, kind_of(offered, one.type)) >= 0
    reader = BodyReader(write_template(attributes, offered))
    assert read_template(reader, offered) == template
    assert not reader.left


def read_one_mechanism(data: bytes) -> Mechanism | None:
    """A mechanism, behind the version, and back again."""
    offered = VERSIONS[data[0] % 4] if data else 0
    mechanism = read_mechanism(BodyReader(data[1:]), offered)
    again = read_mechanism(BodyReader(write_mechanism(mechanism, offered)), offered)
    assert again == mechanism
    return mechanism


def read_stream(data: bytes) -> int:
    """Frames, in pieces; what is kept is bounded, and once broken is broken for good."""
    reader = CallReader(MAX_BODY)
    frames = 0
    for piece in pieces(data):
        try:
            found = reader.feed(piece)
        except WireError:
            assert not reader.unfinished
            reader.feed(bytes(64))
            raise AssertionError("a broken stream was read on") from None
        frames += len(found)
        assert all(len(one.body) <= MAX_BODY and one.code for one in found)
        assert len(reader._buffer) < 12 + MAX_OPTIONS + MAX_BODY
    return frames


def _frame(body: bytes) -> bytes:
    return struct.pack(">III", 16, 6, len(body)) + b"client" + body


_VERSIONED = [(place, body) for place, offered in enumerate(VERSIONS[:3]) for body in _bodies(offered)]
_STREAM = b"\2" + b"".join(_frame(body) for body in _bodies(0)[:12])

TARGET = Target(
    (
        Reader("call", read_call, [bytes([place]) + body for place, body in _VERSIONED]),
        Reader(
            "arguments",
            read_arguments,
            [bytes([place, body[3] - 1]) + body[8 + body[7] :] for place, body in _VERSIONED],
        ),
        Reader(
            "mechanism",
            read_one_mechanism,
            [bytes([place]) + write_mechanism(one, place) for place in range(3) for one in _mechanisms(place)],
        ),
        Reader("stream", read_stream, [uncut(_STREAM), uncut(_STREAM[:40])]),
    )
)
