"""After a lost connection: what is sent again, what never is, and what is dead."""

import os
import subprocess
import sys
from collections.abc import Callable

import msgspec
import pytest

from hsmbridge.client import CryptoStack, GenerateKeyParams, KeyOperationPermission
from hsmbridge.core import messages as m
from hsmbridge.core.identifiers import CryptoResourceId, ResourceKind
from hsmbridge.errors import ConnectionLost, LimitError, ResourceError, Status, WireError
from tests.unit.client.echo_daemon import EchoDaemon, Peer, hang_up, signature_of

SIGN = "ECDSA-P256-SHA256"
P256 = GenerateKeyParams(key_type="EC-P256", permissions=int(KeyOperationPermission.SIGN))


def test_a_slot_is_found_again_after_the_daemon_was_restarted(stack: CryptoStack, daemon: EchoDaemon) -> None:
    slot = stack.slot("web")
    slot.sign(SIGN, b"message")
    daemon.stop()
    daemon.start()
    assert slot.sign(SIGN, b"message") == signature_of(b"message")


def test_a_request_that_was_not_sent_goes_out_on_a_new_connection(stack: CryptoStack, daemon: EchoDaemon) -> None:
    stack.ping()
    daemon.stop()
    daemon.start()
    stack.encrypt("web", "AES-256-GCM", b"once")
    assert daemon.requests(m.EncryptRequest) == 1


@pytest.mark.parametrize("size", [1, 1_000_000])
def test_a_request_that_a_stopping_daemon_left_unread_goes_out_on_a_new_connection(
    stack: CryptoStack, daemon: EchoDaemon, size: int
) -> None:
    def finish(peer: Peer, request: msgspec.Struct) -> msgspec.Struct:
        peer.finishing = True
        return m.PingReply()

    daemon.answers[m.PingRequest] = finish
    stack.ping()
    assert stack.encrypt("web", "AES-256-GCM", b"x" * size).ciphertext == b"x" * size
    assert daemon.requests(m.EncryptRequest) == 1
    assert len(daemon.peers) == 2


def test_why_the_daemon_refuses_a_connection_is_told(stack: CryptoStack, daemon: EchoDaemon) -> None:
    daemon.refusal = LimitError(Status.TOO_MANY_CONNECTIONS, "The daemon has as many connections as it takes.")
    for _ in range(20):
        with pytest.raises(LimitError, match="as many connections as it takes") as caught:
            stack.ping()
        assert caught.value.status is Status.TOO_MANY_CONNECTIONS
    daemon.refusal = None
    assert stack.ping(b"x") == b"x"


def test_a_request_that_does_no_harm_is_sent_again_once(stack: CryptoStack, daemon: EchoDaemon) -> None:
    signing = daemon.answers[m.SignRequest]

    def die_once(peer: Peer, request: msgspec.Struct) -> msgspec.Struct:
        daemon.answers[m.SignRequest] = signing
        return hang_up(peer, request)

    daemon.answers[m.SignRequest] = die_once
    assert stack.sign("web", SIGN, b"message") == signature_of(b"message")
    assert daemon.requests(m.SignRequest) == 2


def test_the_second_loss_is_reported(stack: CryptoStack, daemon: EchoDaemon) -> None:
    daemon.answers[m.SignRequest] = hang_up
    with pytest.raises(ConnectionLost):
        stack.sign("web", SIGN, b"message")
    assert daemon.requests(m.SignRequest) == 2


UNREPEATABLE: dict[str, Callable[[CryptoStack], object]] = {
    "encrypt": lambda stack: stack.encrypt("web", "AES-256-GCM", b"once"),
    "generate into a slot": lambda stack: stack.generate_key(P256, slot="web"),
    "rotate": lambda stack: stack.rotate("web"),
}


@pytest.mark.parametrize("call", UNREPEATABLE.values(), ids=UNREPEATABLE)
def test_a_request_that_may_have_been_carried_out_is_not_sent_again(
    stack: CryptoStack, daemon: EchoDaemon, call: Callable[[CryptoStack], object]
) -> None:
    kinds = (m.EncryptRequest, m.GenerateRequest, m.SlotRotateRequest)
    for kind in kinds:
        daemon.answers[kind] = hang_up
    with pytest.raises(ConnectionLost, match="not known") as caught:
        call(stack)
    assert caught.value.status is Status.CONNECTION_LOST
    assert sum(daemon.requests(kind) for kind in kinds) == 1


def test_a_guard_dies_with_its_connection(stack: CryptoStack, daemon: EchoDaemon) -> None:
    guard = stack.generate_key(P256)
    assert stack.sign(guard, SIGN, b"message")
    daemon.hang_up()
    with pytest.raises(ConnectionLost):
        stack.sign(guard, SIGN, b"message")
    assert not guard.active
    with pytest.raises(ConnectionLost):
        stack.sign(guard, SIGN, b"message")
    assert daemon.requests(m.SignRequest) == 1


def test_a_bare_id_of_the_old_connection_is_not_sent_again(stack: CryptoStack, daemon: EchoDaemon) -> None:
    stack.ping()
    daemon.hang_up()
    with pytest.raises(ConnectionLost):
        stack.sign(CryptoResourceId(1, ResourceKind.KEY), SIGN, b"message")
    assert daemon.requests(m.SignRequest) == 0


def test_a_slot_that_was_made_anew_is_looked_up_again(stack: CryptoStack, daemon: EchoDaemon) -> None:
    stack.sign("web", SIGN, b"message")
    daemon.peers[0].forget("web")
    assert stack.sign("web", SIGN, b"message") == signature_of(b"message")
    assert daemon.requests(m.ResolveRequest) == 2


def test_a_slot_that_is_gone_is_reported_after_one_more_look(stack: CryptoStack, daemon: EchoDaemon) -> None:
    stack.sign("web", SIGN, b"message")
    daemon.peers[0].forget("web")
    daemon.slots.discard("web")
    with pytest.raises(ResourceError):
        stack.sign("web", SIGN, b"message")
    assert daemon.requests(m.ResolveRequest) == 2


def test_a_daemon_process_that_dies_during_the_hello_is_asked_again(stack: CryptoStack, daemon: EchoDaemon) -> None:
    greeting = daemon.answers[m.HelloRequest]

    def die_once(peer: Peer, request: msgspec.Struct) -> msgspec.Struct:
        daemon.answers[m.HelloRequest] = greeting
        return hang_up(peer, request)

    daemon.answers[m.HelloRequest] = die_once
    assert stack.ping(b"x") == b"x"


def test_a_daemon_that_ends_every_connection_is_not_asked_for_ever(stack: CryptoStack, daemon: EchoDaemon) -> None:
    daemon.answers[m.HelloRequest] = hang_up
    with pytest.raises(WireError, match="its log") as caught:
        stack.ping()
    assert caught.value.status is Status.DAEMON_UNREACHABLE
    assert len(daemon.peers) == 3


def test_a_lost_daemon_does_not_kill_a_program_that_dies_of_sigpipe(daemon: EchoDaemon) -> None:
    program = """
import signal, sys
from hsmbridge.client import CryptoStack
from hsmbridge.errors import WireError
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
with CryptoStack(sys.argv[1]) as stack:
    stack.ping()
    print("connected", flush=True)
    sys.stdin.readline()
    try:
        stack.ping(bytes(1_000_000))
    except WireError as problem:
        print(problem.status.name)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", program, str(daemon.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        assert child.stdout.readline() == "connected\n"
        daemon.stop()
        output, _ = child.communicate("go\n", timeout=30)
    assert output == "DAEMON_UNREACHABLE\n"
    assert child.returncode == 0
