"""The native protocol: frames in pieces, and every message of the daemon, of its clients and of provider hosts."""

from collections.abc import Mapping

import msgspec

from hsmbridge.core import calls
from hsmbridge.core.errors import HsmBridgeError, WireError
from hsmbridge.core.operations import HELLO_OPCODE, OPERATIONS
from hsmbridge.wire import codec
from hsmbridge.wire.frames import BATCH, HEADER_SIZE, REPLY, Frame, FrameReader, encode_frame
from hsmbridge.wire.hello import hello, negotiate, read_hello
from tests.fuzz.pieces import pieces, uncut
from tests.fuzz.target import Reader, Target

MAX_BODY = 2048
OPCODES = sorted(OPERATIONS)
CALLS = sorted(calls.REPLIES, key=lambda call: call.__name__)


def read_stream(data: bytes) -> list[Frame]:
    """Frames in pieces; in one piece they are the same."""
    whole = _frames([data[8:]])
    assert _frames(pieces(data)) == whole
    if whole[1] is not None:
        raise whole[1]
    return [Frame(*one) for one in whole[0]]


def _frames(chunks: list[bytes]) -> tuple[list[tuple[int, int, int, int, bytes]], WireError | None]:
    reader = FrameReader(MAX_BODY)
    found = []
    try:
        for chunk in chunks:
            for one in reader.feed(chunk):
                found.append((one.opcode, one.request_id, one.flags, one.word, bytes(one.body)))  # noqa: PERF401 -- what came before a fault is kept
            assert len(reader._buffer) <= HEADER_SIZE + MAX_BODY
        reader.end()
    except WireError as problem:
        return found, _Same(problem.status)
    return found, None


class _Same(WireError):
    """Compared by its status."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, WireError) and other.status is self.status

    __hash__ = WireError.__hash__


def read_request(data: bytes) -> object:
    """A request behind the place of its operation, single or in a batch; what was read can be written."""
    opcode, flags = _head(data)
    frame = Frame(opcode, 1, flags & BATCH, 0, data[2:])
    if flags & BATCH:
        row, requests = codec.decode_batch(frame)
        assert all(type(one) is row.request for one in requests)
        return requests
    row, request = codec.decode_request(frame)
    assert type(request) is row.request
    codec.encode_request(1, request)
    return request


def read_reply(data: bytes) -> object:
    """A reply, an error or a batch of them."""
    opcode, flags = _head(data)
    word = flags >> 4
    decode = codec.decode_batch_reply if flags & BATCH else codec.decode_reply
    return decode(Frame(opcode, 1, REPLY | flags & BATCH, word, data[2:]))


def read_first(data: bytes) -> int:
    """The hello."""
    return negotiate(read_hello(Frame(HELLO_OPCODE, 1, 0, 0, data)))


def read_call(data: bytes) -> object:
    """A call to a provider host."""
    return codec.decode_call(data)


def read_call_reply(data: bytes) -> object:
    """The reply to one."""
    return codec.decode_call_reply(CALLS[(data[0] if data else 0) % len(CALLS)], data[1:])


def _head(data: bytes) -> tuple[int, int]:
    place, flags = (data[:2] + b"\0\0")[:2]
    return OPCODES[place % len(OPCODES)], flags


def _filled(kind: type[msgspec.Struct]) -> msgspec.Struct | None:
    """A message with a plain value in each field, where that makes one."""
    try:
        return msgspec.convert([_plain(field.type) for field in msgspec.structs.fields(kind)], kind)
    except (msgspec.ValidationError, HsmBridgeError):
        return None


_PLAIN: Mapping[object, object] = {int: 1, None: None, bytes: b"octets", list[bytes]: [b"one", b"two"]}


def _answer(kind: object) -> object:
    return _PLAIN[kind] if kind in _PLAIN else _filled(kind) if isinstance(kind, type) else None


def _plain(type_: object) -> object:
    for kind, value in ((bytes, b"octets"), (str, "text"), (bool, True), (int, 1), (float, 1.0)):
        if type_ is kind:
            return value
    return () if "tuple" in str(type_) else None


def _bodies(kinds: list[type[msgspec.Struct]]) -> list[tuple[int, bytes]]:
    made = [(place, _filled(kind)) for place, kind in enumerate(kinds)]
    return [(place, msgspec.msgpack.encode(one)) for place, one in made if one is not None]


_REQUESTS = _bodies([OPERATIONS[opcode].request for opcode in OPCODES])
_REPLIES = _bodies([OPERATIONS[opcode].response for opcode in OPCODES])
_HELLO = msgspec.msgpack.encode(hello("fuzz"))
_STREAM = b"".join(encode_frame(OPCODES[place], place, 0, 0, body) for place, body in _REQUESTS[:6])
_CALLS = _bodies(list(CALLS))
_REPLIED = [(place, calls.REPLIES[call]) for place, call in enumerate(CALLS)]
_ANSWERS = [
    (place, msgspec.msgpack.encode(answer))
    for place, kind in _REPLIED
    if (answer := _answer(kind)) is not None or kind is None
]

TARGET = Target(
    (
        Reader("stream", read_stream, [uncut(_STREAM), uncut(encode_frame(1, 1, 0, 0, bytes(300)))]),
        Reader("request", read_request, [bytes([place, 0]) + body for place, body in _REQUESTS]),
        Reader("reply", read_reply, [bytes([place, 0]) + body for place, body in _REPLIES]),
        Reader("hello", read_first, [_HELLO]),
        Reader("call", read_call, [body for _, body in _CALLS]),
        Reader("call reply", read_call_reply, [bytes([place]) + body for place, body in _ANSWERS]),
    )
)
