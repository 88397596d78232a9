"""What is no protocol at the daemon's socket is refused, and nobody else notices."""

import random
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from hsmbridge.core.errors import Status
from hsmbridge.core.messages import PingRequest
from hsmbridge.lab.lab import Lab
from hsmbridge.lab.options import LabOptions
from hsmbridge.wire.codec import decode_error, encode_request
from hsmbridge.wire.frames import HEADER, FrameReader
from hsmbridge.wire.hello import hello

SILENT = 40


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab.start(LabOptions(tpm=False)) as lab:
        yield lab


def _connect(lab: Lab) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(20)
    connection.connect(str(lab.socket))
    return connection


def _to_the_end(connection: socket.socket) -> bytes:
    """Everything until the daemon closes."""
    received = b""
    try:
        while data := connection.recv(65536):
            received += data
    except ConnectionResetError:
        pass
    return received


def _others_are_served(lab: Lab) -> None:
    began = time.monotonic()
    with lab.stack() as stack:
        assert stack.ping(b"still there") == b"still there"
    assert time.monotonic() - began < 1.0


def _status(received: bytes) -> Status:
    frames = list(FrameReader(1 << 20, replies=True).feed(received))
    return decode_error(frames[-1]).status


@pytest.mark.parametrize("seed", range(20))
def test_random_bytes_end_their_own_connection_only(lab: Lab, seed: int) -> None:
    noise = random.Random(seed).randbytes(4096)
    with _connect(lab) as connection:
        connection.sendall(noise)
        connection.shutdown(socket.SHUT_WR)
        _to_the_end(connection)
    _others_are_served(lab)


def test_a_length_of_four_gigabytes_is_refused_at_once(lab: Lab) -> None:
    with _connect(lab) as connection:
        connection.sendall(struct.pack("<IIHHI", 0xFFFF_FFFF, 1, 1, 0, 0))
        assert _status(_to_the_end(connection)) is Status.FRAME_TOO_LARGE
    _others_are_served(lab)


def test_a_frame_cut_anywhere_harms_nobody(lab: Lab) -> None:
    frames = encode_request(1, hello("test")) + encode_request(2, PingRequest(b"payload"))
    for length in range(len(frames)):
        with _connect(lab) as connection:
            connection.sendall(frames[:length])
    _others_are_served(lab)


def test_the_hello_comes_first(lab: Lab) -> None:
    with _connect(lab) as connection:
        connection.sendall(encode_request(1, PingRequest(b"")))
        assert _status(_to_the_end(connection)) is Status.MALFORMED_FRAME


def test_a_body_that_is_no_message_is_answered_and_the_connection_goes_on(lab: Lab) -> None:
    with _connect(lab) as connection:
        connection.sendall(encode_request(1, hello("test")))
        reader = FrameReader(1 << 20, replies=True)
        assert next(iter(reader.feed(connection.recv(65536)))).word == 0
        connection.sendall(HEADER.pack(3, 2, 0x0040, 0, 0) + b"\xc1\xc1\xc1")
        refused = next(iter(reader.feed(connection.recv(65536))))
        assert decode_error(refused).status is Status.MALFORMED_FRAME
        connection.sendall(HEADER.pack(0, 3, 0x7777, 0, 0))
        unknown = next(iter(reader.feed(connection.recv(65536))))
        assert decode_error(unknown).status is Status.UNKNOWN_OPERATION
        connection.sendall(encode_request(4, PingRequest(b"alive")))
        assert next(iter(reader.feed(connection.recv(65536)))).word == 0


def test_forty_silent_connections_hold_nobody_up(lab: Lab) -> None:
    with ExitStack() as held:
        for _ in range(SILENT):
            held.enter_context(_connect(lab))
        _others_are_served(lab)


def test_a_client_that_asks_and_never_reads_is_paused_and_others_are_served(lab: Lab) -> None:
    with _connect(lab) as connection:
        connection.sendall(encode_request(1, hello("test")))
        connection.setblocking(False)
        sent = 0
        payload = PingRequest(bytes(60_000))
        deadline = time.monotonic() + 5
        request_id = 2
        while time.monotonic() < deadline and sent < 200 << 20:
            try:
                sent += connection.send(encode_request(request_id, payload))
            except BlockingIOError:
                break
            request_id += 1
        assert sent < 100 << 20, "the daemon took everything that it was given"
        _others_are_served(lab)
