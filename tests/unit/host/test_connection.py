"""The calling end: bytes in, answers out, and what a broken stream leads to."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from hsmbridge.core import calls
from hsmbridge.core.errors import ConnectionLost, ProviderError, Status, WireError
from hsmbridge.providers.host.connection import HostChannel, HostClient, kill_host, peer_pidfd
from hsmbridge.providers.host.messages import ATTACH_OPCODE, AttachReply
from hsmbridge.wire.codec import CALL_OPCODE, encode_call_reply, encode_error, encode_message
from hsmbridge.wire.frames import FrameReader

SIGN = calls.SignCall(1, "ECDSA-P256-SHA256", b"message")
ATTACHED = encode_message(ATTACH_OPCODE, 0, AttachReply("toy", bytes(16), 1), reply=True)


def test_answers_belong_to_their_calls_in_whatever_order_they_come() -> None:
    channel = HostChannel()
    first, _ = channel.call(SIGN)
    second, _ = channel.call(calls.LoadCall(b"i" * 16, "EC-P256", 4, b"", b""))
    third, _ = channel.call(calls.UnloadCall(1))
    data = (
        ATTACHED
        + encode_call_reply(third, None)
        + encode_error(second, CALL_OPCODE, ProviderError(Status.WRONG_TOKEN, "another", incident="77"))
        + encode_call_reply(first, b"signature")
    )
    answers = [answer for piece in (data[:50], data[50:51], data[51:]) for answer in channel.feed(piece)]
    assert [answer.request_id for answer in answers] == [third, second, first]
    assert answers[2].reply == b"signature"
    failure = answers[1].failure
    assert isinstance(failure, ProviderError)
    assert (failure.status, failure.message, failure.incident) == (Status.WRONG_TOKEN, "another", "77")
    assert channel.under_way == 0


def test_the_deadline_travels_in_the_frame() -> None:
    _, data = HostChannel().call(SIGN, 1234)
    (frame,) = FrameReader(4096).feed(data)
    assert frame.word == 1234


def test_request_ids_start_again_before_they_overflow_and_are_never_zero() -> None:
    channel = HostChannel()
    channel._last_id = 0xFFFF_FFFE
    assert [channel.call(SIGN)[0] for _ in range(2)] == [0xFFFF_FFFF, 1]


@pytest.mark.parametrize(
    "data",
    [
        encode_call_reply(99, b"x"),
        ATTACHED + ATTACHED,
        encode_message(0x8002, 0, AttachReply("toy", b"", 1), reply=True),
        encode_message(ATTACH_OPCODE, 0, AttachReply("toy", b"", 1)),
    ],
    ids=["unasked", "attached twice", "another opcode", "a request"],
)
def test_an_answer_to_what_was_not_asked_ends_the_connection(data: bytes) -> None:
    channel = HostChannel()
    channel.call(SIGN)
    with pytest.raises(WireError) as refused:
        channel.feed(data)
    assert refused.value.status is Status.MALFORMED_FRAME


def test_an_answer_of_the_wrong_type_ends_the_connection() -> None:
    channel = HostChannel()
    request_id, _ = channel.call(SIGN)
    with pytest.raises(WireError):
        channel.feed(encode_call_reply(request_id, 5))


def test_what_was_under_way_when_the_connection_ended_is_named() -> None:
    channel = HostChannel()
    ids = [channel.call(SIGN)[0] for _ in range(3)]
    assert channel.lost() == ids
    assert channel.under_way == 0


def test_a_client_of_a_host_that_is_not_there_says_so() -> None:
    with pytest.raises(ConnectionLost, match="not there"):
        HostClient(Path("/nonexistent/toy.sock"))


LISTENER = """
import socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
print("listening", flush=True)
connection, _ = listener.accept()
connection.recv(1)
"""


def test_the_process_behind_a_socket_can_be_killed_and_only_while_it_is_that_process() -> None:
    with tempfile.TemporaryDirectory(prefix="hb", dir="/tmp") as directory:
        path = f"{directory}/s"
        with (
            subprocess.Popen((sys.executable, "-c", LISTENER, path), stdout=subprocess.PIPE) as listener,
            socket.socket(socket.AF_UNIX) as connection,
        ):
            assert listener.stdout is not None
            listener.stdout.readline()
            connection.connect(path)
            os.close(peer_pidfd(connection.fileno()))
            kill_host(connection.fileno())
            assert listener.wait(30) == -signal.SIGKILL
            with pytest.raises(ProcessLookupError):
                peer_pidfd(connection.fileno())
            kill_host(connection.fileno())
