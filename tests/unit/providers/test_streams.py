"""The table of streams that are open in a provider, and whose they are in a host process."""

import hashlib
import socket

import pytest

from hsmbridge.core import calls
from hsmbridge.core.calls import StreamEnd
from hsmbridge.core.errors import LimitError, ProviderError, RequestError, SignatureInvalid, Status
from hsmbridge.providers import streams
from hsmbridge.providers.host.owners import DaemonProcesses
from hsmbridge.providers.streams import HashedFirst, ProviderStream, ProviderStreams


class Told(ProviderStream):
    """Gives back what it is given, and knows how often it was closed."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.closed = 0
        self.failure = failure

    def update(self, data: bytes) -> bytes:
        if self.failure is not None:
            raise self.failure
        return data

    def finish(self, proof: bytes) -> StreamEnd:
        if proof == b"wrong":
            raise SignatureInvalid(Status.SIGNATURE_INVALID)
        return StreamEnd(b".", b"tag")

    def close(self) -> None:
        self.closed += 1


def _gone(table: ProviderStreams, number: int) -> None:
    for act in (lambda: table.update(number, b""), lambda: table.finish(number, b"", b"")):
        with pytest.raises(ProviderError) as refusal:
            act()
        assert refusal.value.status is Status.HANDLE_UNKNOWN


def test_a_stream_takes_pieces_and_ends_once() -> None:
    table, stream = ProviderStreams(), Told()
    table.open(7, lambda: stream)
    assert table.update(7, b"first") == b"first"
    assert table.finish(7, b"last", b"") == StreamEnd(b"last.", b"tag")
    assert stream.closed == 1
    _gone(table, 7)


def test_a_failure_ends_a_stream() -> None:
    table, stream = ProviderStreams(), Told(ProviderError(Status.PROVIDER_FAILED))
    table.open(7, lambda: stream)
    with pytest.raises(ProviderError):
        table.update(7, b"data")
    assert stream.closed == 1
    _gone(table, 7)


def test_a_wrong_proof_ends_a_stream() -> None:
    table, stream = ProviderStreams(), Told()
    table.open(7, lambda: stream)
    with pytest.raises(SignatureInvalid):
        table.finish(7, b"", b"wrong")
    assert stream.closed == 1
    assert len(table) == 0


def test_what_was_given_up_is_closed_once_and_for_all() -> None:
    table, stream = ProviderStreams(), Told()
    table.open(7, lambda: stream)
    table.close(7)
    table.close(7)
    assert stream.closed == 1
    _gone(table, 7)


def test_what_was_given_up_before_it_was_open_does_not_open() -> None:
    table, stream = ProviderStreams(), Told()
    table.close(7)
    table.open(7, lambda: stream)
    assert stream.closed == 1
    assert len(table) == 0


def test_a_name_that_is_taken_is_not_taken_over() -> None:
    table, mine, theirs = ProviderStreams(), Told(), Told()
    table.open(7, lambda: mine)
    table.open(7, lambda: theirs)
    assert (mine.closed, theirs.closed) == (0, 1)
    assert table.update(7, b"mine") == b"mine"


def test_what_cannot_be_opened_is_not_open() -> None:
    table = ProviderStreams()

    def refuse() -> ProviderStream:
        raise RequestError(Status.NOT_SUPPORTED)

    with pytest.raises(RequestError):
        table.open(7, refuse)
    _gone(table, 7)


def test_there_is_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "STREAMS_MAX", 2)
    table = ProviderStreams()
    table.open(1, Told)
    table.open(2, Told)
    with pytest.raises(LimitError):
        table.open(3, Told)


def test_the_digest_is_what_is_handed_on() -> None:
    seen: list[tuple[bytes, bytes]] = []

    def finish(digest: bytes, proof: bytes) -> StreamEnd:
        seen.append((digest, proof))
        return StreamEnd(b"signature")

    stream = HashedFirst("SHA-384", finish)
    assert stream.update(b"mess") == stream.update(b"age") == b""
    assert stream.finish(b"proof").output == b"signature"
    assert seen == [(hashlib.sha384(b"message").digest(), b"proof")]


def test_the_streams_of_an_owner_end_together() -> None:
    table = ProviderStreams()
    for number, owner in ((1, b"a"), (2, b"b"), (3, b"a"), (4, b"")):
        table.open(number, Told, owner)
    table.close_owned(b"a")
    table.close_owned(b"")
    _gone(table, 1)
    _gone(table, 3)
    assert len(table) == 2


def test_what_a_process_has_ends_with_its_last_connection() -> None:
    table, released = ProviderStreams(), list[bytes]()
    processes = DaemonProcesses(table, released.append)
    ends = [socket.socketpair() for _ in range(3)]
    first, second, other = (mine for mine, _ in ends)
    one = processes.arrive(first, "daemon a")
    assert processes.arrive(second, "daemon a") is one
    another = processes.arrive(other, "daemon b")
    for number, process in ((1, one), (2, one), (3, another)):
        process.note(calls.StreamOpenCall(number, 0, "SHA-256", "digest"))
        table.open(number, Told)
        for owner in (b"%d" % number, b"gone by itself"):
            process.note(calls.GenerateCall(calls.KeyTarget(b"", "AES-128", 0, ephemeral=True, owner=owner)))
    one.note(calls.StreamFinishCall(1))
    table.finish(1, b"", b"")
    for process in (one, another):
        process.note(calls.ReleaseOwnerCall(b"gone by itself"))
    processes.leave(first)
    assert len(table) == 2
    assert not released
    processes.leave(second)
    assert table.update(3, b"others go on") == b"others go on"
    assert sorted(released) == [b"1", b"2"]
    _gone(table, 2)
    processes.leave(second)
    processes.leave(other)
    assert len(table) == 0
    assert sorted(released) == [b"1", b"2", b"3"]
    for pair in ends:
        for end in pair:
            end.close()
