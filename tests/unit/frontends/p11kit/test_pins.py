"""Wrong PINs: counted by principal, for a while, and by all processes together."""

from pathlib import Path

import pytest

from hsmbridge.frontends.p11kit.numbers import Ckr
from hsmbridge.frontends.p11kit.pins import LOCKED_TIME, WRONG_PINS, PinCounter
from hsmbridge.frontends.p11kit.refusals import Refused


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def refusal(pins: PinCounter, principal: str, pin: bytes) -> Ckr:
    with pytest.raises(Refused) as refused:
        pins.check(principal, pin)
    return refused.value.ckr


def test_the_right_pin_is_taken_and_forgives_wrong_ones(tmp_path: Path) -> None:
    pins = PinCounter(b"right", tmp_path / "count", Clock())
    for _ in range(5):
        for _ in range(WRONG_PINS - 1):
            assert refusal(pins, "uid:1", b"wrong") is Ckr.PIN_INCORRECT
        pins.check("uid:1", b"right")


def test_three_wrong_ones_lock_one_principal_for_a_while(tmp_path: Path) -> None:
    clock = Clock()
    pins = PinCounter(b"right", tmp_path / "count", clock)
    for _ in range(WRONG_PINS):
        assert refusal(pins, "uid:1", b"wrong") is Ckr.PIN_INCORRECT
    assert refusal(pins, "uid:1", b"right") is Ckr.PIN_LOCKED
    pins.check("uid:2", b"right")
    clock.now += LOCKED_TIME
    assert refusal(pins, "uid:1", b"wrong") is Ckr.PIN_INCORRECT
    pins.check("uid:1", b"right")


def test_processes_count_together_and_after_a_restart_on(tmp_path: Path) -> None:
    clock = Clock()
    for _ in range(WRONG_PINS):
        assert refusal(PinCounter(b"right", tmp_path / "count", clock), "uid:1", b"wrong") is Ckr.PIN_INCORRECT
    assert refusal(PinCounter(b"right", tmp_path / "count", clock), "uid:1", b"right") is Ckr.PIN_LOCKED
    assert (tmp_path / "count").stat().st_mode & 0o777 == 0o600


def test_a_count_of_before_the_machine_was_started_locks_nobody(tmp_path: Path) -> None:
    clock = Clock()
    clock.now = 1e6
    pins = PinCounter(b"right", tmp_path / "count", clock)
    for _ in range(WRONG_PINS):
        refusal(pins, "uid:1", b"wrong")
    clock.now = 10.0
    pins.check("uid:1", b"right")


def test_where_wrong_pins_cannot_be_counted_none_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for path in (tmp_path / "missing" / "count", tmp_path / "link"):
        assert refusal(PinCounter(b"right", path), "uid:1", b"right") is Ckr.FUNCTION_FAILED
    assert not (tmp_path / "elsewhere").exists()


def test_a_count_that_cannot_be_read_begins_anew(tmp_path: Path) -> None:
    (tmp_path / "count").write_bytes(b"?" * 50)
    pins = PinCounter(b"right", tmp_path / "count")
    assert refusal(pins, "uid:1", b"wrong") is Ckr.PIN_INCORRECT
    pins.check("uid:1", b"right")
