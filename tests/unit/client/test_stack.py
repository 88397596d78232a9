"""What an application sees of a stack: names, bytes, errors and deadlines."""

import msgspec
import pytest

from hsmbridge.client import Ciphertext, CryptoResourceGuard, CryptoStack, GenerateKeyParams, KeyOperationPermission
from hsmbridge.client import connection as connection_module
from hsmbridge.core import messages as m
from hsmbridge.core.operations import OPERATION_FOR
from hsmbridge.errors import (
    HsmBridgeError,
    LimitError,
    ProviderError,
    RequestError,
    ResourceError,
    SignatureInvalid,
    Status,
    WireError,
)
from hsmbridge.wire.codec import encode_reply
from tests.unit.client.echo_daemon import EchoDaemon, Peer, let_wait, signature_of

SIGN = "ECDSA-P256-SHA256"
P256 = GenerateKeyParams(key_type="EC-P256", permissions=int(KeyOperationPermission.SIGN))


def test_a_slot_is_used_by_its_name_or_by_its_handle(stack: CryptoStack) -> None:
    by_name = stack.sign("web", SIGN, b"message")
    by_handle = stack.slot("web").sign(SIGN, b"message")
    assert by_name == by_handle == signature_of(b"message")


def test_a_signature_is_bytes_that_know_their_key_version(stack: CryptoStack) -> None:
    signature = stack.sign("web", SIGN, b"message")
    assert isinstance(signature, bytes)
    assert signature.version == 1
    assert signature_of(b"message").hex() not in repr(signature)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_a_message_may_be_any_bytes_like_object(stack: CryptoStack, kind: type[bytes | bytearray | memoryview]) -> None:
    assert stack.sign("web", SIGN, kind(b"message")) == signature_of(b"message")


def test_a_name_is_resolved_once_a_connection(stack: CryptoStack, daemon: EchoDaemon) -> None:
    for _ in range(3):
        stack.sign("web", SIGN, b"message")
    assert daemon.requests(m.ResolveRequest) == 1


def test_verify_tells_the_version_and_raises_for_a_wrong_signature(stack: CryptoStack) -> None:
    assert stack.verify("web", SIGN, b"message", signature_of(b"message")) == 1
    with pytest.raises(SignatureInvalid):
        stack.verify("web", SIGN, b"message", signature_of(b"another"))


def test_what_encrypt_gives_decrypt_takes_whole(stack: CryptoStack) -> None:
    sealed = stack.encrypt("web", "AES-256-GCM", b"secret", aad=b"header")
    assert isinstance(sealed, Ciphertext)
    assert stack.decrypt("web", "AES-256-GCM", sealed, aad=b"header") == b"secret"


def test_generate_gives_a_guard_or_the_version_in_a_slot(stack: CryptoStack) -> None:
    guard = stack.generate_key(P256)
    assert isinstance(guard, CryptoResourceGuard)
    assert guard.public_key == b"public"
    assert stack.generate_key(P256, slot="web") == 7


def test_a_slot_that_is_not_there_says_so(stack: CryptoStack) -> None:
    with pytest.raises(ResourceError) as caught:
        stack.sign("nobody", SIGN, b"message")
    assert caught.value.status is Status.RESOURCE_NOT_FOUND


def test_an_error_keeps_its_message_and_incident(stack: CryptoStack, daemon: EchoDaemon) -> None:
    def refuse(peer: Peer, request: msgspec.Struct) -> msgspec.Struct:
        raise ProviderError(Status.PROVIDER_FAILED, "The token failed.", incident="i-1")

    daemon.answers[m.SignRequest] = refuse
    with pytest.raises(ProviderError) as caught:
        stack.sign("web", SIGN, b"message")
    assert (caught.value.message, caught.value.incident) == ("The token failed.", "i-1")


def test_a_reply_that_is_none_to_this_request_is_refused(stack: CryptoStack, daemon: EchoDaemon) -> None:
    def confuse(peer: Peer, request: msgspec.Struct) -> msgspec.Struct:
        peer.socket.sendall(encode_reply(len(peer.requests), OPERATION_FOR[m.SignRequest].opcode, m.SignReply(b"", 1)))
        return let_wait(peer, request)

    daemon.answers[m.PingRequest] = confuse
    with pytest.raises(WireError) as caught:
        stack.ping(b"x")
    assert caught.value.status is Status.MALFORMED_FRAME


def test_the_deadline_goes_with_every_call(stack: CryptoStack, daemon: EchoDaemon) -> None:
    stack.ping()
    stack.ping(timeout=0.25)
    stack.ping(timeout=None)
    assert daemon.deadlines[-3:] == [10_000, 250, 0]


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
def test_a_timeout_that_makes_no_sense_is_refused(stack: CryptoStack, seconds: float) -> None:
    with pytest.raises(RequestError) as caught:
        stack.ping(timeout=seconds)
    assert caught.value.status is Status.INVALID_ARGUMENT


def test_a_daemon_that_does_not_answer_in_time_is_not_waited_for(
    stack: CryptoStack, daemon: EchoDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "GRACE", 0.01)
    daemon.answers[m.SignRequest] = let_wait
    with pytest.raises(ProviderError) as caught:
        stack.sign("web", SIGN, b"message", timeout=0.01)
    assert caught.value.status is Status.OPERATION_TIMED_OUT
    assert stack.ping(b"still there") == b"still there"


def test_the_late_answer_of_a_call_that_was_given_up_disturbs_nobody(
    stack: CryptoStack, daemon: EchoDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "GRACE", 0.01)
    daemon.answers[m.SignRequest] = let_wait
    with pytest.raises(ProviderError):
        stack.sign("web", SIGN, b"message", timeout=0.01)
    peer = daemon.peers[0]
    peer.answer(peer.held[0], m.SignReply(b"late", 1))
    assert stack.ping(b"mine") == b"mine"


def test_data_that_no_frame_carries_is_refused_before_it_is_sent() -> None:
    daemon = EchoDaemon(max_frame=1000)
    daemon.start()
    try:
        with CryptoStack(daemon.path) as stack:
            assert stack.max_frame == 1000
            with pytest.raises(LimitError, match=r"1,000 in one call \(max_frame\)") as caught:
                stack.ping(bytes(100_000))
            assert caught.value.status is Status.DATA_TOO_LARGE
            assert stack.ping(bytes(1000)) == bytes(1000)
    finally:
        daemon.remove()


def test_data_of_the_full_size_passes_both_ways(stack: CryptoStack) -> None:
    data = bytes(range(256)) * (stack.max_frame // 256)
    assert stack.ping(data) == data


def test_a_closed_stack_says_so(daemon: EchoDaemon) -> None:
    stack = CryptoStack(daemon.path)
    stack.close()
    stack.close()
    with pytest.raises(RequestError, match="closed"):
        stack.ping()


def test_no_daemon_at_the_socket_says_what_to_do(daemon: EchoDaemon) -> None:
    daemon.stop()
    with CryptoStack(daemon.path) as stack, pytest.raises(WireError, match="hsmbridge serve") as caught:
        stack.ping()
    assert caught.value.status is Status.DAEMON_UNREACHABLE


def test_a_socket_path_that_is_too_long_is_refused() -> None:
    with pytest.raises(RequestError, match="at most 107"):
        CryptoStack("/tmp/" + "x" * 103)


def test_a_daemon_of_another_protocol_version_is_refused(daemon: EchoDaemon) -> None:
    daemon.answers[m.HelloRequest] = lambda peer, request: m.HelloReply(9, "echo", "uid:0", 1, 1)
    with CryptoStack(daemon.path) as stack, pytest.raises(HsmBridgeError) as caught:
        stack.ping()
    assert caught.value.status is Status.VERSION_NOT_SUPPORTED
