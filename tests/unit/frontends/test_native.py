"""The native front end: limits, order, pauses, ends; a client that is alone is listened to and keeps nobody out."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from hsmbridge.core import messages as m
from hsmbridge.core.errors import LimitError, Status
from hsmbridge.core.params import GenerateKeyParams
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.frontends import native as module
from hsmbridge.frontends.native import ALONE_AFTER, MAX_QUEUED
from hsmbridge.service.session import SessionLimits
from hsmbridge.wire.codec import encode_request
from tests.unit.frontends.native_rig import LIMITS, PATIENCE, THREADS, Front, Peer, front, held_digest, short_digest

MOST = LIMITS.max_in_flight

# One connection that asks for one thing after another, as fast as it can, until its standard input ends. It says when
# it has got going, and at the end how many answers it had.
CHATTER = """
import os, select, socket, sys
from hsmbridge.core import messages as m
from hsmbridge.wire.codec import encode_request
from hsmbridge.wire.hello import hello
connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[1])
connection.sendall(encode_request(1, hello("chatter")))
connection.recv(65536)
frame = encode_request(2, m.DigestRequest("SHA-256", b"data", "short"))
answers = 0
while answers < 3000 or not select.select([0], [], [], 0)[0]:
    connection.sendall(frame)
    if not connection.recv(65536):
        break
    answers += 1
    if answers == 3000:
        print("going", flush=True)
print(answers)
"""


@pytest.fixture
def native() -> Iterator[Front]:
    with front() as made:
        yield made


# Requests that take their time to come


def test_a_request_that_is_not_finished_in_time_ends_its_connection(
    native: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FRAME_TIMEOUT", 0.1)
    frame = encode_request(3, m.PingRequest(b"in two pieces"))
    with Peer(native) as silent, Peer(native) as slow:
        slow.socket.sendall(encode_request(2, m.PingRequest(b"whole")) + frame[:7])
        assert slow.replies(1) == [2]
        refused = slow.refusal()
        assert refused.status is Status.MALFORMED_FRAME
        assert "not finished" in refused.message
        with pytest.raises((EOFError, ConnectionResetError)):
            slow.reply()
        assert silent.is_served()  # silence between requests has no end


def test_the_time_is_one_request_s_and_not_the_connection_s(native: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FRAME_TIMEOUT", 0.4)
    frame = encode_request(2, m.PingRequest(b"in two pieces"))
    until = time.monotonic() + 1.0
    with Peer(native) as peer:
        peer.socket.sendall(frame[:7])
        while time.monotonic() < until:  # always in the middle of one
            peer.socket.sendall(frame[7:] + frame[:7])
            assert peer.replies(1) == [2]
        peer.socket.sendall(frame[7:])
        assert peer.replies(1) == [2]


# Requests under way


def test_two_requests_under_way_with_the_same_id_end_the_connection_and_no_other(native: Front) -> None:
    native.held.gate.clear()
    with Peer(native) as peer, Peer(native) as other:
        peer.send(7, held_digest())
        native.held.came(1)
        peer.send(7, held_digest())
        refused = peer.refusal()
        assert refused.status is Status.MALFORMED_FRAME
        assert "same id" in refused.message
        with pytest.raises((EOFError, ConnectionResetError)):
            peer.reply()
        assert other.is_served()


def test_an_id_may_be_used_again_as_soon_as_its_reply_is_there(native: Front) -> None:
    with Peer(native) as peer:
        for number in range(200):
            asked = held_digest() if number % 2 else short_digest()
            assert len(peer.ask(asked, m.DigestReply, request_id=5).digest) == 32


def test_replies_come_as_they_are_ready(native: Front) -> None:
    native.held.gate.clear()
    with Peer(native) as peer:
        peer.send(10, held_digest(), short_digest())
        assert peer.replies(1) == [11]
        native.held.gate.set()
        assert peer.replies(1) == [10]


def test_no_more_is_taken_from_a_connection_than_may_be_under_way(native: Front) -> None:
    native.held.gate.clear()
    with Peer(native) as peer, Peer(native) as other:
        peer.send(10, *[held_digest()] * MOST, *[short_digest()] * 5)
        native.held.came(THREADS)
        assert other.is_served()
        native.settle()
        # What is short would have been answered long ago, had it been taken.
        peer.socket.setblocking(False)
        with pytest.raises(BlockingIOError):
            peer.socket.recv(1)
        peer.socket.settimeout(PATIENCE)
        native.held.gate.set()
        assert sorted(peer.replies(MOST + 5)) == list(range(10, 10 + MOST + 5))
        assert peer.is_served()


@pytest.mark.parametrize("most", [1, 2, 3])
def test_a_connection_that_pauses_again_and_again_never_stands_still(most: int) -> None:
    with front(replace(LIMITS, max_in_flight=most)) as native, Peer(native) as peer:
        for start in range(10, 400, 40):
            peer.send(start, *([held_digest()] * 3 + [short_digest()]) * 10)
            assert sorted(peer.replies(40)) == list(range(start, start + 40))


def test_one_that_does_not_read_its_replies_is_not_read_from_and_gets_them_all_when_it_does(native: Front) -> None:
    payload = bytes(60_000)
    with Peer(native) as peer, Peer(native) as other:
        peer.socket.setblocking(False)
        sent, rest = 0, b""
        while not rest:
            frame = encode_request(10 + sent, m.PingRequest(payload))
            try:
                rest = frame[peer.socket.send(frame) :]
            except BlockingIOError:
                rest = frame
            sent += 1
            assert sent * len(payload) < 20 * MAX_QUEUED
        assert other.is_served()
        assert all(connection._outbox.queued < 2 * MAX_QUEUED for connection in native.front_end.connections)
        peer.socket.settimeout(PATIENCE)
        finishing = threading.Thread(target=peer.socket.sendall, args=(rest,))
        finishing.start()
        assert peer.replies(sent) == list(range(10, 10 + sent))
        finishing.join()


# Who is let in


def test_a_principal_has_no_more_connections_than_the_limit_and_gets_another_when_one_ends() -> None:
    with front(replace(LIMITS, max_connections_per_principal=3)) as native, ExitStack() as held:
        peers = [held.enter_context(Peer(native)) for _ in range(3)]
        with Peer(native, greet=False) as refused:
            reason = refused.refusal()
            assert reason.status is Status.TOO_MANY_CONNECTIONS
            assert "3 connections" in reason.message
        assert all(peer.is_served() for peer in peers)
        peers.pop().close()
        while len(native.front_end.connections) > 2:
            native.settle()
        held.enter_context(Peer(native))
        assert native.connections[-1] == 3


def test_there_are_no_more_connections_than_the_daemon_takes() -> None:
    limits = replace(LIMITS, max_connections=2)
    with front(limits) as native, Peer(native), Peer(native), Peer(native, greet=False) as refused:
        assert refused.refusal().status is Status.TOO_MANY_CONNECTIONS


def test_a_connection_that_ends_frees_its_keys_whatever_is_under_way(native: Front) -> None:
    native.held.gate.clear()
    with Peer(native) as peer:
        made = peer.ask(
            m.GenerateRequest(GenerateKeyParams(key_type="EC-P256", permissions=int(P.SIGN)), provider="short"),
            m.KeyReply,
        )
        assert made.resource is not None
        peer.send(9, held_digest())
        native.held.came(1)
    while native.front_end.connections:
        native.settle()
    native.held.gate.set()
    with Peer(native) as other:
        assert other.is_served()


# The end


def test_a_drain_answers_what_is_under_way_and_leaves_the_rest_unread(native: Front) -> None:
    native.held.gate.clear()
    with Peer(native) as peer, Peer(native) as idle:
        peer.send(10, held_digest())
        native.held.came(1)
        drained = native.begin_to_drain()
        with pytest.raises((EOFError, ConnectionResetError)):
            idle.reply()
        peer.send(20, short_digest())
        assert not drained.done()
        native.held.gate.set()
        assert peer.replies(1) == [10]
        # Not an ordinary end: the kernel says that what was sent last has not been read.
        with pytest.raises(ConnectionResetError):
            peer.reply()
        drained.result(PATIENCE)


def test_a_drain_takes_nothing_of_what_a_paused_connection_has_sent(native: Front) -> None:
    native.held.gate.clear()
    with Peer(native) as peer:
        peer.send(10, *[held_digest()] * (MOST + 3))
        native.held.came(THREADS)
        drained = native.begin_to_drain()
        native.settle()
        native.held.gate.set()
        assert sorted(peer.replies(MOST)) == list(range(10, 10 + MOST))
        with pytest.raises((EOFError, ConnectionResetError)):
            peer.reply()
        drained.result(PATIENCE)


def test_nobody_is_greeted_during_a_drain(native: Front) -> None:
    native.held.gate.clear()
    with Peer(native) as peer, Peer(native, greet=False) as late:
        peer.send(10, held_digest())
        native.held.came(1)
        drained = native.begin_to_drain()
        with pytest.raises((EOFError, ConnectionError)):
            late.greet()
        native.held.gate.set()
        drained.result(PATIENCE)


# A client that is alone


def _until_alone(native: Front, peer: Peer) -> None:
    """Ask until the daemon sees that there is nobody else."""
    until = time.monotonic() + PATIENCE
    while not native.front_end.alone():
        assert time.monotonic() < until
        peer.ask(short_digest(), m.DigestReply)


def test_one_that_is_alone_is_answered_as_ever(native: Front) -> None:
    with Peer(native) as peer:
        _until_alone(native, peer)
        for number in range(300):
            assert peer.ask(m.PingRequest(b"%d" % number), m.PingReply).payload == b"%d" % number


@pytest.mark.parametrize("tail", [b"", encode_request(9, short_digest())[:20], b"\xff" * 64])
def test_the_end_of_one_that_is_listened_to_is_seen(native: Front, tail: bytes) -> None:
    with Peer(native) as peer:
        _until_alone(native, peer)
        peer.send(5, short_digest())
        peer.socket.sendall(tail)
        peer.socket.shutdown(socket.SHUT_WR)
        assert peer.replies(1) == [5]
    until = time.monotonic() + PATIENCE
    while native.front_end.connections:
        assert time.monotonic() < until
        native.settle()
    with Peer(native) as other:
        assert other.is_served()


def test_one_that_is_gone_without_reading_its_reply_is_seen_to_be(native: Front) -> None:
    with Peer(native) as peer:
        _until_alone(native, peer)
        # The reply cannot be delivered, and listening hears a reset instead of the end of the stream.
        peer.send(5, short_digest(), short_digest())
        peer.close()
    until = time.monotonic() + PATIENCE
    while native.front_end.connections:
        assert time.monotonic() < until
        native.settle()


def test_a_drain_ends_the_listening(native: Front) -> None:
    with Peer(native) as peer:
        _until_alone(native, peer)
        drained = native.begin_to_drain()
        with pytest.raises((EOFError, ConnectionError)):
            peer.ask_for_ever(short_digest())
        drained.result(PATIENCE)


def test_one_that_never_stops_asking_keeps_nobody_out(native: Front) -> None:
    """The loop listens to it after each of its replies, and yet others are heard within milliseconds."""
    command = (sys.executable, "-P", "-c", CHATTER, str(native.path))
    waits = []
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as chatter:
        assert chatter.stdout is not None
        assert chatter.stdout.readline() == "going\n"
        for _ in range(8):
            # Long enough that the other one counts as alone again.
            time.sleep(4 * ALONE_AFTER)
            began = time.monotonic()
            with Peer(native) as peer:
                assert peer.is_served()
            waits.append(time.monotonic() - began)
        answered, _ = chatter.communicate()
    assert int(answered) > 3000
    assert min(waits) < 0.1, waits
    assert max(waits) < 2.0, waits


# What one principal may have over all connections


def test_keys_are_counted_over_all_connections_of_a_principal() -> None:
    request = m.GenerateRequest(GenerateKeyParams(key_type="AES-128", permissions=P.ENCRYPT), "", "short")
    with front(sessions=SessionLimits(principal_keys=3)) as native, Peer(native) as first:
        kept = first.ask(request, m.KeyReply).resource
        assert kept is not None
        with Peer(native) as second:
            for _ in range(2):
                second.ask(request, m.KeyReply)
            for peer in (first, second):
                with pytest.raises(LimitError, match="max_keys_per_principal") as refused:
                    peer.ask(request, m.KeyReply)
                assert refused.value.status is Status.TOO_MANY_RESOURCES
            first.ask(m.ReleaseRequest(kept), m.Empty)
            second.ask(request, m.KeyReply)
        until = time.monotonic() + PATIENCE
        while True:  # the keys of the connection that has ended are free again
            with suppress(LimitError):
                for _ in range(3):
                    first.ask(request, m.KeyReply)
                return
            assert time.monotonic() < until


def test_bytes_under_way_are_counted_over_all_connections_of_a_principal() -> None:
    large = bytes(400_000)
    with (
        front(sessions=SessionLimits(principal_bytes=1_000_000)) as native,
        Peer(native) as first,
        Peer(native) as second,
        Peer(native) as third,
    ):
        native.held.gate.clear()
        for peer in (first, second):
            peer.send(2, held_digest(large))
        native.held.came(2)
        third.send(2, short_digest(large), m.PingRequest(b"small"))
        assert third.refusal().status is Status.TOO_MANY_RESOURCES
        assert third.replies(1) == [3]
        with pytest.raises(LimitError):
            third.ask(m.ShareMemoryRequest(400_000), m.ShareMemoryReply)
        native.held.gate.set()
        assert (first.replies(1), second.replies(1)) == ([2], [2])
        for _ in range(5):  # each of them is counted out again
            assert len(third.ask(short_digest(large), m.DigestReply).digest) == 32


def test_requests_that_come_in_slowly_count_as_a_whole_and_what_is_too_much_goes_by() -> None:
    frame = encode_request(7, short_digest(bytes(900_000)))
    with front(sessions=SessionLimits(principal_bytes=1_000_000)) as native, Peer(native) as second:
        with Peer(native) as first:
            first.socket.sendall(frame[:50_000])
            native.settle()
            second.socket.sendall(frame[:100_000])
            assert second.refusal().status is Status.TOO_MANY_RESOURCES
            second.socket.sendall(frame[100_000:] + encode_request(8, m.PingRequest(b"next")))
            assert second.replies(1) == [8]
            first.socket.sendall(frame[50_000:])
            assert first.replies(1) == [7]
            first.socket.sendall(frame[:-1])
            native.settle()
        native.settle()
        assert second.ask(short_digest(bytes(900_000)), m.DigestReply, 9).digest  # what went away unfinished is free
