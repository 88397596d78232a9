"""Looking a moment longer for the next request: as long as it pays, and seldom where it does not."""

from collections.abc import Callable
from time import perf_counter

import pytest

from hsmbridge.wire import attention
from hsmbridge.wire.attention import MISSES, REST, Attention


@pytest.fixture(autouse=True)
def two_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_ALONE_ON_THE_MACHINE", False)


def nothing() -> bytes:
    raise BlockingIOError


def counting(receive: Callable[[], bytes]) -> tuple[list[None], Callable[[], bytes]]:
    looks: list[None] = []

    def look() -> bytes:
        looks.append(None)
        return receive()

    return looks, look


def test_what_is_there_is_taken() -> None:
    assert Attention(1.0).listen(lambda: b"request") == b"request"


def test_what_comes_within_the_time_is_taken() -> None:
    answers = iter([b"", b"", b"request"])

    def receive() -> bytes:
        return next(answers) or nothing()

    assert Attention(5.0).listen(receive) == b"request"


def test_a_look_in_vain_ends_after_its_time() -> None:
    began = perf_counter()
    assert Attention(0.002).listen(nothing) is None
    assert 0.002 <= perf_counter() - began < 1.0


def test_the_end_of_the_stream_is_passed_on_and_so_is_an_error() -> None:
    def reset() -> bytes:
        raise ConnectionResetError

    watched = Attention(0.001)
    assert watched.listen(lambda: b"") == b""
    with pytest.raises(ConnectionResetError):
        watched.listen(reset)


def test_after_some_looks_in_vain_it_rests_and_then_looks_again() -> None:
    watched = Attention(0.0)
    looks, receive = counting(nothing)
    for _ in range(2):
        for _ in range(MISSES):
            watched.listen(receive)
        seen = len(looks)
        for _ in range(REST):
            assert watched.listen(receive) is None
        assert len(looks) == seen
        watched.listen(lambda: b"request")


def test_one_that_answers_now_and_then_is_looked_for_all_the_time() -> None:
    watched = Attention(0.0)
    for _ in range(5 * MISSES):
        for _ in range(MISSES - 1):
            watched.listen(nothing)
        assert watched.listen(lambda: b"request") == b"request"


def test_a_rest_ends_however_many_threads_have_counted_it_down() -> None:
    watched = Attention(0.0)
    for _ in range(MISSES):
        watched.listen(nothing)
    assert [watched.worthwhile() for _ in range(REST)] == [False] * REST
    watched._rest = -1  # what is left when two threads take the last one at the same moment
    assert watched.worthwhile()


def test_with_one_processor_it_never_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_ALONE_ON_THE_MACHINE", True)
    looks, receive = counting(lambda: b"request")
    assert Attention(1.0).listen(receive) is None
    assert looks == []
