"""How long the supervisor waits before it starts again what has ended."""

from hsmbridge.supervisor.child import BackOff, ending


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_what_ran_well_is_started_again_at_once_however_often() -> None:
    clock = Clock()
    back_off = BackOff(1.0, clock)
    delays = []
    for _ in range(5):
        back_off.up()
        clock.now += 1.5
        delays.append(back_off.next_delay())
    assert delays == [0.0] * 5


def test_what_never_comes_up_is_tried_ever_more_slowly_up_to_half_a_minute() -> None:
    back_off = BackOff(1.0, Clock())
    assert [back_off.next_delay() for _ in range(8)] == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]


def test_what_comes_up_and_ends_at_once_is_tried_more_slowly_after_the_first_time() -> None:
    back_off = BackOff(1.0, Clock())
    delays = []
    for _ in range(4):
        back_off.up()
        delays.append(back_off.next_delay())
    assert delays == [0.0, 1.0, 2.0, 4.0]


def test_a_good_run_or_a_reset_forgets_what_was() -> None:
    clock = Clock()
    back_off = BackOff(1.0, clock)
    for _ in range(5):
        back_off.next_delay()
    back_off.up()
    clock.now += 2.0
    assert back_off.next_delay() == 0.0
    for _ in range(5):
        back_off.next_delay()
    back_off.reset()
    assert back_off.next_delay() == 1.0


def test_ends_are_told_in_words() -> None:
    assert [ending(code) for code in (None, 0, 3, -9, -200)] == [
        "ended",
        "ended with status 0",
        "ended with status 3",
        "was killed by SIGKILL",
        "was killed by signal 200",
    ]
