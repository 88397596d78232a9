"""The runner carries operations from step to step: inline while it can, otherwise from whatever thread answers.

It keeps the deadline of each operation that is waiting. At the deadline the caller gets OPERATION_TIMED_OUT at
once; a provider call under way is given up and the error thrown into the operation, which may still take steps
to clean up; a store action or a piece of work is never given up, its operation goes on to its true end without the
caller. Whatever an operation does after its deadline has a further limit for each provider call, so that none waits
for ever.
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
from hsmbridge.engine.steps import ProviderBatch, ProviderStep, Step, Steps, StoreStep, WorkStep

T = TypeVar("T")

INLINE_TOGETHER = 4
"""So many calls of one step are made right here, one after another, where the lane would have each of them inline."""

CLEAN_UP_TIME = 30.0
"""Seconds that a provider call may take which an operation makes after its deadline."""

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

    def __init__(self, lanes: Lanes, store: Executor, clock: Callable[[], float], work: Executor | None = None) -> None:
        """Args: lanes, the store's executor, the clock that deadlines are told by (seconds), and where work is done.

        Without a place of its own work is done where the store is.
        """
        self._lanes = lanes
        self._store = store
        self._work = work or store
        self._clock = clock
        self._waiting: set[_Running[Any] | _Single] = set()

    @property
    def waiting(self) -> int:
        """How many operations are waiting for an answer."""
        return len(self._waiting)

    def deadline(self, milliseconds: int) -> float | None:
        """The time limit of a request as a point of the runner's clock; 0 is none."""
        return self._clock() + milliseconds / 1000 if milliseconds else None

    def run(self, steps: Steps[T], deadline: float | None, done: Done[T], home: Executor | None = None) -> None:
        """Start an operation.

        Args:
            steps: the operation.
            deadline: in seconds of the runner's clock, or None.
            done: takes the outcome; called before `run` returns where every step was inline and `home` is None.
            home: where it starts, and goes on after each store action: for what would hold up the caller of this
                or the store's thread. None: right here, and where its answers come.
        """
        running = _Running(steps, deadline, done, home)
        if home is None:
            self._advance(running, None, None)
            return
        if deadline is not None:
            self._waiting.add(running)
        home.submit(partial(self._advance, running, None, None))

    def call(self, lane: Lane, call: ProviderCall, deadline: float | None, done: Done[ProviderReply]) -> None:
        """One provider call with no operation around it, for what has nothing to clean up. Raises what `submit` does.

        Args:
            lane: does the call.
            call: the call.
            deadline: in seconds of the runner's clock, or None.
            done: takes the outcome, from any thread.
        """
        single = _Single(lane, call, deadline, done, self._waiting)
        if deadline is not None:
            self._waiting.add(single)
        try:
            lane.submit(single)
        except HsmBridgeError:
            if single.is_mine():
                raise

    def expire(self) -> None:
        """Give up what has passed its deadline. To be called every few milliseconds while operations wait."""
        now = self._clock()
        for running in self._waiting.copy():  # one atomic step: other threads add and discard at any time
            if running.deadline is not None and running.deadline <= now:
                if isinstance(running, _Single):
                    running.give_up()
                else:
                    self._expire(running, now)

    def _expire(self, running: "_Running[Any]", now: float) -> None:
        # It may be between two waits just now, or go on after a store action: its next call is limited as well.
        running.deadline = now + CLEAN_UP_TIME
        failure = error(Status.OPERATION_TIMED_OUT)
        self._finish(running, None, failure)
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
                try:
                    if type(step) is ProviderStep:
                        lane = self._lanes.lane(step.provider)
                        if not lane.inline(step.call):
                            self._wait_for_provider(running, lane, step)
                            return
                        answer = lane.perform(step.call)
                    elif type(step) is StoreStep:
                        self._wait_for_action(running, step, self._store)
                        return
                    elif type(step) is WorkStep:
                        self._wait_for_action(running, step, self._work)
                        return
                    elif type(step) is ProviderBatch and (answer := self._each(running, step)) is None:
                        return
                except HsmBridgeError as caught:
                    failure = caught
                except Exception as caught:  # noqa: BLE001 - a fault of a provider or ours; the operation must clean up
                    failure = self._internal(caught)
        except StopIteration as stop:
            self._end(running, stop.value, None)
        except HsmBridgeError as caught:
            self._end(running, None, caught)
        except Exception as caught:  # noqa: BLE001 - the outermost boundary of an operation: a fault of ours, told under an id
            self._end(running, None, self._internal(caught))

    def _end(self, running: "_Running[Any]", value: object, failure: HsmBridgeError | None) -> None:
        self._waiting.discard(running)
        self._finish(running, value, failure)

    def _finish(self, running: "_Running[Any]", value: object, failure: HsmBridgeError | None) -> None:
        try:
            running.finish(value, failure)
        except Exception as caught:  # noqa: BLE001 - the thread belongs to a lane, the store or the loop, and must live on
            self._internal(caught)

    def _wait_for_provider(self, running: "_Running[Any]", lane: Lane, step: ProviderStep) -> None:
        turn = running.next_turn()

        def resume(answer: object, failure: HsmBridgeError | None) -> None:
            if running.take_turn(turn):
                self._advance(running, answer, failure)

        ticket = Ticket(step.call, resume)
        self._wait(running, turn, (lane, (ticket,)))
        try:
            lane.submit(ticket)
        except HsmBridgeError:
            # Refused at once; where the deadline came first, the operation has gone on without this.
            if running.take_turn(turn):
                raise

    def _each(self, running: "_Running[Any]", step: ProviderBatch) -> list[ProviderReply | HsmBridgeError] | None:
        """Have every call done. The answers, where all of them came before this returned; else None: they follow."""
        lane = self._lanes.lane(step.provider)
        if len(step.calls) <= INLINE_TOGETHER and all(map(lane.inline, step.calls)):
            return [_attempt(lane, call) for call in step.calls]
        turn = running.next_turn()
        answers: list[ProviderReply | HsmBridgeError] = [None] * len(step.calls)
        # The submitting itself counts as one, so that answers that come at once are returned and not recursed into.
        last = len(answers) + 1
        answered = count(1)

        def resume(index: int, reply: ProviderReply, failure: HsmBridgeError | None) -> None:
            answers[index] = reply if failure is None else failure
            # Taking the next number is atomic, so exactly one answer is the last.
            if next(answered) == last and running.take_turn(turn):
                self._advance(running, answers, None)

        tickets = tuple(Ticket(call, partial(resume, index)) for index, call in enumerate(step.calls))
        self._wait(running, turn, (lane, tickets))
        for ticket in tickets:
            try:
                lane.submit(ticket)
            except HsmBridgeError as refusal:
                ticket.answer(None, refusal)
        return answers if next(answered) == last and running.take_turn(turn) else None

    def _wait(self, running: "_Running[Any]", turn: int, under_way: "_UnderWay | None") -> None:
        running.turns[turn] = under_way
        if running.deadline is not None:
            self._waiting.add(running)

    def _wait_for_action(self, running: "_Running[Any]", step: StoreStep | WorkStep, executor: Executor) -> None:
        turn = running.next_turn()
        self._wait(running, turn, None)

        def act() -> None:
            failure: HsmBridgeError | None = None
            answer: object = None
            try:
                answer = step.action()
            except HsmBridgeError as caught:
                failure = caught
            except Exception as caught:  # noqa: BLE001 - the outermost boundary of the executor's thread
                failure = self._internal(caught)
            if not running.take_turn(turn):
                return
            if running.home is None:
                self._advance(running, answer, failure)
            else:
                running.home.submit(partial(self._advance, running, answer, failure))

        executor.submit(act)

    def _internal(self, caught: Exception) -> HsmBridgeError:
        incident = new_incident_id()
        _log.error("operation failed unexpectedly", incident=incident, exc_info=caught)
        return RequestError(Status.INTERNAL, incident=incident)


_UnderWay = tuple[Lane, tuple[Ticket, ...]]


class _Running(Generic[T]):
    """One operation under way. Turns make sure that of an answer and a deadline only the first counts.

    Attributes:
        turns: the wait under way: its number, and the provider calls that end it; None for a store action. One
            entry, set and removed in one atomic step each, so that whoever looks never sees half of a wait.
    """

    __slots__ = ("_done", "_turn", "deadline", "home", "steps", "turns")

    def __init__(self, steps: Steps[T], deadline: float | None, done: Done[T], home: Executor | None) -> None:
        self.steps = steps
        self.deadline = deadline
        self.home = home
        self.turns: dict[int, _UnderWay | None] = {}
        self._done: list[Done[T]] = [done]
        self._turn = 0

    def next_turn(self) -> int:
        self._turn += 1
        return self._turn

    def take_turn(self, turn: int) -> bool:
        """Whether the caller is the first to end this wait; removing a dict entry is atomic."""
        try:
            del self.turns[turn]
        except KeyError:
            return False
        return True

    def given_up(self) -> _UnderWay | None:
        """The provider calls to give up, taken for the caller; None where it ended just now or is a store action."""
        turn = self._turn
        under_way = self.turns.get(turn)
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


class _Single(Ticket):
    """One provider call that somebody waits for; ticket and waiting in one, so that no cycle is left to collect."""

    __slots__ = ("_done", "_lane", "_taken", "_waiting", "deadline")

    def __init__(
        self,
        lane: Lane,
        call: ProviderCall,
        deadline: float | None,
        done: Done[ProviderReply],
        waiting: "set[_Running[Any] | _Single]",
    ) -> None:
        super().__init__(call, _unheard)
        self.deadline = deadline
        self._lane = lane
        self._done = done
        self._waiting = waiting
        self._taken = [None]

    def answer(self, reply: ProviderReply, failure: HsmBridgeError | None) -> None:
        if self.is_mine():
            self._done(reply, failure)

    def is_mine(self) -> bool:
        """Whether the caller is the first to end this; popping a list is atomic."""
        try:
            self._taken.pop()
        except IndexError:
            return False
        self._waiting.discard(self)
        return True

    def give_up(self) -> None:
        """The deadline has passed."""
        if self.is_mine():
            self._lane.give_up(self)
            self._done(None, error(Status.OPERATION_TIMED_OUT))


def _unheard(_: ProviderReply, __: HsmBridgeError | None) -> None:
    raise AssertionError("a single call is answered by its own method")


def _attempt(lane: Lane, call: ProviderCall) -> ProviderReply | HsmBridgeError:
    try:
        return lane.perform(call)
    except HsmBridgeError as failure:
        return failure
