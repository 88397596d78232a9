"""Lanes: short calls run inline, others on threads; a call that hangs costs its thread and no more."""

import threading
from collections.abc import Iterator
from queue import Queue

import pytest

from hsmbridge.core import calls
from hsmbridge.core.errors import HsmBridgeError, ProviderError, RequestError, Status
from hsmbridge.core.key_types import KeyType
from hsmbridge.core.params import Argon2id, Hkdf
from hsmbridge.engine.lanes import MAX_HUNG_CALLS, ThreadLane, Ticket, UnavailableLane, is_short
from hsmbridge.providers.base import Provider

Answer = tuple[calls.ProviderReply, HsmBridgeError | None]


class HangingProvider(Provider):
    """`random(0)` hangs until the test lets it go; everything else answers at once or is not supported."""

    def __init__(self) -> None:
        self.hung = threading.Semaphore(0)
        self.let_go = threading.Event()
        self.closed = False

    def random(self, length: int) -> bytes:
        if length == 0:
            self.hung.release()
            assert self.let_go.wait(30)
        if length == 1:
            raise ZeroDivisionError("a fault of the provider's code")
        return bytes(length)

    def close(self) -> None:
        self.closed = True

    def describe(self) -> calls.Description:
        raise NotImplementedError

    def generate(self, target: calls.KeyTarget) -> calls.MadeKey:
        raise NotImplementedError

    def load(self, key_id: bytes, row: KeyType, permissions: int, reference: bytes, binding: bytes) -> int:
        raise NotImplementedError

    def unload(self, handle: int) -> None:
        raise NotImplementedError

    def destroy(self, key_id: bytes, row: KeyType, reference: bytes) -> None:
        raise NotImplementedError


@pytest.fixture
def provider() -> HangingProvider:
    return HangingProvider()


@pytest.fixture
def counted() -> list[None]:
    return []


@pytest.fixture
def lane(provider: HangingProvider, counted: list[None]) -> Iterator[ThreadLane]:
    lane = ThreadLane("t", provider, threads=2, inline=True, count=lambda: counted.append(None), patience=0)
    yield lane
    provider.let_go.set()
    lane.close()


def ask(lane: ThreadLane, call: calls.ProviderCall, answers: "Queue[Answer]") -> Ticket:
    ticket = Ticket(call, lambda reply, failure: answers.put((reply, failure)))
    lane.submit(ticket)
    return ticket


def test_a_submitted_call_is_answered_and_counted(lane: ThreadLane, counted: list[None]) -> None:
    answers: Queue[Answer] = Queue()
    ask(lane, calls.RandomCall(3), answers)
    assert answers.get(timeout=10) == (b"\0\0\0", None)
    assert len(counted) == 1


def test_an_error_of_the_provider_is_passed_on(lane: ThreadLane) -> None:
    answers: Queue[Answer] = Queue()
    ask(lane, calls.DigestCall("SHA-256", b""), answers)
    failure = answers.get(timeout=10)[1]
    assert isinstance(failure, RequestError)
    assert failure.status is Status.NOT_SUPPORTED


def test_a_fault_of_the_provider_is_a_failure_and_its_thread_serves_on(lane: ThreadLane) -> None:
    answers: Queue[Answer] = Queue()
    for _ in range(5):
        ask(lane, calls.RandomCall(1), answers)
        failure = answers.get(timeout=10)[1]
        assert isinstance(failure, ProviderError)
        assert failure.status is Status.PROVIDER_FAILED
        assert "fault" not in failure.message


def test_a_hung_call_costs_its_thread_and_others_are_served(lane: ThreadLane, provider: HangingProvider) -> None:
    hung: Queue[Answer] = Queue()
    for _ in range(2):
        ticket = ask(lane, calls.RandomCall(0), hung)
        assert provider.hung.acquire(timeout=10)
        lane.give_up(ticket)
    answers: Queue[Answer] = Queue()
    ask(lane, calls.RandomCall(2), answers)
    assert answers.get(timeout=10) == (b"\0\0", None)


def test_after_too_many_hung_calls_the_provider_is_closed_off_until_they_end(
    lane: ThreadLane, provider: HangingProvider
) -> None:
    hung: Queue[Answer] = Queue()
    for _ in range(MAX_HUNG_CALLS):
        ticket = ask(lane, calls.RandomCall(0), hung)
        assert provider.hung.acquire(timeout=10)
        lane.give_up(ticket)
    answers: Queue[Answer] = Queue()
    with pytest.raises(ProviderError) as refused:
        ask(lane, calls.RandomCall(2), answers)
    assert refused.value.status is Status.PROVIDER_UNAVAILABLE
    provider.let_go.set()
    for _ in range(MAX_HUNG_CALLS):
        hung.get(timeout=10)
    ask(lane, calls.RandomCall(2), answers)
    assert answers.get(timeout=10) == (b"\0\0", None)


def test_a_call_given_up_before_it_began_is_never_done(lane: ThreadLane, provider: HangingProvider) -> None:
    hung: Queue[Answer] = Queue()
    for _ in range(2):
        ask(lane, calls.RandomCall(0), hung)
        assert provider.hung.acquire(timeout=10)
    answers: Queue[Answer] = Queue()
    waiting = ask(lane, calls.RandomCall(2), answers)
    lane.give_up(waiting)
    provider.let_go.set()
    after: Queue[Answer] = Queue()
    ask(lane, calls.RandomCall(4), after)
    assert after.get(timeout=10) == (b"\0\0\0\0", None)
    assert answers.empty()


def test_an_unavailable_provider_says_why_on_every_call() -> None:
    lane = UnavailableLane(ProviderError(Status.PIN_INCORRECT, "the reason"))
    assert lane.inline(calls.RandomCall(1))
    with pytest.raises(ProviderError, match="the reason"):
        lane.perform(calls.RandomCall(1))


@pytest.mark.parametrize(
    ("call", "short"),
    [
        (calls.SignCall(1, "ECDSA-P256-SHA256", b"m"), True),
        (calls.SignCall(1, "ECDSA-P256-SHA256", bytes(1 << 20)), False),
        (calls.SignCall(1, "RSA-PKCS1-SHA256", b"m"), False),
        (calls.SignCall(1, "ML-DSA-65", b"m"), False),
        (calls.VerifyCall(1, "RSA-PKCS1-SHA256", b"m", b"s"), True),
        (calls.EncryptCall(1, "AES-256-GCM", b"n", b"p", b""), True),
        (calls.EncryptCall(1, "AES-256-GCM", b"n", bytes(1 << 20), b""), False),
        (calls.GenerateCall(calls.KeyTarget(b"", "EC-P256", 0)), True),
        (calls.GenerateCall(calls.KeyTarget(b"", "RSA-2048", 0)), False),
        (calls.AgreeKeyCall(1, "X25519", b"p", Hkdf(), calls.KeyTarget(b"", "AES-256", 0)), True),
        (calls.AgreeKeyCall(1, "X25519", b"p", Argon2id(salt=b"salt"), calls.KeyTarget(b"", "AES-256", 0)), False),
        (calls.SignCall(1, "no such algorithm", b""), False),
    ],
)
def test_which_software_calls_are_short_follows_from_the_tables(call: calls.ProviderCall, short: bool) -> None:
    assert is_short(call) is short
