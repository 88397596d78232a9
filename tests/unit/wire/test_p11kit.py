"""The p11-kit wire: what Debian's client really sends, the forms of newer clients, and what is refused."""

import struct

import pytest

from hsmbridge.core.errors import Status, WireError
from hsmbridge.wire.p11kit import (
    HANDSHAKE,
    CallReader,
    Needed,
    VersionNumber,
    agreed_version,
    decode_call,
    encode_failure,
    encode_result,
)
from hsmbridge.wire.p11kit_attributes import MAX_DEPTH, Attribute, AttributeRoom, write_template
from hsmbridge.wire.p11kit_calls import CALLS
from hsmbridge.wire.p11kit_mechanisms import USABLE, Mechanism

BY_NAME = {call.name: call for call in CALLS.values()}

# Sent by p11-kit-client.so 0.24.1 for `pkcs11-tool --sign -m RSA-PKCS-PSS`.
RECORDED = {
    "C_Initialize": (
        (
            "000000010000000561797961790100000029505249564154452d474e4f4d452d4b455952494e472d504b435331312d50524f544f43"
            "4f4c2d562d3100010000000100"
        ),
        (HANDSHAKE, 0, b"\0"),
    ),
    "C_GetSlotList": ("00000004000000037966750000000003", (0, 3)),
    "C_OpenSession": ("0000000a00000002757500000000000000010000000000000004", (1, 4)),
    "C_FindObjectsInit": (
        "0000001a000000037561410000000000000001000000020000000001000000080000000000000003000001020100000002000000020b01",
        (1, (Attribute(0, 3), Attribute(0x102, b"\x0b\x01"))),
    ),
    "C_FindObjects": ("0000001b00000003756675000000000000000100000001", (1, 1)),
    "C_SignInit": (
        (
            "0000002a00000003754d7500000000000000010000000d00000000000002500000000000000002000000000000002000000000"
            "00000001"
        ),
        (1, Mechanism(0xD, (0x250, 2, 32)), 1),
    ),
    "C_GetAttributeValue": (
        "00000018000000047575664100000000000000010000000000000001000000010000020200000001",
        (1, 1, (AttributeRoom(0x202, 1),)),
    ),
    "C_Sign": (
        (
            "0000002b000000057561796679000000000000000101000000205891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e8"
            "46f6be0300000200"
        ),
        (1, bytes.fromhex("5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"), 512),
    ),
    "C_Finalize": ("0000000200000000", ()),
}


def frame(body: bytes, code: int = 16, options: bytes = b"client") -> bytes:
    return struct.pack(">III", code, len(options), len(body)) + options + body


def body(name: str, arguments: bytes = b"") -> bytes:
    call = BY_NAME[name]
    return struct.pack(">II", call.number, len(call.request)) + call.request.encode() + arguments


def u(number: int) -> bytes:
    return struct.pack(">Q", number)


@pytest.mark.parametrize("name", RECORDED)
def test_what_the_client_of_debian_sends_is_read(name: str) -> None:
    recorded, arguments = RECORDED[name]
    call, decoded = decode_call(bytes.fromhex(recorded), 0)
    assert call.name == name
    assert decoded == arguments


def test_replies_are_what_that_client_was_sent() -> None:
    sessions = encode_result(22, BY_NAME["C_OpenSession"], (1,), 0)
    assert sessions == frame(bytes.fromhex("0000000a00000001750000000000000001"), 22, b"")
    slots = encode_result(17, BY_NAME["C_GetSlotList"], (Needed(3),), 0)
    assert slots == frame(bytes.fromhex("000000040000000261750000000003"), 17, b"")
    found = encode_result(24, BY_NAME["C_FindObjects"], ([1],), 0)
    assert found == frame(bytes.fromhex("0000001b00000002617501000000010000000000000001"), 24, b"")
    value = encode_result(27, BY_NAME["C_GetAttributeValue"], ((Attribute(0x202, 0),), 0), 0)
    assert value == frame(bytes.fromhex("000000180000000361417500000001000002020100000001000000000000000000"), 27, b"")
    assert encode_failure(28, 0x82) == frame(struct.pack(">II", 0, 1) + b"u" + u(0x82), 28, b"")


def test_a_version_of_ours_is_two_bytes() -> None:
    call = BY_NAME["C_GetInfo"]
    told = (VersionNumber(2, 40), b"m" * 32, 0, b"l" * 32, VersionNumber(1, 2))
    assert encode_result(1, call, told, 0).endswith(
        b"\x02\x28" + struct.pack(">I", 32) + b"m" * 32 + u(0) + struct.pack(">I", 32) + b"l" * 32 + b"\x01\x02"
    )


@pytest.mark.parametrize(("offered", "answered"), [(0, 0), (1, 1), (2, 2), (3, 2), (255, 2)])
def test_the_version_answered_is_the_clients_up_to_ours(offered: int, answered: int) -> None:
    assert agreed_version(offered) == answered


def test_frames_come_in_any_pieces() -> None:
    stream = b"\x02" + frame(body("C_GetInfo"), 16) + frame(body("C_Finalize"), 17)
    reader = CallReader(1024)
    frames = [one for place in range(len(stream)) for one in reader.feed(stream[place : place + 1])]
    assert reader.offered == 2
    assert [one.code for one in frames] == [16, 17]
    assert not reader.unfinished
    assert CallReader(1024).feed(stream) == frames


@pytest.mark.parametrize(
    "header",
    [
        struct.pack(">III", 0, 0, 8),
        struct.pack(">III", 16, 4097, 8),
        struct.pack(">III", 16, 0, 1025),
        struct.pack(">III", 16, 0, 0xFFFFFFFF),
    ],
    ids=["no number", "options", "body", "largest body"],
)
def test_a_frame_beyond_the_limits_breaks_the_stream_at_its_header(header: bytes) -> None:
    reader = CallReader(1024)
    with pytest.raises(WireError):
        reader.feed(b"\0" + header)
    with pytest.raises(WireError):
        reader.feed(frame(body("C_GetInfo")))


# Calls


@pytest.mark.parametrize(
    ("malformed", "offered"),
    [
        (b"", 0),
        (struct.pack(">II", 90, 0), 2),
        (struct.pack(">II", 0, 1) + b"u" + u(5), 2),
        (struct.pack(">II", 3, 1) + b"u", 0),
        (struct.pack(">II", 3, 0xFFFFFFFF), 0),
        (body("C_GetSlotInfo", u(1) + b"x"), 0),
        (body("C_GetSlotInfo", u(1)[:-1]), 0),
        (body("C_SessionCancel", u(1) + u(0)), 0),
        (body("C_DeriveKey2", u(1) + struct.pack(">II", 0x350, 0xFFFFFFFF) + u(1) + struct.pack(">I", 0)), 1),
        (body("C_Sign", u(1) + b"\x01" + struct.pack(">I", 0x7FFFFFFF) + b"abc" + struct.pack(">I", 0)), 0),
        (body("C_FindObjectsInit", u(1) + struct.pack(">I", 0x10000000)), 0),
        (body("C_FindObjectsInit", u(1) + struct.pack(">I", 300) + b"\0\0\1\3\0" * 300), 0),
    ],
    ids=[
        "empty",
        "unknown call",
        "error as request",
        "other signature",
        "endless signature",
        "something after",
        "cut off",
        "call of version 1 in 0",
        "call of version 2 in 1",
        "long bytes",
        "many attributes",
        "too many attributes",
    ],
)
def test_a_body_that_does_not_follow_the_protocol_is_malformed(malformed: bytes, offered: int) -> None:
    with pytest.raises(WireError) as caught:
        decode_call(malformed, offered)
    assert caught.value.status is Status.MALFORMED_FRAME


@pytest.mark.parametrize("written", [b"\0" + struct.pack(">I", 7), b"\x01\xff\xff\xff\xff"])
def test_both_ways_to_write_null_bytes_are_null(written: bytes) -> None:
    _, arguments = decode_call(body("C_Login", u(1) + u(1) + written), 0)
    assert arguments == (1, 1, None)


@pytest.mark.parametrize(("room", "read"), [(0, None), (0xFFFFFFFF, 0), (5, 5)])
def test_room_for_an_answer_tells_no_buffer_from_an_empty_one(room: int, read: int | None) -> None:
    _, arguments = decode_call(body("C_SignFinal", u(1) + struct.pack(">I", room)), 1)
    assert arguments == (1, read)


# Attributes


def nested(depth: int) -> bytes:
    inner = struct.pack(">I", 0)
    for _ in range(depth):
        inner = struct.pack(">IIBI", 1, 0x40000211, 1, 24) + inner
    return inner


def test_templates_inside_templates_have_a_depth() -> None:
    decode_call(body("C_FindObjectsInit", u(1) + nested(MAX_DEPTH)), 2)
    for depth in (MAX_DEPTH + 1, 50_000):
        with pytest.raises(WireError):
            decode_call(body("C_FindObjectsInit", u(1) + nested(depth)), 2)


def test_the_length_of_a_number_is_that_of_the_clients_machine_and_says_nothing() -> None:
    of_32_bits = struct.pack(">IIBI", 1, 0x161, 1, 4) + u(32)
    _, arguments = decode_call(body("C_FindObjectsInit", u(1) + of_32_bits), 0)
    assert arguments == (1, (Attribute(0x161, 32),))


def test_types_that_came_with_a_version_are_bytes_before_it() -> None:
    octet = struct.pack(">IIBI", 1, 0x80010001, 1, 1) + b"\x01"
    octets = struct.pack(">IIBI", 1, 0x80010001, 1, 1) + struct.pack(">I", 1) + b"\x01"
    assert decode_call(body("C_FindObjectsInit", u(1) + octet), 1)[1] == (1, (Attribute(0x80010001, 1),))
    assert decode_call(body("C_FindObjectsInit", u(1) + octets), 0)[1] == (1, (Attribute(0x80010001, b"\x01"),))


def test_buffers_with_and_without_what_is_inside_a_nested_template() -> None:
    plain = struct.pack(">III", 1, 0x40000211, 48)
    with_inside = plain + struct.pack(">III", 1, 0x103, 1)
    rooms = (AttributeRoom(0x40000211, 48),)
    for offered, written in ((0, plain), (1, plain), (1, with_inside), (2, with_inside)):
        assert decode_call(body("C_GetAttributeValue", u(1) + u(2) + written), offered)[1] == (1, 2, rooms)


def test_a_reply_says_how_long_values_are_in_memory() -> None:
    template = (
        Attribute(0x100, 3),
        Attribute(0x103, 1),
        Attribute(0x3, b"web"),
        Attribute(0x110, b""),
        Attribute(0x40000600, (0x1041, 0x1087)),
        Attribute(0x11, None),
    )
    assert write_template(template, 0) == b"".join(
        (
            struct.pack(">I", 6),
            struct.pack(">IBI", 0x100, 1, 8) + u(3),
            struct.pack(">IBI", 0x103, 1, 1) + b"\x01",
            struct.pack(">IBI", 0x3, 1, 3) + struct.pack(">I", 3) + b"web",
            struct.pack(">IBI", 0x110, 1, 0) + b"\xff\xff\xff\xff",
            struct.pack(">IBI", 0x40000600, 1, 16) + struct.pack(">I", 2) + u(0x1041) + u(0x1087),
            struct.pack(">IB", 0x11, 0),
        )
    )


# Mechanisms

GCM = struct.pack(">I", 12) + b"n" * 12 + u(96) + struct.pack(">I", 1) + b"a" + u(128)


@pytest.mark.parametrize(
    ("offered", "written", "read"),
    [
        (0, struct.pack(">II", 0x1041, 0xFFFFFFFF), Mechanism(0x1041)),
        (1, struct.pack(">II", 0x1041, 0xFFFFFFFF), Mechanism(0x1041)),
        (2, struct.pack(">I", 0x1041), Mechanism(0x1041)),
        (1, struct.pack(">I", 0x1087) + GCM, Mechanism(0x1087, (b"n" * 12, 96, b"a", 128))),
        (2, struct.pack(">I", 0x1087) + b"\x01" + GCM, Mechanism(0x1087, (b"n" * 12, 96, b"a", 128))),
        (2, struct.pack(">I", 0x1087) + b"\0", Mechanism(0x1087)),
        (3, struct.pack(">I", 0x1087) + b"\0", Mechanism(0x1087)),
        (0, struct.pack(">I", 0xFFFFFFFF), None),
        (1, struct.pack(">I", 0), None),
        (2, struct.pack(">I", 0xFFFFFFFF), None),
        (0, struct.pack(">III", 0x4711, 2, 0x61620000)[:10], Mechanism(0x4711, (b"ab",))),
    ],
    ids=["0", "1", "2", "GCM 1", "GCM 2", "GCM 2 NULL", "newer", "NULL", "NULL of 0.25.0", "NULL 2", "unknown"],
)
def test_a_mechanism_has_the_form_of_the_version_that_the_client_offered(
    offered: int, written: bytes, read: Mechanism | None
) -> None:
    _, arguments = decode_call(body("C_EncryptInit", u(1) + written + u(9)), offered)
    assert arguments == (1, read, 9)


def test_mechanism_0_is_rsa_key_generation_where_keys_are_generated() -> None:
    written = struct.pack(">II", 0, 0xFFFFFFFF) + struct.pack(">I", 0) * 2
    assert decode_call(body("C_GenerateKeyPair", u(1) + written), 1)[1] == (1, Mechanism(0), (), ())


def test_what_a_client_can_use_grows_with_its_version() -> None:
    assert {0x1041, 0xD, 0x9, 0x250} <= USABLE[0]
    assert not {0x1087, 0x1050, 0x1044, 0x108A} & USABLE[0]
    assert {0x1087, 0x1050, 0x1044, 0x108A} <= USABLE[1] <= USABLE[2]
    assert not {0x1057, 0x1055, 0x2109, 0x17, 0x1D} & USABLE[2]
