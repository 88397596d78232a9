"""The runner: operations go from step to step, end once, and never outlive their deadline for the caller."""

import threading
from collections.abc import Callable

import pytest

from hsmbridge.core.calls import DigestCall, ProviderCall, ProviderReply, RandomCall
from hsmbridge.core.errors import HsmBridgeError, ProviderError, Status
from hsmbridge.engine.lanes import Lane, Ticket
from hsmbridge.engine.runner import INLINE_TOGETHER, Runner
from hsmbridge.engine.steps import ProviderStep, Steps, StoreStep, ended, for_bytes, for_each, store, work

CALL = DigestCall("SHA-256", b"")


class InlineLane:
    """Answers every call at once with its algorithm's name."""

    local = True

    def inline(self, call: ProviderCall) -> bool:
        return True

    def perform(self, call: ProviderCall) -> ProviderReply:
        assert isinstance(call, DigestCall)
        return call.algorithm.encode()

    def submit(self, ticket: Ticket) -> None:
        raise AssertionError("an inline lane gets no tickets")

    def give_up(self, ticket: Ticket) -> None:
        raise AssertionError("an inline lane gets no tickets")


class HeldLane:
    """Keeps every ticket until the test answers it."""

    local = False

    def __init__(self) -> None:
        self.tickets: list[Ticket] = []
        self.given_up: list[Ticket] = []

    def inline(self, call: ProviderCall) -> bool:
        return False

    def perform(self, call: ProviderCall) -> ProviderReply:
        raise AssertionError("never inline")

    def submit(self, ticket: Ticket) -> None:
        self.tickets.append(ticket)

    def give_up(self, ticket: Ticket) -> None:
        self.given_up.append(ticket)


class FixedLanes:
    def __init__(self, **lanes: Lane) -> None:
        self._lanes = lanes

    def lane(self, provider: str) -> Lane:
        if provider not in self._lanes:
            raise ProviderError(Status.PROVIDER_NOT_CONFIGURED)
        return self._lanes[provider]


class HeldStore:
    def __init__(self) -> None:
        self.actions: list[Callable[[], None]] = []

    def submit(self, action: Callable[[], None]) -> None:
        self.actions.append(action)


class Outcome:
    def __init__(self) -> None:
        self.all: list[tuple[object, HsmBridgeError | None]] = []

    def __call__(self, value: object, failure: HsmBridgeError | None) -> None:
        self.all.append((value, failure))

    @property
    def value(self) -> object:
        assert len(self.all) == 1
        assert self.all[0][1] is None
        return self.all[0][0]

    @property
    def status(self) -> Status:
        assert len(self.all) == 1
        failure = self.all[0][1]
        assert failure is not None
        return failure.status


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def held() -> HeldLane:
    return HeldLane()


@pytest.fixture
def held_store() -> HeldStore:
    return HeldStore()


@pytest.fixture
def runner(clock: Clock, held: HeldLane, held_store: HeldStore) -> Runner:
    return Runner(FixedLanes(inline=InlineLane(), held=held), held_store, clock)


def test_an_operation_of_inline_steps_ends_before_run_returns(runner: Runner) -> None:
    outcome = Outcome()
    runner.run(for_bytes("inline", CALL), None, outcome)
    assert outcome.value == b"SHA-256"


def test_an_operation_goes_on_when_its_lane_answers(runner: Runner, held: HeldLane) -> None:
    outcome = Outcome()
    runner.run(for_bytes("held", CALL), None, outcome)
    assert outcome.all == []
    held.tickets[0].resume(b"answer", None)
    assert outcome.value == b"answer"


def test_an_error_of_a_lane_is_thrown_into_the_operation(runner: Runner, held: HeldLane) -> None:
    def operation() -> Steps[str]:
        try:
            yield ProviderStep("held", CALL)
        except ProviderError as failure:
            return failure.status.name
        return "no error"

    outcome = Outcome()
    runner.run(operation(), None, outcome)
    held.tickets[0].resume(None, ProviderError(Status.PROVIDER_FAILED))
    assert outcome.value == "PROVIDER_FAILED"


def test_an_unknown_provider_is_an_error_of_the_operation(runner: Runner) -> None:
    outcome = Outcome()
    runner.run(for_bytes("nobody", CALL), None, outcome)
    assert outcome.status is Status.PROVIDER_NOT_CONFIGURED


def test_a_provider_that_answers_a_wrong_type_has_failed(runner: Runner, held: HeldLane) -> None:
    outcome = Outcome()
    runner.run(for_bytes("held", RandomCall(1)), None, outcome)
    held.tickets[0].resume(7, None)
    assert outcome.status is Status.PROVIDER_FAILED


def test_a_fault_of_the_operation_is_told_under_an_incident_id_only(runner: Runner) -> None:
    def operation() -> Steps[None]:
        yield from ended(None)
        raise RuntimeError("inner workings")

    outcome = Outcome()
    runner.run(operation(), None, outcome)
    failure = outcome.all[0][1]
    assert failure is not None
    assert failure.status is Status.INTERNAL
    assert failure.incident
    assert "inner" not in failure.message


def test_at_the_deadline_the_caller_is_answered_and_the_call_given_up(
    runner: Runner, held: HeldLane, clock: Clock
) -> None:
    outcome = Outcome()
    runner.run(for_bytes("held", CALL), clock.now + 1, outcome)
    clock.now += 0.5
    runner.expire()
    assert outcome.all == []
    clock.now += 0.6
    runner.expire()
    assert outcome.status is Status.OPERATION_TIMED_OUT
    assert held.given_up == held.tickets


def test_an_answer_after_the_deadline_is_dropped(runner: Runner, held: HeldLane, clock: Clock) -> None:
    outcome = Outcome()
    runner.run(for_bytes("held", CALL), clock.now + 1, outcome)
    clock.now += 2
    runner.expire()
    held.tickets[0].resume(b"late", None)
    assert outcome.status is Status.OPERATION_TIMED_OUT


def test_an_answer_before_the_deadline_is_not_taken_back_by_it(runner: Runner, held: HeldLane, clock: Clock) -> None:
    outcome = Outcome()
    runner.run(for_bytes("held", CALL), clock.now + 1, outcome)
    held.tickets[0].resume(b"in time", None)
    clock.now += 2
    runner.expire()
    assert outcome.value == b"in time"
    assert held.given_up == []
    assert runner.waiting == 0


def test_an_operation_without_deadline_waits_for_ever(runner: Runner, held: HeldLane, clock: Clock) -> None:
    outcome = Outcome()
    runner.run(for_bytes("held", CALL), None, outcome)
    clock.now += 1e6
    runner.expire()
    assert outcome.all == []
    held.tickets[0].resume(b"at last", None)
    assert outcome.value == b"at last"


def test_an_operation_may_clean_up_after_its_deadline(runner: Runner, held: HeldLane, clock: Clock) -> None:
    cleaned = []

    def operation() -> Steps[None]:
        try:
            yield ProviderStep("held", CALL)
        except ProviderError:
            cleaned.append((yield ProviderStep("inline", CALL)))
            raise

    outcome = Outcome()
    runner.run(operation(), clock.now + 1, outcome)
    clock.now += 2
    runner.expire()
    assert cleaned == [b"SHA-256"]
    assert outcome.status is Status.OPERATION_TIMED_OUT
    assert runner.waiting == 0


def test_a_store_action_is_never_given_up_and_its_operation_ends_without_its_caller(
    runner: Runner, held_store: HeldStore, clock: Clock
) -> None:
    committed = []

    def operation() -> Steps[None]:
        committed.append((yield from store(lambda: "committed")))

    outcome = Outcome()
    runner.run(operation(), clock.now + 1, outcome)
    clock.now += 2
    runner.expire()
    assert outcome.status is Status.OPERATION_TIMED_OUT
    assert committed == []
    held_store.actions[0]()
    assert committed == ["committed"]
    assert len(outcome.all) == 1
    assert runner.waiting == 0


def test_an_error_of_a_store_action_reaches_the_operation(runner: Runner, held_store: HeldStore) -> None:
    def refuse() -> None:
        raise ProviderError(Status.STORE_UNAVAILABLE)

    def operation() -> Steps[None]:
        yield StoreStep(refuse)

    outcome = Outcome()
    runner.run(operation(), None, outcome)
    held_store.actions[0]()
    assert outcome.status is Status.STORE_UNAVAILABLE


def test_work_is_done_at_a_place_of_its_own(clock: Clock) -> None:
    held_store, held_work, outcome = HeldStore(), HeldStore(), Outcome()
    runner = Runner(FixedLanes(), held_store, clock, held_work)

    def operation() -> Steps[int]:
        return (yield from work(lambda: 3)) + (yield from store(lambda: 4))

    runner.run(operation(), None, outcome)
    assert not held_store.actions
    held_work.actions.pop()()
    held_store.actions.pop()()
    assert outcome.all == [(7, None)]
    assert not held_work.actions


def test_of_an_answer_and_a_deadline_at_once_exactly_one_counts(clock: Clock) -> None:
    for _ in range(200):
        held = HeldLane()
        runner = Runner(FixedLanes(held=held), HeldStore(), clock)
        outcome = Outcome()
        runner.run(for_bytes("held", CALL), clock.now - 1, outcome)
        barrier = threading.Barrier(2)

        def answer(ticket: Ticket = held.tickets[0], barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            ticket.resume(b"answer", None)

        thread = threading.Thread(target=answer)
        thread.start()
        barrier.wait()
        runner.expire()
        thread.join()
        assert len(outcome.all) == 1


def test_a_batch_is_answered_call_by_call_with_errors_as_values(runner: Runner, held: HeldLane) -> None:
    outcome = Outcome()
    runner.run(for_each("held", [CALL, CALL, CALL]), None, outcome)
    failure = ProviderError(Status.PROVIDER_FAILED)
    for index, ticket in reversed(list(enumerate(held.tickets))):
        assert outcome.all == []
        ticket.resume(None, failure) if index == 1 else ticket.resume(bytes([index]), None)
    assert outcome.value == [b"\0", failure, b"\2"]


def test_a_batch_of_inline_calls_ends_before_run_returns(runner: Runner) -> None:
    outcome = Outcome()
    runner.run(for_each("inline", [CALL, CALL]), None, outcome)
    assert outcome.value == [b"SHA-256", b"SHA-256"]


def test_at_the_deadline_every_call_of_a_batch_is_given_up(runner: Runner, held: HeldLane, clock: Clock) -> None:
    outcome = Outcome()
    runner.run(for_each("held", [CALL, CALL]), clock.now + 1, outcome)
    held.tickets[0].resume(b"in time", None)
    clock.now += 2
    runner.expire()
    assert outcome.status is Status.OPERATION_TIMED_OUT
    assert held.given_up == held.tickets
    held.tickets[1].resume(b"late", None)
    assert len(outcome.all) == 1


class InlineOrHeldLane(HeldLane):
    """Would have every call inline, and takes tickets as well."""

    def inline(self, call: ProviderCall) -> bool:
        return True

    def perform(self, call: ProviderCall) -> ProviderReply:
        return b"inline"


@pytest.mark.parametrize("number", [1, INLINE_TOGETHER, INLINE_TOGETHER + 1, 64])
def test_many_calls_of_one_step_do_not_keep_the_thread_that_asks(clock: Clock, number: int) -> None:
    lane, outcome = InlineOrHeldLane(), Outcome()
    runner = Runner(FixedLanes(lane=lane), HeldStore(), clock)
    runner.run(for_each("lane", [CALL] * number), None, outcome)
    if number <= INLINE_TOGETHER:
        assert outcome.value == [b"inline"] * number
    else:
        assert len(lane.tickets) == number
        assert outcome.all == []
        for ticket in lane.tickets:
            ticket.resume(b"elsewhere", None)
        assert outcome.value == [b"elsewhere"] * number
