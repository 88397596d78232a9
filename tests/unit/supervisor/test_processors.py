"""How the service spreads its processes over the processors."""

from hypothesis import given
from hypothesis import strategies as st

from hsmbridge.supervisor.processors import Processors


def test_hosts_run_where_no_worker_does() -> None:
    assert Processors.spread(1, [0, 1]) == Processors(workers=((0,),), hosts=(1,))
    assert Processors.spread(2, [4, 5, 6, 9]) == Processors(workers=((4,), (5,)), hosts=(6, 9))


def test_with_a_worker_for_every_processor_hosts_run_anywhere() -> None:
    assert Processors.spread(3, [0, 1]) == Processors(workers=((0,), (1,), (0,)), hosts=())


@given(
    workers=st.integers(1, 256),
    available=st.lists(st.integers(0, 1023), min_size=1, max_size=64, unique=True).map(sorted),
)
def test_every_worker_has_a_processor_that_is_there_and_none_has_two_more_than_another(
    workers: int, available: list[int]
) -> None:
    spread = Processors.spread(workers, available)
    placed = [number for (number,) in spread.workers]
    assert len(placed) == workers
    assert set(placed) | set(spread.hosts) <= set(available)
    assert set(placed).isdisjoint(spread.hosts)
    loads = [placed.count(number) for number in placed]
    assert max(loads) - min(loads) <= 1
