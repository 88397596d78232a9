"""One connection a process: shared by stacks and threads, closed by count, left alone by children."""

import os
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest

from hsmbridge.client import CryptoStack, GenerateKeyParams, KeyOperationPermission
from hsmbridge.client import connection as connection_module
from hsmbridge.client import shared as shared_module
from hsmbridge.core import messages as m
from hsmbridge.errors import ConnectionLost, HsmBridgeError, ProviderError, Status
from tests.unit.client.echo_daemon import EchoDaemon, Peer, let_wait, signature_of

SIGN = "ECDSA-P256-SHA256"
P256 = GenerateKeyParams(key_type="EC-P256", permissions=int(KeyOperationPermission.SIGN))


def in_thread(action: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    return thread


def in_child(action: Callable[[], bool]) -> int:
    """Run `action` in a forked child; its exit code, 0 for True."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if action() else 1)
        except BaseException:  # noqa: BLE001 - the end of a process; the parent reads the code
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_stacks_of_a_process_share_one_connection(daemon: EchoDaemon) -> None:
    with CryptoStack(daemon.path) as one, CryptoStack(str(daemon.path)) as other:
        one.ping()
        other.ping()
        assert len(daemon.peers) == 1


def test_the_last_stack_closes_a_counted_connection(daemon: EchoDaemon) -> None:
    with CryptoStack(daemon.path) as one:
        with CryptoStack(daemon.path) as other:
            other.ping()
        one.ping()
        assert len(daemon.peers) == 1
    with CryptoStack(daemon.path) as another:
        another.ping()
        assert len(daemon.peers) == 2


def test_a_stack_that_is_collected_counts_as_closed(daemon: EchoDaemon) -> None:
    CryptoStack(daemon.path).ping()
    with CryptoStack(daemon.path) as another:
        another.ping()
    assert len(daemon.peers) == 2


def test_a_fixed_connection_outlives_its_stacks(daemon: EchoDaemon) -> None:
    for _ in range(2):
        with CryptoStack(daemon.path, lifetime="fixed") as stack:
            stack.ping()
    assert len(daemon.peers) == 1


def test_two_daemons_have_a_connection_each(daemon: EchoDaemon, stack: CryptoStack) -> None:
    other = EchoDaemon()
    other.start()
    try:
        with CryptoStack(other.path) as second:
            assert (stack.ping(b"1"), second.ping(b"2")) == (b"1", b"2")
        assert (len(daemon.peers), len(other.peers)) == (1, 1)
    finally:
        other.remove()


def test_replies_reach_the_thread_that_waits_for_them_in_any_order(stack: CryptoStack, daemon: EchoDaemon) -> None:
    count = 12
    stack.slot("web").sign(SIGN, b"resolved")
    daemon.answers[m.SignRequest] = let_wait
    with ThreadPoolExecutor(count) as pool:
        futures = [pool.submit(stack.sign, "web", SIGN, b"%d" % number) for number in range(count)]
        for _ in range(count):
            assert daemon.waiting.acquire(timeout=10)
        peer = daemon.peers[0]
        waiting = [(frame, request) for frame, request in zip(peer.held, sign_requests(peer)[1:], strict=True)]
        random.Random(7).shuffle(waiting)
        for frame, request in waiting:
            peer.answer(frame, m.SignReply(signature_of(request.message), 1))
        assert [future.result(10) for future in futures] == [signature_of(b"%d" % number) for number in range(count)]
    assert len(daemon.peers) == 1


def test_a_thread_is_served_while_another_waits_for_long(stack: CryptoStack, daemon: EchoDaemon) -> None:
    daemon.answers[m.SignRequest] = let_wait
    results: list[bytes] = []
    thread = in_thread(lambda: results.append(stack.sign("web", SIGN, b"slow")))
    assert daemon.waiting.acquire(timeout=10)
    for number in range(50):
        assert stack.ping(b"%d" % number) == b"%d" % number
    peer = daemon.peers[0]
    peer.answer(peer.held[0], m.SignReply(b"at last", 1))
    thread.join(10)
    assert results == [b"at last"]


def test_the_lead_is_passed_on_when_the_leader_gives_up(
    stack: CryptoStack, daemon: EchoDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "GRACE", 0.01)
    daemon.answers[m.SignRequest] = let_wait
    problems: list[HsmBridgeError] = []
    results: list[bytes] = []

    def give_up() -> None:
        try:
            stack.sign("web", SIGN, b"leader", timeout=0.5)
        except HsmBridgeError as problem:
            problems.append(problem)

    leader = in_thread(give_up)
    assert daemon.waiting.acquire(timeout=10)
    follower = in_thread(lambda: results.append(stack.sign("web", SIGN, b"follower", timeout=30)))
    assert daemon.waiting.acquire(timeout=10)
    leader.join(10)
    peer = daemon.peers[0]
    peer.answer(peer.held[1], m.SignReply(b"followed", 1))
    follower.join(10)
    assert [problem.status for problem in problems] == [Status.OPERATION_TIMED_OUT]
    assert results == [b"followed"]


def test_a_follower_gives_up_at_its_own_deadline(
    stack: CryptoStack, daemon: EchoDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "GRACE", 0.01)
    daemon.answers[m.SignRequest] = let_wait
    results: list[bytes] = []
    leader = in_thread(lambda: results.append(stack.sign("web", SIGN, b"leader", timeout=30)))
    assert daemon.waiting.acquire(timeout=10)
    with pytest.raises(ProviderError) as caught:
        stack.sign("web", SIGN, b"follower", timeout=0.05)
    assert caught.value.status is Status.OPERATION_TIMED_OUT
    peer = daemon.peers[0]
    peer.answer(peer.held[0], m.SignReply(b"led", 1))
    leader.join(10)
    assert results == [b"led"]


def test_no_thread_waits_for_the_attempts_of_the_others_to_connect(
    daemon: EchoDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "GRACE", 0.1)
    monkeypatch.setattr(shared_module, "GRACE", 0.1)
    daemon.answers[m.HelloRequest] = let_wait
    with CryptoStack(daemon.path, timeout=0.5) as stack, ThreadPoolExecutor(30) as pool:
        began = time.monotonic()
        failures = [future.exception() for future in [pool.submit(stack.ping) for _ in range(30)]]
    assert {type(failure) for failure in failures} == {ProviderError}
    assert time.monotonic() - began < 9, "one after the other they would take eighteen seconds"


def test_every_thread_learns_of_a_lost_connection(stack: CryptoStack, daemon: EchoDaemon) -> None:
    stack.sign("web", SIGN, b"resolved")
    daemon.answers[m.EncryptRequest] = let_wait
    with ThreadPoolExecutor(6) as pool:
        futures = [pool.submit(stack.encrypt, "web", "AES-256-GCM", b"x") for _ in range(6)]
        for _ in range(6):
            assert daemon.waiting.acquire(timeout=10)
        daemon.hang_up()
        problems = [future.exception(10) for future in futures]
    assert all(isinstance(problem, ConnectionLost) for problem in problems)
    assert len({id(problem) for problem in problems}) == 6


def test_sixteen_threads_get_what_each_asked_for(stack: CryptoStack, daemon: EchoDaemon) -> None:
    def work(number: int) -> bool:
        for turn in range(300):
            message = b"%d of %d" % (turn, number) * (1 + 500 * (turn % 20 == 0))
            if stack.sign("web", SIGN, message) != signature_of(message) or stack.ping(message) != message:
                return False
        return True

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(work, range(16), timeout=100))
    assert len(daemon.peers) == 1


def test_threads_go_on_over_a_daemon_that_keeps_dying(stack: CryptoStack, daemon: EchoDaemon) -> None:
    done = threading.Event()

    def die_now_and_then(peer: Peer, request: msgspec.Struct) -> msgspec.Struct:
        assert isinstance(request, m.PingRequest)
        if request.payload == b"die":
            peer.hang_up()
        return m.PingReply(request.payload)

    def work(number: int) -> int:
        losses = 0
        for turn in range(200):
            payload = b"%d %d" % (number, turn)
            try:
                assert stack.ping(payload) == payload
            except ConnectionLost:
                losses += 1
        return losses

    def kill() -> None:
        while not done.is_set():
            try:
                stack.ping(b"die")
            except HsmBridgeError:
                continue

    daemon.answers[m.PingRequest] = die_now_and_then
    killer = in_thread(kill)
    with ThreadPoolExecutor(4) as pool:
        # The only errors are losses that struck twice; nothing hangs and nothing is mixed up.
        assert all(losses < 200 for losses in pool.map(work, range(4), timeout=100))
    done.set()
    killer.join(10)


def test_a_child_opens_a_connection_of_its_own(stack: CryptoStack, daemon: EchoDaemon) -> None:
    stack.sign("web", SIGN, b"message")
    assert in_child(lambda: stack.sign("web", SIGN, b"child") == signature_of(b"child")) == 0
    assert stack.sign("web", SIGN, b"parent") == signature_of(b"parent")
    assert len(daemon.peers) == 2


def test_a_child_may_fork_while_other_threads_are_in_calls(stack: CryptoStack, daemon: EchoDaemon) -> None:
    daemon.answers[m.SignRequest] = let_wait
    results: list[bytes] = []
    thread = in_thread(lambda: results.append(stack.sign("web", SIGN, b"slow")))
    assert daemon.waiting.acquire(timeout=10)
    assert in_child(lambda: stack.ping(b"child") == b"child") == 0
    peer = daemon.peers[0]
    peer.answer(peer.held[0], m.SignReply(b"at last", 1))
    thread.join(10)
    assert results == [b"at last"]


def test_a_guard_of_the_parent_is_dead_in_the_child_and_alive_in_the_parent(
    stack: CryptoStack, daemon: EchoDaemon
) -> None:
    guard = stack.generate_key(P256)

    def use_in_child() -> bool:
        try:
            stack.sign(guard, SIGN, b"child")
        except ConnectionLost:
            return not guard.active
        return False

    assert in_child(use_in_child) == 0
    assert guard.active
    assert stack.sign(guard, SIGN, b"parent") == signature_of(b"parent")
    assert daemon.peers[0].released == []


def sign_requests(peer: Peer) -> list[m.SignRequest]:
    return [request for request in peer.requests if isinstance(request, m.SignRequest)]
