"""The p11-kit codec under whatever comes: what was written is read again, and nothing but WireError comes out."""

import contextlib
import struct

from hypothesis import given
from hypothesis import strategies as st

from hsmbridge.core.errors import WireError
from hsmbridge.frontends.p11kit.names import NAME_MAX, key_name, slot_name
from hsmbridge.frontends.p11kit.refusals import Refused
from hsmbridge.wire.p11kit import CallReader, decode_call
from hsmbridge.wire.p11kit_attributes import KINDS, Attribute, AttributeKind, kind_of, read_template, write_template
from hsmbridge.wire.p11kit_bodies import BodyReader
from hsmbridge.wire.p11kit_calls import CALLS, Call
from hsmbridge.wire.p11kit_mechanisms import USABLE, Mechanism, read_mechanism, write_mechanism

VERSIONS = st.integers(0, 2)
NUMBERS = st.integers(0, 2**64 - 1)
FIELDS: dict[str, st.SearchStrategy[int | bytes]] = {"b": st.binary(max_size=20), "u": NUMBERS}
FORMS = {0x9: "uuub", 0xD: "uuu", 0x1050: "ubb", 0x1086: "ub", 0x1087: "bubu", 0x1085: "b", 0x252: "u", 0x21: "b"}


@st.composite
def attributes(draw: st.DrawFn, offered: int, depth: int = 0) -> Attribute:
    type_ = draw(st.sampled_from(sorted(KINDS[offered])) | st.integers(0, 2**32 - 1))
    match kind_of(offered, type_):
        case AttributeKind.BYTE:
            return Attribute(type_, draw(st.none() | st.integers(0, 255)))
        case AttributeKind.ULONG:
            return Attribute(type_, draw(st.none() | NUMBERS))
        case AttributeKind.MECHANISMS:
            return Attribute(type_, tuple(draw(st.lists(NUMBERS, max_size=5))))
        case AttributeKind.DATE:
            return Attribute(type_, draw(st.sampled_from([b"", b"20260101"])))
        case AttributeKind.ATTRIBUTES:
            inner = [] if depth > 2 else draw(st.lists(attributes(offered, depth + 1), max_size=3))
            return Attribute(type_, tuple(inner))
        case _:
            return Attribute(type_, draw(st.none() | st.binary(max_size=40)))


@st.composite
def mechanisms(draw: st.DrawFn, offered: int) -> Mechanism:
    type_ = draw(st.sampled_from(sorted(USABLE[offered] & ({0x1, 0x1041, 0x250} | set(FORMS)))))
    form = FORMS.get(type_)
    if form is None:
        return Mechanism(type_)
    if offered == 2 and draw(st.booleans()):
        return Mechanism(type_)
    return Mechanism(type_, tuple(draw(FIELDS[kind]) for kind in form))


@given(st.data(), VERSIONS)
def test_a_template_is_read_as_it_was_written(data: st.DataObject, offered: int) -> None:
    template = tuple(data.draw(st.lists(attributes(offered), max_size=8)))
    reader = BodyReader(write_template(template, offered))
    assert read_template(reader, offered) == template
    assert not reader.left


@given(st.data(), VERSIONS)
def test_a_mechanism_is_read_as_it_was_written(data: st.DataObject, offered: int) -> None:
    mechanism = data.draw(mechanisms(offered))
    reader = BodyReader(write_mechanism(mechanism, offered))
    assert read_mechanism(reader, offered) == mechanism
    assert not reader.left


@given(st.binary(max_size=300), VERSIONS)
def test_any_bytes_are_a_call_or_malformed(octets: bytes, offered: int) -> None:
    with contextlib.suppress(WireError):
        decode_call(octets, offered)


@given(st.sampled_from(sorted(CALLS)), st.binary(max_size=200), VERSIONS)
def test_any_arguments_of_any_call_are_read_or_malformed(number: int, octets: bytes, offered: int) -> None:
    call = CALLS[number]
    header = struct.pack(">II", number, len(call.request)) + call.request.encode()
    try:
        found, arguments = decode_call(header + octets, offered)
    except WireError:
        return
    assert found is call
    assert len(arguments) == len(call.arguments)


@given(
    st.lists(st.tuples(st.integers(1, 2**32 - 1), st.binary(max_size=20), st.binary(max_size=60)), max_size=6),
    st.data(),
)
def test_frames_are_the_same_in_whatever_pieces_they_come(
    frames: list[tuple[int, bytes, bytes]], data: st.DataObject
) -> None:
    stream = b"\x02" + b"".join(
        struct.pack(">III", code, len(options), len(body)) + options + body for code, options, body in frames
    )
    reader, found = CallReader(64), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        found += reader.feed(stream[:size])
        stream = stream[size:]
    assert [tuple(one) for one in found] == [(code, body) for code, _, body in frames]
    assert not reader.unfinished


@given(st.lists(st.binary(max_size=100), max_size=8))
def test_any_stream_is_frames_or_broken_and_never_collected_beyond_the_limit(pieces: list[bytes]) -> None:
    reader = CallReader(50)
    try:
        for piece in pieces:
            for one in reader.feed(piece):
                assert len(one.body) <= 50
    except WireError:
        pass


@given(
    st.binary(max_size=30), st.none() | st.binary(min_size=1, max_size=10), st.sampled_from(["", "0a1b", "00112233"])
)
def test_label_and_id_are_in_the_name_of_a_slot(label: bytes, key_id: bytes | None, distinction: str) -> None:
    if not label and key_id is None and not distinction:
        return
    try:
        name = slot_name(label, key_id, distinction)
    except Refused:
        return
    assert len(name) <= NAME_MAX
    assert key_name(f"uid-0/{name}", "uid:0") == (label, key_id)
    assert key_name(f"uid-0/{name}", "uid:1") == (b"uid-0/" + label, key_id)


@given(
    st.sampled_from([call for call in CALLS.values() if call.request == "uayfy"]),
    NUMBERS,
    st.none() | st.binary(max_size=300),
    st.integers(0, 2**32 - 1),
    VERSIONS,
)
def test_a_call_that_carries_data_is_read_as_it_was_written(
    call: Call, session: int, carried: bytes | None, room: int, offered: int
) -> None:
    octets = b"\0" + bytes(4) if carried is None else b"\1" + struct.pack(">I", len(carried)) + carried
    body = call.request_head + struct.pack(">Q", session) + octets + struct.pack(">I", room)
    expected = None if room == 0 else 0 if room == 2**32 - 1 else room
    assert decode_call(body, offered) == (call, (session, carried, expected))
    for wrong in (body[:-1], body + b"x"):
        with contextlib.suppress(WireError):
            decode_call(wrong, offered)
            raise AssertionError("a body that is too short or too long was read")
