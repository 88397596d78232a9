"""The runner carries operations from step to step: inline while it can, otherwise from whatever thread answers.

It keeps the deadline of each operation that is waiting. At the deadline the caller gets OPERATION_TIMED_OUT at
once; a provider call under way is given up and the error thrown into the operation, which may still take steps
to clean up; a store action is never given up, its operation goes on to its true end without the caller.
"""

from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Any, Generic, Protocol, TypeVar

import structlog

from hsmbridge.core.calls import ProviderCall, ProviderReply
from hsmbridge.core.errors import HsmBridgeError, ProviderError, RequestError, Status, error
from hsmbridge.core.identifiers import new_incident_id
from hsmbridge.engine.lanes import Lane, Ticket
from hsmbridge.engine.steps import ProviderBatch, ProviderStep, Step, Steps, StoreStep

T = TypeVar("T")
Done = Callable[[T | None, HsmBridgeError | None], None]
"""Takes the result of an operation, or its error; called once, from any thread."""

_log = structlog.get_logger(__name__)


class Executor(Protocol):
    """Runs blocking actions on a thread of its own, in order."""

    def submit(self, action: Callable[[], None]) -> None:
        """Run `action` later, elsewhere."""
        ...


class Lanes(Protocol):
    """Finds the lane of a provider."""

    def lane(self, provider: str) -> Lane:
        """The lane of an instance. One that is unavailable has a lane that says so; an unknown one raises."""
        ...


class Runner:
    """Runs operations over the lanes and the store's thread."""

    def __init__(self, lanes: Lanes, store: Executor, clock: Callable[[], float]) -> None:
        """Args: lanes, the store's executor, and the clock that deadlines are told by, in seconds."""
        self._lanes = lanes
        self._store = store
        self._clock = clock
        self._waiting: set[_Running[Any]] = set()

    @property
    def waiting(self) -> int:
        """How many operations are waiting for an answer."""
        return len(self._waiting)

    def deadline(self, milliseconds: int) -> float | None:
        """The time limit of a request as a point of the runner's clock; 0 is none."""
        return self._clock() + milliseconds / 1000 if milliseconds else None

    def run(self, steps: Steps[T], deadline: float | None, done: Done[T]) -> None:
        """Start an operation.

        Args:
            steps: the operation.
            deadline: in seconds of the runner's clock, or None.
            done: takes the outcome; called before `run` returns where every step was inline.
        """
        running = _Running(steps, deadline, done)
        self._advance(running, None, None)

    def expire(self) -> None:
        """Give up what has passed its deadline. To be called every few milliseconds while operations wait."""
        now = self._clock()
        for running in tuple(self._waiting):
            if running.deadline is not None and running.deadline <= now:
                self._expire(running)

    def _expire(self, running: "_Running[Any]") -> None:
        running.deadline = None
        failure = error(Status.OPERATION_TIMED_OUT)
        running.finish(None, failure)
        given_up = running.given_up()
        if given_up is not None:
            lane, tickets = given_up
            for ticket in tickets:
                lane.give_up(ticket)
            self._advance(running, None, failure)

    def _advance(self, running: "_Running[Any]", answer: object, failure: HsmBridgeError | None) -> None:
        """Go on with an answer until the operation ends or has to wait."""
        steps = running.steps
        try:
            while True:
                step: Step = steps.send(answer) if failure is None else steps.throw(failure)
                answer, failure = None, None
                if type(step) is ProviderStep:
                    try:
                        lane = self._lanes.lane(step.provider)
                        if not lane.inline(step.call):
                            self._wait_for_provider(running, lane, step)
                            return
                        answer = lane.perform(step.call)
                    except HsmBridgeError as caught:
                        failure = caught
                elif type(step) is StoreStep:
                    self._wait_for_store(running, step)
                    return
                elif type(step) is ProviderBatch:
                    try:
                        lane = self._lanes.lane(step.provider)
                        if not all(map(lane.inline, step.calls)):
                            self._wait_for_each(running, lane, step)
                            return
                        answer = [_attempt(lane, call) for call in step.calls]
                    except HsmBridgeError as caught:
                        failure = caught
        except StopIteration as stop:
            self._waiting.discard(running)
            running.finish(stop.value, None)
        except HsmBridgeError as caught:
            self._waiting.discard(running)
            running.finish(None, caught)
        except Exception as caught:  # noqa: BLE001 - the outermost boundary of an operation: a fault of ours, told under an id
            self._waiting.discard(running)
            running.finish(None, self._internal(caught))

    def _wait_for_provider(self, running: "_Running[Any]", lane: Lane, step: ProviderStep) -> None:
        turn = running.next_turn()

        def resume(answer: object, failure: HsmBridgeError | None) -> None:
            if running.take_turn(turn):
                self._advance(running, answer, failure)

        ticket = Ticket(step.call, resume)
        running.under_way = (lane, (ticket,))
        if running.deadline is not None:
            self._waiting.add(running)
        lane.submit(ticket)

    def _wait_for_each(self, running: "_Running[Any]", lane: Lane, step: ProviderBatch) -> None:
        turn = running.next_turn()
        answers: list[ProviderReply | HsmBridgeError] = [None] * len(step.calls)
        answered = count(1)

        def resume(index: int, reply: ProviderReply, failure: HsmBridgeError | None) -> None:
            answers[index] = reply if failure is None else failure
            # Taking the next number is atomic, so exactly one answer is the last.
            if next(answered) == len(answers) and running.take_turn(turn):
                self._advance(running, answers, None)

        tickets = tuple(Ticket(call, partial(resume, index)) for index, call in enumerate(step.calls))
        running.under_way = (lane, tickets)
        if running.deadline is not None:
            self._waiting.add(running)
        for ticket in tickets:
            lane.submit(ticket)

    def _wait_for_store(self, running: "_Running[Any]", step: StoreStep) -> None:
        turn = running.next_turn()
        running.under_way = None
        if running.deadline is not None:
            self._waiting.add(running)

        def act() -> None:
            failure: HsmBridgeError | None = None
            answer: object = None
            try:
                answer = step.action()
            except HsmBridgeError as caught:
                failure = caught
            except Exception as caught:  # noqa: BLE001 - the outermost boundary of the store's thread
                failure = self._internal(caught)
            if running.take_turn(turn):
                self._advance(running, answer, failure)

        self._store.submit(act)

    def _internal(self, caught: Exception) -> HsmBridgeError:
        incident = new_incident_id()
        _log.error("operation failed unexpectedly", incident=incident, exc_info=caught)
        return RequestError(Status.INTERNAL, incident=incident)


class _Running(Generic[T]):
    """One operation under way. Turns make sure that of an answer and a deadline only the first counts."""

    __slots__ = ("_done", "_turn", "_turns", "deadline", "steps", "under_way")

    def __init__(self, steps: Steps[T], deadline: float | None, done: Done[T]) -> None:
        self.steps = steps
        self.deadline = deadline
        self.under_way: tuple[Lane, tuple[Ticket, ...]] | None = None
        self._done: list[Done[T]] = [done]
        self._turn = 0
        self._turns: dict[int, None] = {}

    def next_turn(self) -> int:
        self._turn += 1
        self._turns[self._turn] = None
        return self._turn

    def take_turn(self, turn: int) -> bool:
        """Whether the caller is the first to end this wait; removing a dict entry is atomic."""
        try:
            del self._turns[turn]
        except KeyError:
            return False
        return True

    def given_up(self) -> tuple[Lane, tuple[Ticket, ...]] | None:
        """The provider calls to give up, taken for the caller; None where it ended just now or is a store action."""
        turn, under_way = self._turn, self.under_way
        if under_way is None or not self.take_turn(turn):
            return None
        return under_way

    def finish(self, value: T | None, failure: HsmBridgeError | None) -> None:
        """Tell the caller, once; popping a list is atomic."""
        try:
            done = self._done.pop()
        except IndexError:
            if isinstance(failure, ProviderError):
                _log.info("operation ended after its deadline", status=failure.status.name)
            return
        done(value, failure)


def _attempt(lane: Lane, call: ProviderCall) -> ProviderReply | HsmBridgeError:
    try:
        return lane.perform(call)
    except HsmBridgeError as failure:
        return failure
