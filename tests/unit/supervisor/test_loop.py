"""The supervisor's event loop: order of timers, changes while it runs, and faults that must not end it."""

import os
from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs

from hsmbridge.supervisor.loop import EventLoop


@pytest.fixture
def loop() -> Iterator[EventLoop]:
    loop = EventLoop()
    yield loop
    loop.close()


def test_timers_come_in_their_order_and_a_cancelled_one_does_not(loop: EventLoop) -> None:
    seen: list[str] = []
    loop.call_later(0.02, lambda: seen.append("second"))
    loop.call_later(0.0, lambda: seen.append("first"))
    loop.call_later(0.01, lambda: seen.append("never")).cancel()
    loop.run(until=lambda: len(seen) == 2)
    assert seen == ["first", "second"]


def test_an_action_may_unwatch_what_is_ready_too(loop: EventLoop) -> None:
    first, first_in = os.pipe()
    second, second_in = os.pipe()
    seen: list[int] = []

    def take(fd: int, other: int) -> None:
        seen.append(fd)
        loop.unwatch(fd)
        loop.unwatch(other)

    loop.watch(first, lambda: take(first, second))
    loop.watch(second, lambda: take(second, first))
    os.write(first_in, b"x")
    os.write(second_in, b"x")
    loop.run(until=lambda: bool(seen))
    loop.call_later(0, lambda: seen.append(-1))
    loop.run(until=lambda: -1 in seen)
    assert len(seen) == 2
    for fd in (first, first_in, second, second_in):
        os.close(fd)


def test_a_fault_in_an_action_is_logged_and_the_loop_goes_on(loop: EventLoop) -> None:
    seen: list[str] = []

    def fail() -> None:
        raise ZeroDivisionError

    loop.call_later(0, fail)
    loop.call_later(0.001, lambda: seen.append("after"))
    with capture_logs() as log:
        loop.run(until=lambda: bool(seen))
    assert [entry["log_level"] for entry in log] == ["error"]
    assert log[0]["incident"]
