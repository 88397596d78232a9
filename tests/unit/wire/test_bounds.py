"""What one frame may ask for is bounded by more than its length."""

import time
from collections.abc import Iterator

import msgspec
import pytest
from msgspec import inspect

from hsmbridge.core import messages as m
from hsmbridge.core.errors import RequestError, Status
from hsmbridge.core.identifiers import CryptoResourceId, ResourceKind
from hsmbridge.core.operations import OPERATIONS
from hsmbridge.wire.codec import MAX_BATCH, decode_request, encode_request
from hsmbridge.wire.frames import FrameReader


@pytest.mark.parametrize("length", [1024, 1025, 3_000_000])
def test_a_list_that_is_too_long_is_refused_before_anything_is_made_of_it(length: int) -> None:
    request = m.SignManyRequest(CryptoResourceId(1, ResourceKind.KEY_SLOT), "ECDSA-P256-SHA256", (b"m",) * length)
    (frame,) = FrameReader(1 << 26).feed(encode_request(1, request))
    if length <= 1024:
        assert decode_request(frame)[1] == request
        return
    began = time.process_time()
    with pytest.raises(RequestError) as refused:
        decode_request(frame)
    assert refused.value.status is Status.INVALID_ARGUMENT
    assert "1024" in refused.value.message
    assert time.process_time() - began < 0.05


def lists_in(type_: inspect.Type) -> Iterator[inspect.CollectionType | inspect.DictType]:
    """Every list, tuple and mapping that a message holds, however deep."""
    match type_:
        case inspect.StructType():
            for field in type_.fields:
                yield from lists_in(field.type)
        case inspect.UnionType():
            for one in type_.types:
                yield from lists_in(one)
        case inspect.TupleType():
            for one in type_.item_types:
                yield from lists_in(one)
        case inspect.CollectionType():
            yield type_
            yield from lists_in(type_.item_type)
        case inspect.DictType():
            yield type_
            yield from lists_in(type_.value_type)
        case inspect.Metadata():
            yield from lists_in(type_.type)
        case _:
            assert isinstance(type_, PLAIN), type_


PLAIN = (
    *(inspect.StrType, inspect.BytesType, inspect.IntType, inspect.FloatType, inspect.BoolType, inspect.NoneType),
    inspect.EnumType,
)
MESSAGES = {message.__name__: message for row in OPERATIONS.values() for message in (row.request, row.response)}


@pytest.mark.parametrize("name", MESSAGES)
def test_every_list_of_a_message_says_how_long_it_may_be(name: str) -> None:
    for found in lists_in(inspect.type_info(MESSAGES[name])):
        assert found.max_length is not None, f"{found} has no end: take a type of hsmbridge.core.bounds"


def test_a_list_without_an_end_is_found() -> None:
    class Endless(msgspec.Struct):
        one: bytes | list[tuple[int, ...]]

    assert [found.max_length for found in lists_in(inspect.type_info(Endless))] == [None, None]


def test_a_call_takes_as_many_messages_as_a_batch() -> None:
    (messages,) = lists_in(inspect.type_info(m.SignManyRequest))
    assert messages.max_length == MAX_BATCH
