"""The SSH agent codec under whatever comes: what was written is read again, and nothing but WireError comes out."""

import contextlib
import struct
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from hsmbridge.core.errors import WireError
from hsmbridge.frontends.ssh_agent.sessions import Sessions
from hsmbridge.wire.ssh_agent import (
    MESSAGE_MAX,
    DataReader,
    MessageReader,
    SessionBinding,
    SignRequest,
    decode_request,
    decode_session_binding,
    mpint,
    string,
)

SHORT = st.binary(max_size=64)


def pieces(stream: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    return [stream[start:end] for start, end in pairwise(places)]


@given(st.lists(st.binary(min_size=1, max_size=200), max_size=10), st.lists(st.integers(0, 5000), max_size=10))
def test_messages_survive_any_cutting(messages: list[bytes], cuts: list[int]) -> None:
    reader = MessageReader()
    read = [message for piece in pieces(b"".join(map(string, messages)), cuts) for message in reader.feed(piece)]
    assert read == messages
    assert not reader.unfinished


@given(st.lists(st.binary(max_size=300), max_size=10))
def test_a_reader_never_keeps_more_than_a_message_and_fails_once_and_for_all(stream: list[bytes]) -> None:
    reader = MessageReader()
    failed = False
    for piece in stream:
        try:
            assert all(1 <= len(message) <= MESSAGE_MAX for message in reader.feed(piece))
            assert not failed
        except WireError:
            failed = True
            assert not reader.unfinished


@given(SHORT, SHORT, st.integers(0, 2**32 - 1))
def test_a_sign_request_is_read_as_it_was_written(key: bytes, data: bytes, flags: int) -> None:
    message = b"\x0d" + string(key) + string(data) + struct.pack(">I", flags)
    assert decode_request(message) == SignRequest(key, data, flags)
    for end in range(1, len(message)):
        with contextlib.suppress(WireError):
            decode_request(message[:end])
            raise AssertionError("a part of a message was taken for a message")


@given(st.binary(max_size=300) | st.sampled_from([b"\x0d", b"\x1b", b"\x0b"]).flatmap(lambda b: SHORT.map(b.__add__)))
def test_any_message_is_read_or_refused(message: bytes) -> None:
    with contextlib.suppress(WireError):
        decode_request(message)


@given(SHORT, SHORT, SHORT, st.booleans())
def test_any_binding_is_read_and_none_is_accepted_without_its_hosts_signature(
    host_key: bytes, session: bytes, signature: bytes, forwarding: bool
) -> None:
    contents = string(host_key) + string(session) + string(signature) + bytes([forwarding])
    binding = decode_session_binding(contents)
    assert binding == SessionBinding(host_key, session, signature, forwarding)
    sessions = Sessions()
    assert not sessions.bind(binding)
    assert sessions.forwarded == forwarding


@given(
    st.sampled_from([b"ssh-ed25519", b"ssh-rsa", b"ecdsa-sha2-nistp256", b"ssh-ed25519-cert-v01@openssh.com"]),
    st.lists(SHORT, max_size=4),
    SHORT,
)
def test_host_keys_and_signatures_of_any_content_are_refused(
    kind: bytes, fields: list[bytes], signature: bytes
) -> None:
    host_key = string(kind) + b"".join(map(string, fields))
    assert not Sessions().bind(SessionBinding(host_key, b"session", string(kind) + string(signature), False))


@given(st.integers(0, 2**600))
def test_a_number_is_read_as_it_was_written_and_never_negative(number: int) -> None:
    value = DataReader(mpint(number)).string()
    assert int.from_bytes(value, "big", signed=True) == number
    assert not value.startswith(b"\0") or value[1] >= 0x80
