"""Handing calls over to worker threads takes no lock: none is lost, none is done twice, whoever comes and goes."""

import random
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from hsmbridge.core import calls
from hsmbridge.core.errors import HsmBridgeError
from hsmbridge.core.key_types import KeyType
from hsmbridge.engine.lanes import ThreadLane, Ticket
from hsmbridge.providers.base import Provider

PATIENCE = 20.0
SUBMITTERS = 8


class Counting(Provider):
    """Keeps the lengths that it was asked for random bytes of; odd ones take until `gate` is open."""

    def __init__(self) -> None:
        self.done: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        self.closed = False

    def random(self, length: int) -> bytes:
        self.done.append(length)
        if length % 2:
            assert self.gate.wait(PATIENCE)
        return b"%d" % length

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


class Answers:
    """The answers to calls, each of which is to have one."""

    def __init__(self) -> None:
        self.all: list[calls.ProviderReply] = []
        self._semaphore = threading.Semaphore(0)

    def take(self, reply: calls.ProviderReply, failure: HsmBridgeError | None) -> None:
        assert failure is None
        self.all.append(reply)
        self._semaphore.release()

    def wait(self, count: int) -> None:
        for _ in range(count):
            assert self._semaphore.acquire(timeout=PATIENCE), f"{len(self.all)} answers came"


@pytest.fixture(autouse=True)
def frequent_switches() -> Iterator[None]:
    """Threads take turns a thousand times as often as usual: what can happen between two lines does."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(usual)


def new_lane(provider: Provider, threads: int) -> ThreadLane:
    return ThreadLane("t", provider, threads=threads, inline=False, count=lambda: None)


def in_threads(count: int, act: Callable[[int], None]) -> None:
    threads = [threading.Thread(target=act, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert not any(thread.is_alive() for thread in threads)


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("burst", [1, 3, 100])
def test_every_call_is_done_once_and_answered_once(threads: int, burst: int) -> None:
    """With bursts of one the workers fall asleep and are woken all the time; with long ones the queue stays full."""
    provider, answers = Counting(), Answers()
    lane = new_lane(provider, threads)
    each = 900

    def submit(submitter: int) -> None:
        own = Answers()

        def answered(reply: calls.ProviderReply, failure: HsmBridgeError | None) -> None:
            answers.take(reply, failure)
            own.take(reply, failure)

        for start in range(0, each, burst):
            for number in range(start, start + burst):
                lane.submit(Ticket(calls.RandomCall(2 * (submitter * each + number)), answered))
            own.wait(burst)

    in_threads(SUBMITTERS, submit)
    assert sorted(provider.done) == [2 * number for number in range(SUBMITTERS * each)]
    assert Counter(answers.all) == Counter(b"%d" % length for length in provider.done)
    lane.close()
    assert provider.closed


def test_what_an_answer_asks_for_next_is_done() -> None:
    """Operations go on in the thread that has the answer, and hand their next call over from there."""
    provider, ended = Counting(), threading.Semaphore(0)
    lane = new_lane(provider, 3)
    steps, chains = 200, 12

    def go_on(chain: int, step: int) -> None:
        if step == steps:
            ended.release()
        else:
            lane.submit(Ticket(calls.RandomCall(2 * (chain * steps + step)), lambda _, __: go_on(chain, step + 1)))

    in_threads(chains, lambda chain: go_on(chain, 0))
    for _ in range(chains):
        assert ended.acquire(timeout=PATIENCE)
    assert sorted(provider.done) == [2 * number for number in range(chains * steps)]
    lane.close()


def test_what_is_given_up_at_any_moment_is_done_at_most_once_and_takes_no_other_call_along() -> None:
    provider, answers = Counting(), Answers()
    lane = new_lane(provider, 2)
    each = 600
    kept: list[int] = []

    def submit(submitter: int) -> None:
        chosen = random.Random(submitter)
        for number in range(each):
            length = 2 * (submitter * each + number)
            if chosen.random() < 0.5:
                given_up = Ticket(calls.RandomCall(length), lambda _, __: None)
                lane.submit(given_up)
                lane.give_up(given_up)
            else:
                kept.append(length)
                lane.submit(Ticket(calls.RandomCall(length), answers.take))

    in_threads(SUBMITTERS, submit)
    answers.wait(len(kept))
    assert Counter(answers.all) == Counter(b"%d" % length for length in kept)
    assert max(Counter(provider.done).values()) == 1
    assert set(kept) <= set(provider.done)
    # As many threads as before take calls: those given up for lost that were not lost have gone.
    provider.gate.clear()
    before = len(provider.done)
    for _ in range(4):
        lane.submit(Ticket(calls.RandomCall(1), answers.take))
    while len(provider.done) < before + 2:
        assert len(answers.all) == len(kept)
    lane.submit(Ticket(calls.RandomCall(2), answers.take))
    assert len(provider.done) == before + 2
    provider.gate.set()
    answers.wait(5)
    lane.close()
    assert provider.closed


def test_closing_waits_for_what_is_queued_and_in_hand() -> None:
    for _ in range(30):
        provider, answers = Counting(), Answers()
        lane = new_lane(provider, 3)
        provider.gate.clear()
        for number in range(20):
            lane.submit(Ticket(calls.RandomCall(number), answers.take))
        opening = threading.Timer(0.002, provider.gate.set)
        opening.start()
        lane.close()
        opening.join(PATIENCE)
        assert sorted(provider.done) == list(range(20))
        assert len(answers.all) == 20
        assert provider.closed


def test_a_lane_nobody_used_closes_at_once() -> None:
    provider = Counting()
    new_lane(provider, 4).close()
    assert provider.closed
