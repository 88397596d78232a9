"""A process stays on the processors that it was meant for, as far as it may."""

import os
import threading
from collections.abc import Callable

import pytest
from structlog.testing import capture_logs

from hsmbridge.providers.host.placement import stay_on

NOWHERE = 1023
"""A processor that no machine which runs the tests has."""


def in_a_thread_of_its_own(work: Callable[[], None]) -> set[int]:
    """Where a thread may run after `work`: the kernel keeps that for each thread."""
    found: set[int] = set()

    def run() -> None:
        work()
        found.update(os.sched_getaffinity(0))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(timeout=10)
    return found


@pytest.mark.parametrize("wanted", [0, -1])
def test_it_stays_where_it_was_meant_to(wanted: int) -> None:
    chosen = sorted(os.sched_getaffinity(0))[wanted]
    assert in_a_thread_of_its_own(lambda: stay_on((chosen,))) == {chosen}


def test_meant_for_none_it_runs_anywhere() -> None:
    assert in_a_thread_of_its_own(lambda: stay_on(())) == os.sched_getaffinity(0)


def test_processors_that_were_taken_away_are_told_and_stop_nothing() -> None:
    with capture_logs() as logs:
        assert in_a_thread_of_its_own(lambda: stay_on((NOWHERE,))) == os.sched_getaffinity(0)
    assert [(one["log_level"], one["processors"]) for one in logs] == [("warning", [NOWHERE])]
