"""On which processors workers and provider hosts run, where the service spreads them itself.

A process that is woken tends to run where its waker does. A client, a worker and a host wake one another for every
operation, so that on a machine with few processors all of them may stay on one while another idles.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class Processors:
    """Where the processes of one service run, by the kernel's numbers; an empty tuple is anywhere.

    Attributes:
        workers: of each worker.
        hosts: of every provider host.
    """

    workers: tuple[tuple[int, ...], ...]
    hosts: tuple[int, ...]

    @classmethod
    def anywhere(cls, workers: int) -> Self:
        """The scheduler decides."""
        return cls(((),) * workers, ())

    @classmethod
    def spread(cls, workers: int, available: Sequence[int]) -> Self:
        """One for each worker, and for the hosts those that no worker has; anywhere where none is left."""
        return cls(tuple((available[index % len(available)],) for index in range(workers)), tuple(available[workers:]))
