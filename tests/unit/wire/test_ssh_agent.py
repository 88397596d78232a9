"""The SSH agent protocol, message by message, with the bytes of RFC 9987 and RFC 4251."""

import pytest

from hsmbridge.core.errors import Status, WireError
from hsmbridge.wire.ssh_agent import (
    EXTENSION_FAILURE,
    FAILURE,
    MESSAGE_MAX,
    SUCCESS,
    ExtensionRequest,
    Identity,
    MessageReader,
    OtherRequest,
    RequestIdentities,
    SessionBinding,
    SignRequest,
    decode_request,
    decode_session_binding,
    encode_extensions,
    encode_identities,
    encode_signature,
    mpint,
)


def test_messages_are_cut_out_of_whatever_pieces_come() -> None:
    stream = b"\0\0\0\1\x0b\0\0\0\2\x11!\0\0\0\1\x16"
    reader = MessageReader()
    assert [message for byte in stream for message in reader.feed(bytes([byte]))] == [b"\x0b", b"\x11!", b"\x16"]
    assert not reader.unfinished
    reader = MessageReader()
    assert reader.feed(stream + b"\0\0\0") == [b"\x0b", b"\x11!", b"\x16"]
    assert reader.unfinished


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"\0\0\0\0", Status.MALFORMED_FRAME),
        ((MESSAGE_MAX + 1).to_bytes(4, "big"), Status.FRAME_TOO_LARGE),
        (b"\xff\xff\xff\xff", Status.FRAME_TOO_LARGE),
    ],
)
def test_a_length_that_is_none_ends_the_stream_before_anything_is_collected(head: bytes, status: Status) -> None:
    reader = MessageReader()
    with pytest.raises(WireError) as refused:
        reader.feed(b"\0\0\0\1\x0b" + head)
    assert refused.value.status is status
    with pytest.raises(WireError, match="broken"):
        reader.feed(b"\0\0\0\1\x0b")


def test_the_longest_message_is_taken() -> None:
    message = bytes(MESSAGE_MAX)
    assert MessageReader().feed(MESSAGE_MAX.to_bytes(4, "big") + message) == [message]


def test_requests_are_read() -> None:
    assert decode_request(b"\x0b") == RequestIdentities()
    sign = b"\x0d\0\0\0\3key\0\0\0\4data\0\0\0\2"
    assert decode_request(sign) == SignRequest(b"key", b"data", 2)
    assert decode_request(b"\x1b\0\0\0\5queryrest") == ExtensionRequest(b"query", b"rest")
    for number in (0, 1, 5, 17, 18, 19, 20, 21, 22, 23, 25, 26, 255):
        assert decode_request(bytes([number]) + b"whatever") == OtherRequest(number)


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\x0b!",
        b"\x0d",
        b"\x0d\0\0\0\3key\0\0\0\4data",
        b"\x0d\0\0\0\3key\0\0\0\4data\0\0\0\2!",
        b"\x0d\xff\xff\xff\xffkey\0\0\0\4data\0\0\0\2",
        b"\x1b\0\0\0\6query",
    ],
)
def test_what_cannot_be_read_is_malformed(message: bytes) -> None:
    with pytest.raises(WireError) as refused:
        decode_request(message)
    assert refused.value.status is Status.MALFORMED_FRAME


def test_a_session_binding_is_read() -> None:
    contents = b"\0\0\0\4host\0\0\0\2id\0\0\0\3sig"
    assert decode_session_binding(contents + b"\1") == SessionBinding(b"host", b"id", b"sig", True)
    assert not decode_session_binding(contents + b"\0").forwarding
    for wrong in (contents, contents + b"\1!"):
        with pytest.raises(WireError):
            decode_session_binding(wrong)


def test_replies_are_written() -> None:
    assert FAILURE == b"\0\0\0\1\x05"
    assert SUCCESS == b"\0\0\0\1\x06"
    assert EXTENSION_FAILURE == b"\0\0\0\1\x1c"
    assert encode_identities(()) == b"\0\0\0\5\x0c\0\0\0\0"
    assert encode_identities([Identity(b"key", b"me")]) == b"\0\0\0\x12\x0c\0\0\0\1\0\0\0\3key\0\0\0\2me"
    assert encode_signature(b"sig") == b"\0\0\0\x08\x0e\0\0\0\3sig"
    assert encode_extensions([b"a"]) == b"\0\0\0\x0f\x1d\0\0\0\5query\0\0\0\1a"


def test_no_more_identities_are_told_than_fit_into_a_message() -> None:
    many = [Identity(bytes(1000), b"a comment")] * 1000
    reply = encode_identities(many)
    assert len(reply) <= 4 + MESSAGE_MAX
    count = int.from_bytes(reply[5:9], "big")
    assert len(reply) == 4 + 5 + count * (4 + 1000 + 4 + 9)
    assert len(reply) + 1017 > MESSAGE_MAX


@pytest.mark.parametrize(
    ("number", "encoded"),
    [
        (0, "00000000"),
        (0x9A378F9B2E332A7, "0000000809a378f9b2e332a7"),
        (0x80, "000000020080"),
        (0x7F, "000000017f"),
        (1 << 64, "00000009010000000000000000"),
    ],
)
def test_numbers_are_written_as_rfc_4251_says(number: int, encoded: str) -> None:
    assert mpint(number).hex() == encoded
