"""Whatever arrives on a stream, a frame reader yields the frames that were sent or raises its one error.

`suppress` marks the one class of errors that a decoder may raise; any other fails the test.
"""

from contextlib import suppress
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsmbridge.core import calls
from hsmbridge.core.errors import HsmBridgeError, Status, WireError
from hsmbridge.core.operations import OPERATIONS
from hsmbridge.wire import codec
from hsmbridge.wire.frames import BATCH, HEADER, HEADER_SIZE, REPLY, Frame, FrameReader, encode_frame

MAX_BODY = 4096

u16 = st.integers(0, 0xFFFF)
u32 = st.integers(0, 0xFFFF_FFFF)


@st.composite
def frames(draw: st.DrawFn, direction: int) -> tuple[int, int, int, int, bytes]:
    flags = direction | draw(st.sampled_from((0, BATCH)))
    return draw(u16), draw(u32), flags, draw(u32), draw(st.binary(max_size=300))


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


def seen(frame: Frame) -> tuple[int, int, int, int, bytes]:
    return frame.opcode, frame.request_id, frame.flags, frame.word, bytes(frame.body)


def drain(reader: FrameReader, chunks: list[bytes]) -> tuple[list[tuple[int, int, int, int, bytes]], Status | None]:
    collected = []
    try:
        for chunk in chunks:
            for frame in reader.feed(chunk):
                collected.append(seen(frame))  # noqa: PERF401 -- what came before a fault is kept
        reader.end()
    except WireError as fault:
        return collected, fault.status
    return collected, None


@given(st.data(), st.sampled_from((0, REPLY)), st.lists(st.integers(min_value=0), max_size=12))
def test_any_split_of_any_sequence_of_frames_yields_the_same_frames(
    data: st.DataObject, direction: int, cuts: list[int]
) -> None:
    sent = data.draw(st.lists(frames(direction), max_size=6))
    stream = b"".join(encode_frame(opcode, number, flags, word, body) for opcode, number, flags, word, body in sent)
    reader = FrameReader(MAX_BODY, replies=bool(direction))
    assert drain(reader, pieces(stream, cuts)) == (sent, None)
    assert reader.missing == 0


@given(st.data(), st.integers(min_value=0))
def test_a_stream_cut_anywhere_inside_a_frame_is_one_error_after_the_whole_frames(
    data: st.DataObject, cut: int
) -> None:
    sent = data.draw(st.lists(frames(0), min_size=1, max_size=4))
    encoded = [encode_frame(opcode, number, flags, word, body) for opcode, number, flags, word, body in sent]
    stream = b"".join(encoded)
    at = cut % len(stream)
    whole, length = 0, 0
    while length + len(encoded[whole]) <= at:
        length += len(encoded[whole])
        whole += 1
    expected = (sent[:whole], Status.MALFORMED_FRAME if at > length else None)
    assert drain(FrameReader(MAX_BODY), [stream[:at]]) == expected


@given(st.binary(max_size=3000), st.lists(st.integers(min_value=0), max_size=12))
def test_random_bytes_raise_the_one_error_or_wait_within_the_limit_however_they_are_split(
    noise: bytes, cuts: list[int]
) -> None:
    whole = drain(FrameReader(MAX_BODY), [noise])
    reader = FrameReader(MAX_BODY)
    assert drain(reader, pieces(noise, cuts)) == whole
    assert len(reader._buffer) <= MAX_BODY + HEADER_SIZE


@given(st.data(), st.lists(st.integers(min_value=0), max_size=12), st.integers(1, MAX_BODY))
def test_a_frame_that_is_skipped_leaves_the_others_as_they_are(data: st.DataObject, cuts: list[int], size: int) -> None:
    after = data.draw(st.lists(frames(0), max_size=4))
    cut = data.draw(st.integers(HEADER_SIZE, HEADER_SIZE + size - 1))
    skipped = encode_frame(2, 77, 0, 0, bytes(size))
    rest = skipped[cut:] + b"".join(encode_frame(*one) for one in after)
    reader = FrameReader(MAX_BODY)
    assert list(reader.feed(skipped[:cut])) == []
    assert reader.unfinished == (77, 2, size)
    reader.skip()
    assert reader.missing == HEADER_SIZE + size - cut
    assert drain(reader, pieces(rest, cuts)) == (after, None)


@given(st.integers(MAX_BODY + 1, 0xFFFF_FFFF), st.binary(max_size=200))
def test_a_length_past_the_limit_is_refused_at_the_header_and_nothing_is_kept(length: int, rest: bytes) -> None:
    reader = FrameReader(MAX_BODY)
    header = HEADER.pack(length, 1, 2, 0, 0)
    assert list(reader.feed(header[:15])) == []
    for chunk in (header[15:], rest, header):
        with pytest.raises(WireError) as refused:
            list(reader.feed(chunk))
        assert refused.value.status is Status.FRAME_TOO_LARGE
        assert len(reader._buffer) == 0


@given(st.sampled_from(sorted(OPERATIONS)) | u16, st.sampled_from((0, BATCH)), st.binary(max_size=500))
def test_decoding_a_request_of_random_bytes_raises_only_hsmbridge_errors(opcode: int, flags: int, body: bytes) -> None:
    frame = Frame(opcode, 1, flags, 0, body)
    for decode in (codec.decode_request, codec.decode_batch):
        with suppress(HsmBridgeError):
            decode(frame)


@given(st.sampled_from(sorted(OPERATIONS)) | u16, u32 | st.sampled_from(Status), st.binary(max_size=500))
def test_decoding_a_reply_of_random_bytes_raises_only_hsmbridge_errors(opcode: int, word: int, body: bytes) -> None:
    for decode, flags in ((codec.decode_reply, REPLY), (codec.decode_batch_reply, REPLY | BATCH)):
        with suppress(HsmBridgeError):
            decode(Frame(opcode, 1, flags, word, body))


msgpack_like = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=20) | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)


@given(st.sampled_from(sorted(OPERATIONS)), st.lists(msgpack_like, max_size=8))
def test_a_request_with_fields_of_any_type_and_value_raises_only_hsmbridge_errors(
    opcode: int, fields: list[object]
) -> None:
    body = msgspec.msgpack.encode(fields)
    for decode in (codec.decode_request, codec.decode_batch):
        with suppress(HsmBridgeError):
            decode(Frame(opcode, 1, 0, 0, body))


call_types = st.sampled_from(sorted(calls.REPLIES, key=lambda call: call.__name__))


@given(call_types, st.lists(msgpack_like, max_size=8) | st.binary(max_size=100))
def test_a_provider_call_with_fields_of_any_type_and_value_raises_only_hsmbridge_errors(
    call: type[calls.ProviderCall], fields: list[object] | bytes
) -> None:
    tag = call.__struct_config__.tag
    body = fields if isinstance(fields, bytes) else msgspec.msgpack.encode([tag, *fields])
    with suppress(HsmBridgeError):
        codec.decode_call(body)


@given(call_types, msgpack_like.map(msgspec.msgpack.encode) | st.binary(max_size=100))
def test_a_provider_reply_of_anything_raises_only_hsmbridge_errors(call: type[calls.ProviderCall], body: bytes) -> None:
    with suppress(WireError):
        codec.decode_call_reply(call, body)
