"""Guards: an ephemeral key is given back when it is released, left, or collected."""

import gc

import msgspec
import pytest

from hsmbridge.client import CryptoStack, GenerateKeyParams, KeyOperationPermission
from hsmbridge.client import connection as connection_module
from hsmbridge.core import messages as m
from hsmbridge.errors import ConnectionLost, HsmBridgeError, ProviderError, ResourceError, Status
from tests.unit.client.echo_daemon import EchoDaemon, Peer, let_wait, signature_of

SIGN = "ECDSA-P256-SHA256"
P256 = GenerateKeyParams(key_type="EC-P256", permissions=int(KeyOperationPermission.SIGN))


def refuse(peer: Peer, request: msgspec.Struct) -> msgspec.Struct:
    raise ProviderError(Status.PROVIDER_FAILED)


def test_a_guard_is_used_wherever_a_key_is_named(stack: CryptoStack) -> None:
    with stack.generate_key(P256) as guard:
        assert guard.active
        assert stack.sign(guard, SIGN, b"m") == stack.sign(guard.resource, SIGN, b"m") == guard.sign(SIGN, b"m")


def test_leaving_the_block_gives_the_key_back(stack: CryptoStack, daemon: EchoDaemon) -> None:
    with stack.generate_key(P256) as guard:
        resource = guard.resource
    assert daemon.peers[0].released == [resource]
    assert not guard.active
    with pytest.raises(ResourceError, match="released"):
        guard.sign(SIGN, b"m")


def test_a_second_release_does_nothing(stack: CryptoStack, daemon: EchoDaemon) -> None:
    guard = stack.generate_key(P256)
    guard.release()
    guard.release()
    assert len(daemon.peers[0].released) == 1


def test_release_reports_what_goes_wrong(stack: CryptoStack, daemon: EchoDaemon) -> None:
    guard = stack.generate_key(P256)
    daemon.answers[m.ReleaseRequest] = refuse
    with pytest.raises(ProviderError):
        guard.release()


def test_the_implicit_release_swallows_what_goes_wrong(stack: CryptoStack, daemon: EchoDaemon) -> None:
    daemon.answers[m.ReleaseRequest] = refuse
    with stack.generate_key(P256) as guard:
        assert guard.sign(SIGN, b"m")
    with pytest.raises(ZeroDivisionError), stack.generate_key(P256):
        raise ZeroDivisionError


def test_a_collected_guard_sends_nothing_until_the_next_call(stack: CryptoStack, daemon: EchoDaemon) -> None:
    guard = stack.generate_key(P256)
    resource = guard.resource
    del guard
    gc.collect()
    assert daemon.requests(m.ReleaseRequest) == 0
    assert stack.ping(b"next") == b"next"
    assert daemon.peers[0].released == [resource]


def test_many_collected_guards_go_with_one_call(stack: CryptoStack, daemon: EchoDaemon) -> None:
    guards = [stack.generate_key(P256) for _ in range(50)]
    del guards
    gc.collect()
    stack.ping()
    stack.ping()
    assert len(daemon.peers[0].released) == 50


def test_a_guard_of_a_lost_connection_bothers_nobody(stack: CryptoStack, daemon: EchoDaemon) -> None:
    guard = stack.generate_key(P256)
    daemon.hang_up()
    stack.ping()
    with pytest.raises(ConnectionLost):
        guard.release()
    del guard
    gc.collect()
    stack.ping()
    assert daemon.requests(m.ReleaseRequest) == 0


def test_closing_the_stack_ends_its_guards(daemon: EchoDaemon) -> None:
    stack = CryptoStack(daemon.path)
    guard = stack.generate_key(P256)
    stack.close()
    assert not guard.active
    with pytest.raises(HsmBridgeError):
        guard.sign(SIGN, b"m")


def test_a_key_whose_maker_gave_up_is_given_back_when_it_comes(
    stack: CryptoStack, daemon: EchoDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "GRACE", 0.01)
    daemon.answers[m.GenerateRequest] = let_wait
    with pytest.raises(ProviderError):
        stack.generate_key(P256, timeout=0.01)
    peer = daemon.peers[0]
    late = peer.new_id("")
    peer.answer(peer.held[0], m.KeyReply(late, 0, b""))
    stack.ping()
    stack.ping()
    assert peer.released == [late]


def test_a_guard_shows_no_id(stack: CryptoStack) -> None:
    with stack.generate_key(P256) as guard:
        assert str(guard.resource.number) not in repr(guard)
        assert signature_of(b"m") == guard.sign(SIGN, b"m")
