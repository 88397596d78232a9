"""The outbox: whole frames in the order of the calls, whatever the kernel takes at a time, and one end."""

import asyncio
import socket
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from hsmbridge.frontends.outbox import Outbox, ReplyOutbox

PATIENCE = 20.0
LARGE = 300_000
FRAMES = st.lists(st.binary(max_size=64) | st.integers(1, 60_000).map(bytes), max_size=12)


@dataclass
class Ends:
    """What an outbox told its owner."""

    ended: int = 0
    relieved: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def end(self) -> None:
        self.ended += 1
        self.changed.set()

    def relieve(self) -> None:
        self.relieved += 1
        self.changed.set()

    async def until_ended(self) -> None:
        while not self.ended:
            self.changed.clear()
            await self.changed.wait()

    async def until_relieved(self) -> None:
        while not self.relieved:
            self.changed.clear()
            await self.changed.wait()


@contextmanager
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a stream that holds a few kilobytes, so that most frames are cut."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    ours.setblocking(False)
    theirs.setblocking(False)
    with ours, theirs:
        yield ours, theirs


async def received(peer: socket.socket, size: int, piece: int = 1 << 16) -> bytes:
    """So many bytes, read in pieces; fewer where the stream ends."""
    data = b""
    while len(data) < size:
        got = await asyncio.get_running_loop().sock_recv(peer, min(piece, size - len(data)))
        if not got:
            break
        data += got
    return data


def run(steps: Coroutine[None, None, None]) -> None:
    async def in_time() -> None:
        async with asyncio.timeout(PATIENCE):
            await steps

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(in_time())


@given(frames=FRAMES, piece=st.integers(1, 20_000), read_first=st.booleans())
def test_whatever_the_kernel_takes_at_a_time_the_peer_gets_every_byte_in_order(
    frames: list[bytes], piece: int, read_first: bool
) -> None:
    async def steps() -> None:
        ends = Ends()
        with pair() as (ours, theirs):
            outbox = Outbox(asyncio.get_running_loop(), ours, ends.end, ends.relieve)
            expected = b"".join(frames)
            reading = asyncio.ensure_future(received(theirs, len(expected), max(piece, len(expected) // 50)))
            for frame in frames:
                outbox.send(frame)
                if read_first:
                    await asyncio.sleep(0)
            outbox.close_when_sent()
            assert await reading == expected
            await ends.until_ended()
            assert (outbox.queued, ends.ended) == (0, 1)
            outbox.close()

    run(steps())


@given(
    sizes=st.lists(st.lists(st.integers(0, 30_000), max_size=6), min_size=2, max_size=4),
)
def test_frames_of_several_threads_are_never_mixed(sizes: list[list[int]]) -> None:
    async def steps() -> None:
        ends = Ends()
        with pair() as (ours, theirs):
            outbox = ReplyOutbox(asyncio.get_running_loop(), ours, ends.end, ends.relieve)
            total = sum(5 + size for own in sizes for size in own)
            outbox.owed.update(range(sum(map(len, sizes))))
            numbers = iter(tuple(outbox.owed))
            plans = [[(next(numbers), size) for size in own] for own in sizes]

            def write(thread: int, plan: list[tuple[int, int]]) -> None:
                for number, size in plan:
                    outbox.answer(number, bytes([thread]) + size.to_bytes(4, "big") + bytes([thread]) * size)

            threads = [threading.Thread(target=write, args=item) for item in enumerate(plans)]
            for thread in threads:
                thread.start()
            outbox.finish()
            data = await received(theirs, total)
            await ends.until_ended()
            for thread in threads:
                thread.join(PATIENCE)
            found: list[list[int]] = [[] for _ in sizes]
            while data:
                thread_number, size = data[0], int.from_bytes(data[1:5], "big")
                assert data[5 : 5 + size] == bytes([thread_number]) * size
                found[thread_number].append(size)
                data = data[5 + size :]
            assert found == sizes
            assert outbox.owed == set()
            outbox.close()

    run(steps())


@pytest.mark.parametrize("unread", [0, LARGE])
def test_nothing_is_taken_after_the_last_frame(unread: int) -> None:
    async def steps() -> None:
        ends = Ends()
        with pair() as (ours, theirs):
            outbox = Outbox(asyncio.get_running_loop(), ours, ends.end)
            outbox.send(bytes(unread))
            outbox.close_when_sent()
            outbox.send(b"too late")
            outbox.close_when_sent()
            if unread:
                await asyncio.sleep(0.01)
                assert ends.ended == 0, "it ended before all was sent"
            assert await received(theirs, unread) == bytes(unread)
            await ends.until_ended()
            outbox.close()
            ours.close()
            assert await received(theirs, 1) == b""
            assert ends.ended == 1

    run(steps())


@pytest.mark.parametrize("unread", [0, LARGE])
def test_a_peer_that_is_gone_ends_it_and_what_was_queued_is_dropped(unread: int) -> None:
    async def steps() -> None:
        ends = Ends()
        with pair() as (ours, theirs):
            outbox = Outbox(asyncio.get_running_loop(), ours, ends.end, ends.relieve)
            outbox.send(bytes(unread))
            assert bool(outbox.queued) is bool(unread)
            theirs.close()
            if not unread:
                outbox.send(b"nobody hears this")
            await ends.until_ended()
            assert outbox.queued == 0
            outbox.send(b"nor this")
            assert outbox.queued == 0
            outbox.close()
            await asyncio.sleep(0)
            assert ends.relieved == 0

    run(steps())


def test_its_owner_is_told_when_the_queue_is_empty_again() -> None:
    async def steps() -> None:
        ends = Ends()
        with pair() as (ours, theirs):
            outbox = Outbox(asyncio.get_running_loop(), ours, ends.end, ends.relieve)
            for round_ in range(1, 4):
                outbox.send(bytes(LARGE))
                assert 0 < outbox.queued < LARGE
                assert await received(theirs, LARGE) == bytes(LARGE)
                await ends.until_relieved()
                assert (ends.relieved, ends.ended, outbox.queued) == (1, 0, 0), round_
                ends.relieved = 0
            outbox.close()

    run(steps())


def test_closing_with_a_full_queue_leaves_the_loop_alone() -> None:
    async def steps() -> None:
        ends = Ends()
        with pair() as (ours, theirs):
            outbox = Outbox(asyncio.get_running_loop(), ours, ends.end, ends.relieve)
            outbox.send(bytes(LARGE))
            await asyncio.sleep(0)
            outbox.close()
            outbox.send(b"dropped")
            got = await received(theirs, LARGE)
            assert 0 < len(got) < LARGE
            await asyncio.sleep(0)
            assert (ends.ended, ends.relieved) == (0, 0)

    run(steps())


def test_an_id_is_free_before_its_reply_can_be_read_and_the_last_one_owed_ends_it() -> None:
    async def steps() -> None:
        ends = Ends()
        with pair() as (ours, theirs):
            outbox = ReplyOutbox(asyncio.get_running_loop(), ours, ends.end)
            outbox.owed.update({1, 2})
            outbox.finish()
            outbox.answer(1, b"one")
            assert outbox.owed == {2}
            await asyncio.sleep(0)
            assert ends.ended == 0
            outbox.answer(2, b"two")
            await ends.until_ended()
            assert await received(theirs, 6) == b"onetwo"
            outbox.close()

    run(steps())


def test_what_the_peer_sent_can_be_looked_at() -> None:
    with pair() as (ours, theirs):
        loop = uvloop.new_event_loop()
        outbox = ReplyOutbox(loop, ours, lambda: None)
        with pytest.raises(BlockingIOError):
            outbox.received()
        theirs.send(b"question")
        assert outbox.received() == b"question"
        theirs.shutdown(socket.SHUT_WR)
        assert outbox.received() == b""
        outbox.close()
        with pytest.raises(OSError, match="Bad file descriptor"):
            outbox.received()
        loop.close()
