"""Secrets do not show themselves."""

import pickle

import msgspec
import pytest

from hsmbridge.core.errors import RequestError, Status
from hsmbridge.core.secrets import Pin, Secret

HIDDEN = (Secret(b"swordfish"), Pin("swordfish"))


@pytest.mark.parametrize("secret", HIDDEN, ids=["Secret", "Pin"])
def test_a_secret_shows_its_type_and_nothing_else(secret: Secret | Pin) -> None:
    for text in (repr(secret), str(secret), f"{secret}", f"{[secret]!r}", "%s" % secret):  # noqa: UP031 - all the ways
        assert "swordfish" not in text
        assert "fish" not in text
    assert type(secret).__name__ in repr(secret)


def test_a_secret_is_revealed_when_asked() -> None:
    assert Secret(b"swordfish").reveal() == b"swordfish"
    assert Pin("swördfish").reveal() == "swördfish"


@pytest.mark.parametrize("secret", HIDDEN, ids=["Secret", "Pin"])
def test_a_secret_is_not_serialised(secret: Secret | Pin) -> None:
    with pytest.raises(TypeError):
        pickle.dumps(secret)
    with pytest.raises(TypeError):
        msgspec.msgpack.encode(secret)


def test_secrets_compare_and_do_not_hash() -> None:
    assert Secret(b"a") == Secret(b"a")
    assert Secret(b"a") != Secret(b"b")
    assert Pin("a") == Pin("a")
    assert Secret(b"a") != Pin("a")
    assert Secret(b"a") != b"a"
    with pytest.raises(TypeError):
        hash(Secret(b"a"))


@pytest.mark.parametrize("pin", ["", "1234\n", "12\r34", "12\x0034", "x" * 256])
def test_a_pin_that_cannot_be_one_is_refused_and_not_repeated(pin: str) -> None:
    with pytest.raises(RequestError) as refusal:
        Pin(pin)
    assert refusal.value.status is Status.INVALID_CONFIGURATION
    assert not pin.strip() or pin.strip() not in refusal.value.message
