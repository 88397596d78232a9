"""Wrong PINs: counted by principal, and for a while."""

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


def test_the_right_pin_is_taken_and_forgives_wrong_ones() -> None:
    pins = PinCounter(b"right", Clock())
    for _ in range(5):
        for _ in range(WRONG_PINS - 1):
            assert refusal(pins, "uid:1", b"wrong") is Ckr.PIN_INCORRECT
        pins.check("uid:1", b"right")


def test_three_wrong_ones_lock_one_principal_for_a_while() -> None:
    clock = Clock()
    pins = PinCounter(b"right", clock)
    for _ in range(WRONG_PINS):
        assert refusal(pins, "uid:1", b"wrong") is Ckr.PIN_INCORRECT
    assert refusal(pins, "uid:1", b"right") is Ckr.PIN_LOCKED
    pins.check("uid:2", b"right")
    clock.now += LOCKED_TIME
    assert refusal(pins, "uid:1", b"wrong") is Ckr.PIN_INCORRECT
    pins.check("uid:1", b"right")
