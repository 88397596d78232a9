"""What is fuzzed: a target is a few readers and the one class of exceptions that they may raise.

The first byte of an input says which reader has the rest of it. Whatever a reader raises besides a refusal is a
finding; so is an assertion of its own, more memory than the limit, and an input that takes seconds.
"""

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

from hsmbridge.core.errors import HsmBridgeError

SECONDS = 2.0
"""Of processor time that one input may take."""


@dataclass(frozen=True)
class Reader:
    """One parser, and good messages for it to begin with."""

    name: str
    read: Callable[[bytes], object]
    seeds: Iterable[bytes]


@dataclass(frozen=True)
class Target:
    """Readers that are fuzzed together.

    Attributes:
        longest: bytes of an input.
        refusals: what may be raised.
    """

    readers: tuple[Reader, ...]
    longest: int = 2048
    refusals: tuple[type[Exception], ...] = (HsmBridgeError,)

    def run(self, data: bytes) -> None:
        """Read one input. Raises what is a finding."""
        if not data:
            return
        reader = self.readers[data[0] % len(self.readers)]
        began = time.process_time()
        with suppress(*self.refusals):
            reader.read(data[1:])
        taken = time.process_time() - began
        assert taken < SECONDS, f"reading one {reader.name} took {taken:.1f} s"

    def seeds(self) -> list[bytes]:
        """An input of every good message, each of which must be read without a refusal."""
        return [bytes([place]) + seed for place, reader in enumerate(self.readers) for seed in reader.seeds]
