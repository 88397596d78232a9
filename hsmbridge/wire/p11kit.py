"""The p11-kit RPC protocol as a server speaks it: a byte of version, then frames; versions 0 to 2. No socket.

A connection starts with one byte each way. Then come frames of options (ignored) and a body: call number, signature,
arguments. What cannot be read raises WireError once, and the connection must be closed then; nothing larger than
the limits is ever collected. What the calls mean is the front end's business.
"""

import struct
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Final, NamedTuple

from hsmbridge.core.errors import Status, WireError
from hsmbridge.wire.p11kit_attributes import Attribute, AttributeRoom, read_rooms, read_template, write_template
from hsmbridge.wire.p11kit_bodies import ABSENT, U32, U64, BodyReader, malformed, string
from hsmbridge.wire.p11kit_calls import CALLS, Call
from hsmbridge.wire.p11kit_mechanisms import Mechanism, read_mechanism

NEWEST_VERSION: Final = 2
HEADER: Final = struct.Struct(">III")
HEADER_SIZE: Final = HEADER.size
MAX_OPTIONS: Final = 4096
"""Bytes of a frame's options, which hold a name."""
HANDSHAKE: Final = b"PRIVATE-GNOME-KEYRING-PKCS11-PROTOCOL-V-1"
"""What C_Initialize must carry."""

_MAX_ARRAY = 4096


class Needed(NamedTuple):
    """In place of an array that the caller has no room for: how many bytes or elements it has."""

    number: int


class VersionNumber(NamedTuple):
    """CK_VERSION."""

    major: int
    minor: int


Argument = int | bytes | Mechanism | tuple[Attribute, ...] | tuple[AttributeRoom, ...] | tuple[int, ...] | None
"""A decoded argument. None is NULL: no bytes, no mechanism, no buffer (the caller asks for the size)."""

Result = int | bytes | Needed | VersionNumber | Sequence[int] | Sequence[Attribute]
"""A value of a reply."""


class CallFrame(NamedTuple):
    """One frame: the number that its reply must carry, and its body, not decoded yet."""

    code: int
    body: bytes


class CallReader:
    """Cuts the client's stream into frames; the first byte is the version that it offers.

    Attributes:
        offered: that version, None before it came.
    """

    __slots__ = ("_buffer", "_failed", "_max_body", "offered")

    def __init__(self, max_body: int) -> None:
        """`max_body` in bytes: the longest body that is taken."""
        self.offered: int | None = None
        self._max_body = max_body
        self._buffer = bytearray()
        self._failed = False

    @property
    def unfinished(self) -> bool:
        """Whether the rest of a frame is still to come."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> list[CallFrame]:
        """The frames that `data` completes. Raises WireError; nothing more can be read then."""
        buffer = self._buffer
        if not buffer and len(data) >= HEADER_SIZE and self.offered is not None and not self._failed:
            # Nearly always one read is one frame.
            code, options, size = HEADER.unpack_from(data)
            start = HEADER_SIZE + options
            if start + size == len(data) and code and options <= MAX_OPTIONS and size <= self._max_body:
                return [CallFrame(code, data[start:])]
        if self._failed:
            raise malformed("the stream is broken")
        buffer += data
        if self.offered is None and buffer:
            self.offered = buffer.pop(0)
        frames: list[CallFrame] = []
        start = 0
        try:
            while len(buffer) - start >= HEADER_SIZE:
                code, options, size = HEADER.unpack_from(buffer, start)
                self._check(code, options, size)
                end = start + HEADER_SIZE + options + size
                if len(buffer) < end:
                    break
                frames.append(CallFrame(code, bytes(memoryview(buffer)[end - size : end])))
                start = end
        except WireError:
            self._failed = True
            buffer.clear()
            raise
        del buffer[:start]
        return frames

    def _check(self, code: int, options: int, size: int) -> None:
        if code == 0:
            raise malformed("a request has no number")
        if options > MAX_OPTIONS:
            raise malformed("its options are too long")
        if size > self._max_body:
            raise WireError(Status.FRAME_TOO_LARGE)


def agreed_version(offered: int) -> int:
    """The version to answer: the client's, or ours where that is older."""
    return min(offered, NEWEST_VERSION)


def decode_call(body: bytes, offered: int) -> tuple[Call, tuple[Argument, ...]]:
    """The call in a body, with its arguments. Raises WireError (MALFORMED_FRAME)."""
    if len(body) <= _REMEMBERED_MAX and body[:4] in _REMEMBERED:
        return _remembered(body, offered)
    return _decode(body, offered)


def _decode(body: bytes, offered: int) -> tuple[Call, tuple[Argument, ...]]:
    data_call = _DATA_CALLS.get(body[:13])
    if data_call is not None and len(body) >= _DATA_CALL_SIZE:
        arguments = _read_data_call(body)
        if arguments is not None:
            return data_call, arguments
    return _decode_any(body, offered)


_DATA_CALLS: Final = {call.request_head: call for call in CALLS.values() if call.request == "uayfy"}
"""The calls that carry data: a session, the data, and how much room there is for the result."""
_DATA_CALL = struct.Struct(">QBI")
_DATA_CALL_SIZE: Final = 13 + _DATA_CALL.size + 4


def _read_data_call(body: bytes) -> tuple[Argument, ...] | None:
    """The arguments of an ordinary one, in one go; None where there is anything else about it."""
    session, there, size = _DATA_CALL.unpack_from(body, 13)
    end = 13 + _DATA_CALL.size + size
    if there != 1 or size == ABSENT or end + 4 != len(body):
        return None
    room = int.from_bytes(body[end:], "big")
    return session, body[end - size : end], None if room == 0 else 0 if room == ABSENT else room


def _decode_any(body: bytes, offered: int) -> tuple[Call, tuple[Argument, ...]]:
    reader = BodyReader(body)
    number = reader.u32()
    call = CALLS.get(number)
    if call is None or call.since > offered:
        raise malformed("there is no such call in this version")
    if not body.startswith(call.request_head):
        raise malformed("the signature is another one")
    reader.place = len(call.request_head)
    arguments: list[Argument] = []
    for token in call.arguments:
        if token == "M":  # noqa: S105 - a character of a signature
            after = sum(_FIXED.get(later, 0) for later in call.arguments[len(arguments) + 1 :])
            arguments.append(read_mechanism(reader, offered, cancels=call.cancels, after=after))
        else:
            arguments.append(_READ[token](reader, offered))
    if reader.left:
        raise malformed("something follows the last argument")
    return call, tuple(arguments)


_REMEMBERED: Final = frozenset(
    U32(call.number)
    for call in CALLS.values()
    if call.name in {"C_SignInit", "C_VerifyInit", "C_DigestInit", "C_FindObjects", "C_FindObjectsFinal"}
)
"""Calls that programs repeat to the byte, and that hold nothing secret: what they decode to is kept for a while."""
_REMEMBERED_MAX: Final = 128
_remembered = lru_cache(maxsize=512)(_decode)

_FIXED: Final = {"u": 8, "y": 1}


def _read_bytes(reader: BodyReader, _: int) -> bytes | None:
    if reader.byte():
        return reader.string()
    # A NULL pointer, with a length that means nothing.
    reader.u32()
    return None


def _read_numbers(reader: BodyReader, _: int) -> tuple[int, ...] | None:
    if not reader.byte():
        reader.u32()
        return None
    return tuple([reader.u64() for _ in range(reader.count(8, _MAX_ARRAY))])


def _read_room(reader: BodyReader, _: int) -> int | None:
    room = reader.u32()
    return None if room == 0 else 0 if room == ABSENT else room


def _read_count(reader: BodyReader, _: int) -> int | None:
    return reader.u32() or None


_READ: Mapping[str, Callable[[BodyReader, int], Argument]] = MappingProxyType(
    {
        "y": lambda reader, _: reader.byte(),
        "u": lambda reader, _: reader.u64(),
        "s": lambda reader, _: reader.string() or b"",
        "z": lambda reader, _: reader.string(),
        "ay": _read_bytes,
        "fy": _read_room,
        "au": _read_numbers,
        "fu": _read_count,
        "aA": read_template,
        "fA": read_rooms,
    }
)


def encode_result(code: int, call: Call, results: Sequence[Result], offered: int) -> bytes:
    """The frame of a successful reply."""
    head = call.response_head
    match results:
        case () if not call.results:
            return HEADER.pack(code, 0, len(head)) + head
        case (bytes() as octets,) if call.response == "ay":
            return b"".join((HEADER.pack(code, 0, len(head) + 5 + len(octets)), head, b"\1", string(octets)))
    parts = [head]
    for token, value in zip(call.results, results, strict=True):
        parts.append(_write(token, value, offered))
    return _frame(code, b"".join(parts))


def encode_failure(code: int, ckr: int) -> bytes:
    """The frame of an error reply; `ckr` is a CKR_* value, and never 0."""
    return _frame(code, _FAILURE + U64(ckr))


_FAILURE: Final = U32(0) + string(b"u")


def _frame(code: int, body: bytes) -> bytes:
    return HEADER.pack(code, 0, len(body)) + body


def _write(token: str, value: Result, offered: int) -> bytes:
    match token, value:
        case "y", int():
            return bytes([value])
        case "u", int():
            return U64(value)
        case "v", VersionNumber():
            return bytes(value)
        case ("s", bytes()):
            return string(value)
        case "ay" | "au", Needed():
            return b"\0" + U32(value.number)
        case "ay", bytes():
            return b"\1" + string(value)
        case "au", list() | tuple():
            return b"\1" + U32(len(value)) + b"".join([U64(number) for number in value if isinstance(number, int)])
        case "aA", list() | tuple():
            return write_template([item for item in value if isinstance(item, Attribute)], offered)
        case "P", bytes():
            return value
        case _:
            raise TypeError(f"{type(value).__name__} is no value of type {token}")


NO_UPDATE: Final = b"\0"
"""P: the parameter of the mechanism stays as it was."""
