"""The allocator: parts never overlap, none is lost, and what is given back can be had again."""

import threading
from itertools import pairwise
from pickle import PickleBuffer

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hsmbridge.client.memory import ALIGNMENT, Allocation, MemoryAllocator
from hsmbridge.core.errors import LimitError, RequestError, Status


class Allocating(RuleBasedStateMachine):
    """Parts asked for and given back in any order, each filled with a byte of its own."""

    @initialize(size=st.integers(1, 5000))
    def begin(self, size: int) -> None:
        self.allocator = MemoryAllocator.private(size)
        self.live: list[tuple[Allocation, int]] = []
        self.abandoned: list[Allocation] = []
        self.count = 0

    @rule(length=st.integers(1, 2000), spare=st.sampled_from([0, 0, 1, 64, 100]))
    def allocate(self, length: int, spare: int) -> None:
        before = self.allocator.available
        try:
            part = self.allocator.allocate(length, spare)
        except LimitError:
            assert self.allocator.available == before
            return
        assert (len(part.view), len(part.spare), part.offset % ALIGNMENT) == (length, spare, 0)
        self.count += 1
        part.view[:] = bytes([self.count % 256]) * length
        part.spare[:] = bytes([self.count % 256]) * spare
        self.live.append((part, self.count % 256))

    @precondition(lambda self: bool(getattr(self, "live", None)))
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        part, _ = self.live.pop(data.draw(st.integers(0, len(self.live) - 1)))
        before = self.allocator.available
        part.release()
        after = self.allocator.available
        assert after >= before + part.length
        part.release()
        assert self.allocator.available == after

    @precondition(lambda self: bool(getattr(self, "live", None)))
    @rule(data=st.data())
    def abandon(self, data: st.DataObject) -> None:
        part, _ = self.live.pop(data.draw(st.integers(0, len(self.live) - 1)))
        part.abandon()
        part.release()
        self.abandoned.append(part)

    @invariant()
    def nobody_writes_to_anothers_part(self) -> None:
        for part, byte in getattr(self, "live", ()):
            assert part.view.tobytes() + part.spare.tobytes() == bytes([byte]) * (part.length + len(part.spare))

    @invariant()
    def parts_do_not_overlap(self) -> None:
        parts = sorted([part for part, _ in getattr(self, "live", ())] + getattr(self, "abandoned", []), key=_offset)
        for one, following in pairwise(parts):
            assert one.offset + one.length <= following.offset

    def teardown(self) -> None:
        for part, _ in getattr(self, "live", ()):
            part.release()
        if getattr(self, "abandoned", None) == []:
            assert self.allocator.available == self.allocator.size
            self.allocator.allocate(self.allocator.size).release()


def _offset(part: Allocation) -> int:
    return part.offset


TestAllocating = Allocating.TestCase
TestAllocating.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_it_works_alone_and_says_so() -> None:
    allocator = MemoryAllocator.private(100)
    with allocator.allocate(100) as part:
        assert not part.provider_compatible
        part.view[:3] = b"abc"
    with pytest.raises(ValueError, match="released"):
        part.view[0]
    assert allocator.available == 100


def test_what_is_not_there_in_one_piece_is_refused() -> None:
    allocator = MemoryAllocator.private(192)
    first, second, third = (allocator.allocate(64) for _ in range(3))
    first.release()
    third.release()
    with pytest.raises(LimitError) as full:
        allocator.allocate(65)
    assert full.value.status is Status.TOO_MANY_RESOURCES
    second.release()
    allocator.allocate(192).release()


@pytest.mark.parametrize("length", [0, -1])
def test_a_part_of_nothing_is_refused(length: int) -> None:
    for make in (MemoryAllocator.private, MemoryAllocator.private(10).allocate):
        with pytest.raises(RequestError):
            make(length)


def test_memory_that_cannot_be_written_is_refused() -> None:
    for memory in (memoryview(b"constant"), memoryview(bytearray(64)).cast("I"), memoryview(bytearray(9))[::2]):
        with pytest.raises(RequestError):
            MemoryAllocator(memory)


def test_threads_never_get_the_same_bytes() -> None:
    allocator = MemoryAllocator.private(64 * 1024)
    broken: list[int] = []

    def work(byte: int) -> None:
        for turn in range(400):
            with allocator.allocate(1 + turn % 700) as part:
                part.view[:] = bytes([byte]) * part.length
                if part.view.tobytes() != bytes([byte]) * part.length:
                    broken.append(byte)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert broken == []
    assert allocator.available == allocator.size


@pytest.mark.parametrize("which", ["view", "spare"])
def test_a_part_that_is_in_use_is_not_given_back(which: str) -> None:
    allocator = MemoryAllocator.private(1000)
    part = allocator.allocate(100, 64)
    before = allocator.available
    in_use = PickleBuffer(getattr(part, which))
    with pytest.raises(BufferError):
        part.release()
    assert (part.allocator, allocator.available) == (allocator, before)
    in_use.release()
    part.release()
    assert (part.allocator, allocator.available) == (None, 1000)
    with pytest.raises(ValueError, match="released"):
        getattr(part, which)[0]
