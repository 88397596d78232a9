"""A provider host's socket: who is served, what a call's outcome looks like, and in which order keys live and die."""

import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from hsmbridge.core import calls
from hsmbridge.core.errors import ProviderError, ResourceError, SignatureInvalid, Status
from hsmbridge.core.peer import PeerCredentials
from hsmbridge.providers.host import server as server_module
from hsmbridge.providers.host.connection import Answer, HostChannel, HostClient
from hsmbridge.providers.host.messages import CONTROL_OPCODE, STOP_OPCODE, ControlReply, ControlRequest, StopRequest
from hsmbridge.providers.host.server import HostServer, listen
from hsmbridge.providers.host.spec import HostSpec
from hsmbridge.providers.registry import ProviderSpec
from hsmbridge.wire.codec import decode_body, encode_call, encode_message
from hsmbridge.wire.frames import HEADER, FrameReader
from tests.unit.host.toy_provider import ToyProvider

PATIENCE = 30.0
KEY_ID = b"0123456789abcdef"


def sign(message: bytes) -> calls.SignCall:
    return calls.SignCall(1, "ECDSA-P256-SHA256", message)


def generate(key_id: bytes = KEY_ID, label: str = "") -> calls.GenerateCall:
    return calls.GenerateCall(calls.KeyTarget(key_id, "EC-P256", 12, label=label))


DESTROY = calls.DestroyCall(KEY_ID, "EC-P256", b"")


class Host:
    """A server in a thread of this process, over a toy provider that the test can hold up."""

    def __init__(self, drain_timeout: float = 600.0) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="hb", dir="/tmp"))
        self.spec = HostSpec(
            provider=ProviderSpec(name="toy", uri="toy:"),
            directory=str(self.directory),
            max_frame=4096,
            drain_timeout=drain_timeout,
        )
        self.provider = ToyProvider()
        self.server = HostServer(self.spec, self.provider, listen(self.spec.socket_path))
        self.answered_all: bool | None = None
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _serve(self) -> None:
        self.answered_all = self.server.serve()

    def client(self) -> HostClient:
        return HostClient(self.spec.socket_path, max_frame=4096, timeout=PATIENCE)

    def connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(PATIENCE)
        connection.connect(str(self.spec.socket_path))
        return connection

    def control(self, digest: bytes | None = None) -> tuple[socket.socket, ControlReply]:
        connection = self.connect()
        request = ControlRequest(self.spec.digest() if digest is None else digest)
        connection.sendall(encode_message(CONTROL_OPCODE, 1, request))
        (frame,) = FrameReader(4096, replies=True).feed(connection.recv(4096))
        return connection, decode_body(ControlReply, frame.body)

    def close(self) -> None:
        self.provider.gate.set()
        self.server.stop()
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()
        self.server.close()
        self.directory.rmdir()


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host()
    yield host
    host.close()


def test_a_call_is_answered(host: Host) -> None:
    with host.client() as client:
        assert client.call(sign(b"message")) == b"message"
        made = client.call(generate())
        assert isinstance(made, calls.MadeKey)
        assert client.call(calls.ListCall()) == [KEY_ID]


def test_every_connection_learns_the_same_incarnation(host: Host) -> None:
    with host.client() as one, host.client() as another:
        assert one.host == another.host
        assert len(one.host.incarnation) == 16
        assert one.host.name == "toy"


def test_an_expected_error_comes_as_it_was_and_is_not_logged(host: Host) -> None:
    with capture_logs() as log, host.client() as client:
        with pytest.raises(SignatureInvalid) as refused:
            client.call(calls.VerifyCall(1, "ECDSA-P256-SHA256", b"message", b"other"))
        assert refused.value.incident == ""
    assert log == []


def test_a_providers_error_is_logged_with_its_origin_under_the_incident_that_the_caller_gets(host: Host) -> None:
    with (
        capture_logs() as log,
        host.client() as client,
        pytest.raises(ProviderError, match="The token is gone") as failed,
    ):
        client.call(sign(b"token gone"))
    assert failed.value.status is Status.TOKEN_NOT_PRESENT
    (entry,) = log
    assert (entry["incident"], entry["origin"]) == (failed.value.incident, "toy: CKR_SECRET_DETAIL")


def test_a_fault_in_the_providers_code_is_provider_failed_and_tells_nothing_else(host: Host) -> None:
    with capture_logs() as log, host.client() as client:
        with pytest.raises(ProviderError) as failed:
            client.call(sign(b"bug"))
        assert client.call(sign(b"after")) == b"after"
    assert failed.value.status is Status.PROVIDER_FAILED
    assert "secret" not in failed.value.message
    assert log[0]["incident"] == failed.value.incident


def test_a_call_that_the_provider_does_not_have_is_not_supported(host: Host) -> None:
    with host.client() as client, pytest.raises(Exception, match="cannot give random bytes") as refused:
        client.call(calls.RandomCall(8))
    assert getattr(refused.value, "status", None) is Status.NOT_SUPPORTED


def test_calls_on_several_connections_do_not_wait_for_each_other(host: Host) -> None:
    with host.client() as slow, host.client() as quick:
        waiting = threading.Thread(target=slow.call, args=(sign(b"wait"),))
        waiting.start()
        assert host.provider.begun.wait(PATIENCE)
        assert quick.call(sign(b"quick")) == b"quick"
        host.provider.gate.set()
        waiting.join(PATIENCE)


def test_pipelined_calls_are_answered_in_order_after_the_greeting(host: Host) -> None:
    channel = HostChannel(4096)
    with host.connect() as connection:
        data = channel.attach("test")
        ids = []
        for number in range(5):
            request_id, call = channel.call(sign(b"%d" % number))
            ids.append((request_id, b"%d" % number, None))
            data += call
        connection.sendall(data)
        answers: list[Answer] = []
        while len(answers) < 5:
            answers += channel.feed(connection.recv(65536))
    assert answers == ids
    assert channel.host is not None


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        HEADER.pack(0xFFFF_FFFF, 1, 0x8001, 0, 0),
        HEADER.pack(4, 1, 0x8001, 0, 0) + b"\xc1\xc1\xc1\xc1",
        HEADER.pack(1, 1, 0x8003, 0, 0) + b"\x90",
        bytes(encode_call(1, sign(b"no greeting"))),
    ],
    ids=["http", "4 GiB", "no MessagePack", "stop without control", "no greeting"],
)
def test_who_begins_with_garbage_is_disconnected_and_the_others_are_served_on(host: Host, garbage: bytes) -> None:
    with host.client() as client, host.connect() as connection:
        connection.sendall(garbage)
        assert connection.recv(4096) == b""
        assert client.call(sign(b"message")) == b"message"


def test_garbage_after_the_greeting_disconnects_too(host: Host) -> None:
    with host.connect() as connection:
        connection.sendall(HostChannel(4096).attach())
        assert connection.recv(4096)
        connection.sendall(HEADER.pack(0xFFFF_FFFF, 1, 0x8000, 0, 0))
        assert connection.recv(4096) == b""


def test_a_call_that_cannot_be_read_is_answered_with_the_reason(host: Host) -> None:
    channel = HostChannel(4096)
    with host.connect() as connection:
        connection.sendall(channel.attach())
        channel.feed(connection.recv(4096))
        request_id, _ = channel.call(sign(b""))
        connection.sendall(HEADER.pack(1, request_id, 0x8000, 0, 0) + b"\xc1")
        ((answered, _, failure),) = channel.feed(connection.recv(4096))
    assert answered == request_id
    assert failure is not None
    assert failure.status is Status.MALFORMED_FRAME


def test_other_users_are_not_served(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "peer_credentials", lambda connection: PeerCredentials(1, 12_345, 12_345))
    with capture_logs() as log, host.connect() as connection:
        assert connection.recv(4096) == b""
    assert log[0]["uid"] == 12_345


# Creation and destruction


def test_destroying_a_key_that_is_being_made_waits_and_wins(host: Host) -> None:
    with host.client() as maker, host.client() as sweeper:
        making = threading.Thread(target=maker.call, args=(generate(label="slow"),))
        making.start()
        assert host.provider.begun.wait(PATIENCE)
        sweeping = threading.Thread(target=sweeper.call, args=(DESTROY,))
        sweeping.start()
        with host.client() as other:
            # Another key is not held up by this one.
            other.call(calls.DestroyCall(b"another-key-id!!", "EC-P256", b""))
        host.provider.gate.set()
        making.join(PATIENCE)
        sweeping.join(PATIENCE)
    assert host.provider.events[-2:] == [f"made {KEY_ID.hex()}", f"destroyed {KEY_ID.hex()}"]
    assert host.provider.keys == {}


def test_a_creation_that_comes_after_the_destruction_of_its_key_is_refused(host: Host) -> None:
    with host.client() as client:
        client.call(DESTROY)
        with pytest.raises(ResourceError, match="destroyed before it was made"):
            client.call(generate())
        assert host.provider.keys == {}


def test_a_creation_of_a_caller_that_died_is_done_before_its_key_is_destroyed(host: Host) -> None:
    channel = HostChannel(4096)
    with host.connect() as connection:
        connection.sendall(channel.attach() + channel.call(generate(label="slow"))[1])
        assert host.provider.begun.wait(PATIENCE)
    with host.client() as sweeper:
        sweeping = threading.Thread(target=sweeper.call, args=(DESTROY,))
        sweeping.start()
        host.provider.gate.set()
        sweeping.join(PATIENCE)
    assert host.provider.keys == {}


# Control


def test_a_supervisor_with_the_same_specification_adopts_and_another_does_not(host: Host) -> None:
    same, reply = host.control()
    other, refusal = host.control(b"another digest")
    assert (reply.adopted, refusal.adopted) == (True, False)
    assert reply.incarnation == refusal.incarnation == host.server.incarnation
    same.close()
    other.close()


def test_told_to_stop_it_answers_what_is_under_way_and_ends(host: Host) -> None:
    control, _ = host.control()
    answers: list[calls.ProviderReply] = []
    with control, host.client() as client:
        waiting = threading.Thread(target=lambda: answers.append(client.call(sign(b"wait"))))
        waiting.start()
        assert host.provider.begun.wait(PATIENCE)
        control.sendall(encode_message(STOP_OPCODE, 2, StopRequest()))
        host.provider.gate.set()
        waiting.join(PATIENCE)
        host.thread.join(PATIENCE)
    assert answers == [b"wait"]
    assert host.answered_all is True
    assert not host.spec.socket_path.exists()


def test_a_call_that_hangs_does_not_keep_a_stopping_host_alive(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "STOP_PATIENCE", 0.2)
    with host.connect() as connection:
        connection.sendall(HostChannel(4096).attach() + encode_call(1, sign(b"wait")))
        assert host.provider.begun.wait(PATIENCE)
        host.server.stop()
        host.thread.join(PATIENCE)
        assert host.answered_all is False
        host.provider.gate.set()


def test_without_a_supervisor_it_ends_after_the_drain_timeout_and_with_one_it_does_not() -> None:
    host = Host(drain_timeout=0.2)
    try:
        control, _ = host.control()
        host.thread.join(0.5)
        assert host.thread.is_alive()
        control.close()
        host.thread.join(PATIENCE)
        assert not host.thread.is_alive()
    finally:
        host.close()
