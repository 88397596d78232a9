"""Reading ahead on a socket: everything once, whoever takes it, and in order."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from hsmbridge.frontends.p11kit.read_ahead import AHEAD_MAX, ReadAhead


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_what_was_looked_at_is_not_seen_again(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    ahead = ReadAhead(ours)
    theirs.sendall(b"one")
    assert ahead.look() == b"one"
    with pytest.raises(BlockingIOError):
        ahead.look()
    theirs.sendall(b"two")
    theirs.sendall(b"three")
    assert ahead.look() == b"twothree"


def test_who_reads_in_another_way_after_it_was_taken_gets_what_follows(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = ends
    ahead = ReadAhead(ours)
    theirs.sendall(b"looked at")
    assert ahead.look() == b"looked at"
    ahead.take()
    with pytest.raises(BlockingIOError):
        ours.recv(100)
    theirs.sendall(b"for another")
    assert ours.recv(100) == b"for another"
    theirs.sendall(b"for us again")
    assert ahead.look() == b"for us again"


def test_much_is_taken_in_between_so_that_the_peer_can_send(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    ahead = ReadAhead(ours)
    theirs.setblocking(False)
    for number in range(5000):
        piece = number.to_bytes(2) * 100
        theirs.sendall(piece)
        assert ahead.look() == piece
    assert AHEAD_MAX < 5000 * 200
    ahead.take()


def test_pieces_with_file_descriptors_are_read_like_others(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    ahead = ReadAhead(ours)
    before = _descriptors()
    for piece in (b"a", b"b", b"c"):
        socket.send_fds(theirs, [piece], [theirs.fileno()])
    seen = b""
    while len(seen) < 3:
        seen += ahead.look()
    ahead.take()
    assert seen == b"abc"
    assert _descriptors() == before
    with pytest.raises(BlockingIOError):
        ours.recv(100)


def test_the_end_comes_after_what_was_sent_before_it(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    ahead = ReadAhead(ours)
    theirs.sendall(b"last")
    theirs.close()
    assert ahead.look() == b"last"
    assert ahead.look() == b""
    ahead.take()
    assert ours.recv(100) == b""
