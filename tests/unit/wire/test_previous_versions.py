"""Frames of every protocol version that is served are read as they were meant, and what would break that is found."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Annotated

import msgspec
import pytest

from hsmbridge.core import messages as m
from hsmbridge.core.errors import HsmBridgeError, Status
from hsmbridge.core.identifiers import CryptoResourceId
from hsmbridge.core.operations import OPERATION_FOR, OPERATIONS, Operation
from hsmbridge.core.params import DEFAULT_SIGNATURE, SignatureParameters
from hsmbridge.wire.codec import (
    decode_batch,
    decode_batch_reply,
    decode_error,
    decode_reply,
    decode_request,
)
from hsmbridge.wire.frames import BATCH, Frame
from hsmbridge.wire.hello import NEWEST_VERSION, OLDEST_VERSION
from tests.wire_corpus import Corpus, Exchange, Layout, path_of, read
from tests.wire_corpus.layout import broken, layout_of, required_additions
from tests.wire_corpus.replay import frame_of

SERVED = range(OLDEST_VERSION, NEWEST_VERSION + 1)
FIRST = read(1)
EXCHANGES = [(version, exchange) for version in SERVED for exchange in read(version).exchanges]
each_version = pytest.mark.parametrize("version", SERVED)
each_exchange = pytest.mark.parametrize(
    "exchange", [exchange for _, exchange in EXCHANGES], ids=[f"{version}-{one.name}" for version, one in EXCHANGES]
)
SIGN = OPERATION_FOR[m.SignRequest]


def plain(frame: Frame) -> object:
    return msgspec.msgpack.decode(frame.body)


def again(message: object) -> object:
    return msgspec.msgpack.decode(msgspec.msgpack.encode(message))


def beginning(now: object, recorded: object) -> object:
    """Of a message as it is encoded now, as much as the recorded one has: fields that came later are left out."""
    if isinstance(now, list) and isinstance(recorded, list):
        return [beginning(one, other) for one, other in zip(now, recorded, strict=False)]
    return now


def test_every_version_that_is_served_was_recorded() -> None:
    assert NEWEST_VERSION - OLDEST_VERSION <= 1
    for version in SERVED:
        assert path_of(version).exists(), "record it: python -m tests.wire_corpus.record"
        assert read(version).version == version


@each_version
def test_a_corpus_has_every_operation_of_its_version_carried_out(version: int) -> None:
    corpus = read(version)
    done = {exchange.name for exchange in corpus.exchanges if not frame_of(exchange.reply, reply=True).word}
    assert {name for name, _, _ in corpus.layout.operations.values()} <= done


def test_the_newest_corpus_has_every_operation_that_there_is() -> None:
    recorded = {name for name, _, _ in read(NEWEST_VERSION).layout.operations.values()}
    assert {row.name for row in OPERATIONS.values()} == recorded, "record it: python -m tests.wire_corpus.record"


@each_exchange
def test_a_recorded_request_is_read_as_it_was_meant(exchange: Exchange) -> None:
    frame = frame_of(exchange.request, reply=False)
    if frame.flags & BATCH:
        row, requests = decode_batch(frame)
        read_now = again(requests)
    else:
        row, request = decode_request(frame)
        read_now = again(request)
    assert row.name == exchange.name.removesuffix(" (batch)")
    assert beginning(read_now, plain(frame)) == plain(frame)


@each_exchange
def test_a_recorded_reply_is_read_as_it_was_meant(exchange: Exchange) -> None:
    frame = frame_of(exchange.reply, reply=True)
    if frame.word:
        assert decode_error(frame).status == frame.word
    elif frame.flags & BATCH:
        good, bad = decode_batch_reply(frame)
        assert isinstance(good, m.SignReply)
        assert isinstance(bad, HsmBridgeError)
        assert bad.status is not Status.INTERNAL
    else:
        assert beginning(again(decode_reply(frame)), plain(frame)) == plain(frame)


@each_version
def test_messages_have_only_grown_at_their_ends(version: int) -> None:
    """A field that is gone, moved or of another type breaks this; one that came later has a default."""
    earlier = read(version).layout
    assert list(broken(earlier, layout_of())) == []
    messages = [message for row in OPERATIONS.values() for message in (row.request, row.response)]
    assert list(required_additions(earlier, messages)) == []


# That these tests find what they are for


def with_request(request: type[msgspec.Struct]) -> dict[int, Operation]:
    """The operations, with another struct in the place of SignRequest."""
    return dict(OPERATIONS) | {SIGN.opcode: replace(SIGN, request=request)}


def struct(*fields: tuple[str, object] | tuple[str, object, object]) -> type[msgspec.Struct]:
    return msgspec.defstruct("SignRequest", fields, array_like=True, frozen=True)


KEY, ALGORITHM, MESSAGE = ("key", CryptoResourceId), ("algorithm", str), ("message", bytes)
PARAMETERS = ("parameters", SignatureParameters, DEFAULT_SIGNATURE)


def findings(request: type[msgspec.Struct]) -> list[str]:
    now = layout_of(with_request(request))
    return [*broken(FIRST.layout, now), *required_additions(FIRST.layout, [request])]


def reads(request: type[msgspec.Struct]) -> bool:
    """Whether every recorded SignRequest is read as it was meant."""
    for exchange in FIRST.exchanges:
        if exchange.name == SIGN.name:
            frame = frame_of(exchange.request, reply=False)
            try:
                decoded = msgspec.msgpack.decode(frame.body, type=request)
            except msgspec.MsgspecError:
                return False
            if beginning(again(decoded), plain(frame)) != plain(frame):
                return False
    return True


@pytest.mark.parametrize(
    ("request_", "finding", "read_"),
    [
        pytest.param(
            struct(KEY, ALGORITHM, MESSAGE, PARAMETERS, ("more", int, 0)), "", True, id="added with a default"
        ),
        pytest.param(
            struct(KEY, ALGORITHM, ("message", Annotated[bytes, msgspec.Meta(max_length=1 << 30)]), PARAMETERS),
            "",
            True,
            id="given a bound",
        ),
        pytest.param(
            msgspec.defstruct(
                "SignRequest",
                [KEY, ALGORITHM, MESSAGE, PARAMETERS[:2], ("more", int)],
                array_like=True,
            ),
            "has no default",
            False,
            id="added without a default",
        ),
        pytest.param(struct(KEY, MESSAGE, PARAMETERS), "field 1 of SignRequest", False, id="removed"),
        pytest.param(struct(KEY, ALGORITHM, MESSAGE), "field 3 of SignRequest", False, id="removed at the end"),
        pytest.param(
            struct(KEY, ALGORITHM, ("message", str), PARAMETERS), "field 2 of SignRequest", False, id="of another type"
        ),
        pytest.param(
            struct(KEY, ("purpose", str), MESSAGE, PARAMETERS),
            "field 1 of SignRequest",
            True,
            id="with another meaning",
        ),
    ],
)
def test_a_change_of_a_message_is_found_where_it_breaks_a_former_version(
    request_: type[msgspec.Struct], finding: str, read_: bool
) -> None:
    """What the frames do not show, a field that means something else, the layout does."""
    found = findings(request_)
    assert any(finding in one for one in found) if finding else found == []
    assert reads(request_) is read_


def mutated(change: Callable[[Layout], Layout]) -> Iterator[str]:
    return broken(FIRST.layout, change(layout_of()))


def test_an_operation_or_a_value_that_is_gone_is_found() -> None:
    def without_ping(layout: Layout) -> Layout:
        operations = {opcode: row for opcode, row in layout.operations.items() if row[0] != "ping"}
        return msgspec.structs.replace(layout, operations=operations)

    def without_aead(layout: Layout) -> Layout:
        kinds = [value for value in layout.enums["ContextKind"] if value != "aead"]
        return msgspec.structs.replace(layout, enums=layout.enums | {"ContextKind": kinds})

    assert [one.split()[1] for one in mutated(without_ping)] == ["0x0002"]
    assert list(mutated(without_aead)) == ["ContextKind lost its value 'aead'"]


def test_another_kind_of_parameters_breaks_nothing_and_one_less_does() -> None:
    def with_kdfs(change: Callable[[str], str]) -> Callable[[Layout], Layout]:
        def changed(layout: Layout) -> Layout:
            fields = [(name, change(type_)) for name, type_ in layout.structs["DeriveKeyParams"]]
            return msgspec.structs.replace(layout, structs=layout.structs | {"DeriveKeyParams": fields})

        return changed

    more = with_kdfs(lambda type_: f"{type_} | Newer (newer)" if "Hkdf" in type_ else type_)
    assert list(mutated(more)) == []
    (less,) = mutated(with_kdfs(lambda type_: type_.replace("Scrypt (scrypt) | ", "")))
    assert "kdf" in less


def test_a_corpus_survives_its_file() -> None:
    assert msgspec.json.decode(msgspec.json.encode(FIRST), type=Corpus) == FIRST
