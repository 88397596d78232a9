"""Bodies of frames: requests, replies and errors of the native protocol, calls and replies of provider hosts.

MessagePack by msgspec; the types come from the operation table and from `hsmbridge.core.calls`. Every function
that reads raises HsmBridgeError and nothing else: MALFORMED_FRAME for what is no MessagePack or no such message,
INVALID_ARGUMENT for a field of a wrong type or value, and whatever a struct's own check raises. Memory is bounded
by the frame: a length that goes past its end is refused before anything is allocated.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Annotated, Any, Final, Generic, Never, TypeVar, cast

import msgspec
from msgspec.msgpack import Decoder, Encoder

from hsmbridge.core import calls
from hsmbridge.core.errors import HsmBridgeError, RequestError, Status, WireError, error_from_wire
from hsmbridge.core.operations import OPERATION_FOR, OPERATIONS, Operation
from hsmbridge.wire.frames import BATCH, HEADER, MAX_BODY, REPLY, Frame

CALL_OPCODE: Final = 0x8000
"""A call of the provider contract; the opcodes from 0x8000 on belong to provider hosts."""

MAX_BATCH: Final = 1024
"""Requests in one batch frame."""

_MESSAGE_LIMIT: Final = 1024
_UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, OverflowError)

_to_msgpack: Final = Encoder().encode
_pack: Final = HEADER.pack
_T = TypeVar("_T")


class ErrorBody(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What an error reply says beside its status: for people, and the id under which the log has the detail."""

    message: str
    incident: str = ""


class BatchItem(msgspec.Struct, Generic[_T], frozen=True, array_like=True):
    """The answer to one request of a batch: a reply, or a status and an error."""

    status: int
    reply: _T | None = None
    error: ErrorBody | None = None


def _encode(opcode: int, request_id: int, flags: int, word: int, message: object) -> bytes:
    try:
        body = _to_msgpack(message)
    except (UnicodeEncodeError, OverflowError) as problem:
        raise RequestError(Status.INVALID_ARGUMENT, f"This cannot be sent: {problem}"[:_MESSAGE_LIMIT]) from None
    length = len(body)
    if length > MAX_BODY:
        raise WireError(Status.FRAME_TOO_LARGE)
    return _pack(length, request_id, opcode, flags, word) + body


def _refuse(what: str, problem: BaseException) -> Never:
    if isinstance(problem, RecursionError):
        raise WireError(Status.MALFORMED_FRAME, f"The {what} cannot be read: it is nested too deeply.") from None
    if isinstance(problem, msgspec.ValidationError):
        raise RequestError(Status.INVALID_ARGUMENT, f"The {what} is not valid: {problem}"[:_MESSAGE_LIMIT]) from None
    raise WireError(Status.MALFORMED_FRAME, f"The {what} cannot be read: {problem}"[:_MESSAGE_LIMIT]) from None


@cache
def _batch_decoder(type_: type[msgspec.Struct]) -> Decoder[list[msgspec.Struct]]:
    # The type is only known at run time, so the checker is told what the annotation means.
    bounded = Annotated[list[type_], msgspec.Meta(max_length=MAX_BATCH)]  # type: ignore[valid-type]
    return cast(Decoder[list[msgspec.Struct]], Decoder(bounded))


@cache
def _batch_reply_decoder(type_: type[msgspec.Struct]) -> Decoder[list[BatchItem[msgspec.Struct]]]:
    bounded = Annotated[list[BatchItem[type_]], msgspec.Meta(max_length=MAX_BATCH)]  # type: ignore[valid-type]
    return cast(Decoder[list[BatchItem[msgspec.Struct]]], Decoder(bounded))


_REQUEST_DECODERS: Final = {row.opcode: (row, Decoder(row.request)) for row in OPERATIONS.values()}
_RESPONSE_DECODERS: Final = {row.opcode: Decoder(row.response) for row in OPERATIONS.values()}
_error_decoder: Final = Decoder(ErrorBody)


# Requests and replies of the native protocol


def encode_request(request_id: int, request: msgspec.Struct, deadline_ms: int = 0) -> bytes:
    """The frame of a request; `deadline_ms` 0 is none. The opcode comes from the operation table."""
    return _encode(OPERATION_FOR[type(request)].opcode, request_id, 0, deadline_ms, request)


def operation_of(opcode: int) -> Operation:
    """The row of the operation table. Raises WireError (UNKNOWN_OPERATION)."""
    row = OPERATIONS.get(opcode)
    if row is None:
        raise _unknown(opcode)
    return row


def _unknown(opcode: int) -> WireError:
    return WireError(Status.UNKNOWN_OPERATION, f"The daemon does not know operation {opcode:#06x}.")


def decode_request(frame: Frame) -> tuple[Operation, msgspec.Struct]:
    """What a request frame asks for. Raises UNKNOWN_OPERATION, MALFORMED_FRAME or what a field is refused for."""
    entry = _REQUEST_DECODERS.get(frame.opcode)
    if entry is None:
        raise _unknown(frame.opcode)
    row, decoder = entry
    if frame.flags & BATCH:
        raise WireError(Status.MALFORMED_FRAME, f"A single {row.name} request was expected, and a batch came.")
    try:
        return row, decoder.decode(frame.body)
    except _UNREADABLE as problem:
        _refuse(f"{row.name} request", problem)


def encode_reply(request_id: int, opcode: int, reply: msgspec.Struct) -> bytes:
    """The frame of a reply that succeeded."""
    return _encode(opcode, request_id, REPLY, 0, reply)


def encode_error(request_id: int, opcode: int, problem: HsmBridgeError) -> bytes:
    """The frame of a reply that failed: status, message and incident; never the origin."""
    return _encode(opcode, request_id, REPLY, problem.status, _error_body(problem))


def decode_reply(frame: Frame) -> msgspec.Struct:
    """The reply in a frame. Raises the error that it carries, or WireError (MALFORMED_FRAME)."""
    if frame.word:
        raise decode_error(frame)
    decoder = _RESPONSE_DECODERS.get(frame.opcode)
    if decoder is None or frame.flags & BATCH:
        raise WireError(Status.MALFORMED_FRAME, f"The reply to operation {frame.opcode:#06x} is not a known one.")
    return _read_reply(decoder, frame.body)


def decode_error(frame: Frame) -> HsmBridgeError:
    """The error that a reply with a status carries, to be raised; a body that cannot be read loses its message."""
    try:
        body = _error_decoder.decode(frame.body)
    except _UNREADABLE:
        body = ErrorBody("")
    return error_from_wire(frame.word, body.message, body.incident)


# Batches


def encode_batch(request_id: int, requests: Sequence[msgspec.Struct], deadline_ms: int = 0) -> bytes:
    """One frame for many requests of one operation. Raises RequestError for none, too many or mixed ones."""
    if not 1 <= len(requests) <= MAX_BATCH:
        raise RequestError(Status.INVALID_ARGUMENT, f"A batch has 1 to {MAX_BATCH} requests.")
    kinds = {type(request) for request in requests}
    if len(kinds) > 1:
        raise RequestError(Status.INVALID_ARGUMENT, "The requests of a batch are all of one operation.")
    return _encode(_batchable(OPERATION_FOR[kinds.pop()]).opcode, request_id, BATCH, deadline_ms, requests)


def decode_batch(frame: Frame) -> tuple[Operation, list[msgspec.Struct]]:
    """The requests of a batch frame; one that cannot be read refuses them all."""
    row = _batchable(operation_of(frame.opcode))
    try:
        requests = _batch_decoder(row.request).decode(frame.body)
    except _UNREADABLE as problem:
        _refuse(f"batch of {row.name} requests", problem)
    return row, requests


def encode_batch_reply(request_id: int, opcode: int, replies: Sequence[msgspec.Struct | HsmBridgeError]) -> bytes:
    """One frame for the answers to a batch, in the order of its requests."""
    items = [
        BatchItem(reply.status, None, _error_body(reply)) if isinstance(reply, HsmBridgeError) else BatchItem(0, reply)
        for reply in replies
    ]
    return _encode(opcode, request_id, REPLY | BATCH, 0, items)


def decode_batch_reply(frame: Frame) -> list[msgspec.Struct | HsmBridgeError]:
    """The answers to a batch, errors as values. Raises the error that refused the batch as a whole."""
    if frame.word:
        raise decode_error(frame)
    row = OPERATIONS.get(frame.opcode)
    if row is None or not frame.flags & BATCH:
        raise WireError(Status.MALFORMED_FRAME, f"The reply to operation {frame.opcode:#06x} is not a known batch.")
    return [_answer(item) for item in _read_reply(_batch_reply_decoder(row.response), frame.body)]


def _answer(item: BatchItem[msgspec.Struct]) -> msgspec.Struct | HsmBridgeError:
    if item.status:
        body = item.error or ErrorBody("")
        return error_from_wire(item.status, body.message, body.incident)
    if item.reply is None:
        raise WireError(Status.MALFORMED_FRAME, "An answer of a batch holds neither a reply nor an error.")
    return item.reply


def _batchable(row: Operation) -> Operation:
    if not row.batchable:
        raise RequestError(Status.NOT_SUPPORTED, f"{row.name} requests cannot be sent in a batch.")
    return row


# Calls to provider hosts

# msgspec takes a union type; the checker's stubs know no name for one.
_call_decoder: Final = cast("Decoder[calls.Travelling]", Decoder(cast(Any, calls.Travelling)))
_CALL_REPLY_DECODERS: Final[Mapping[type[calls.ProviderCall], "Decoder[calls.ProviderReply]"]] = {
    call: cast("Decoder[calls.ProviderReply]", Decoder(cast(Any, reply))) for call, reply in calls.REPLIES.items()
}


def encode_call(request_id: int, call: calls.ProviderCall, deadline_ms: int = 0) -> bytes:
    """The frame of a provider call."""
    return _encode(CALL_OPCODE, request_id, 0, deadline_ms, call)


def decode_call(body: bytes | memoryview) -> calls.ProviderCall:
    """The provider call in a body."""
    try:
        return _call_decoder.decode(body)
    except _UNREADABLE as problem:
        _refuse("provider call", problem)


def encode_call_reply(request_id: int, reply: calls.ProviderReply) -> bytes:
    """The frame that answers a provider call."""
    return _encode(CALL_OPCODE, request_id, REPLY, 0, reply)


def decode_call_reply(call: type[calls.ProviderCall], body: bytes | memoryview) -> calls.ProviderReply:
    """What a provider answered to a call of this type."""
    return _read_reply(_CALL_REPLY_DECODERS[call], body)


# Other bodies of typed structs (control messages of hosts and workers)


def encode_message(opcode: int, request_id: int, message: msgspec.Struct, *, reply: bool = False) -> bytes:
    """The frame of a message that stands in no table."""
    return _encode(opcode, request_id, REPLY if reply else 0, 0, message)


def encode_body(message: msgspec.Struct) -> bytes:
    """A struct alone, for a file descriptor that carries one message."""
    return _to_msgpack(message)


def decode_body(type_: type[_T], body: bytes | memoryview) -> _T:
    """A struct alone; for what is read rarely, as its decoder is made anew each time."""
    return _read_reply(Decoder(type_), body)


def _read_reply(decoder: Decoder[_T], body: bytes | memoryview) -> _T:
    try:
        return decoder.decode(body)
    except (*_UNREADABLE, HsmBridgeError) as problem:
        # Whatever is wrong with a reply, it is the sender's fault and never an argument of the reader's caller.
        raise WireError(Status.MALFORMED_FRAME, f"A reply cannot be read: {problem}"[:_MESSAGE_LIMIT]) from None


def _error_body(problem: HsmBridgeError) -> ErrorBody:
    return ErrorBody(problem.message, problem.incident)
