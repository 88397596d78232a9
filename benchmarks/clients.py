"""Many clients at once: processes that sign over the daemon, and threads that sign directly."""

import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

from benchmarks.measure import Contender
from hsmbridge.client import CryptoStack

MESSAGE = b"a message of ordinary length, as programs sign them all day long"


def _client(socket: str, slot: str, algorithm: str, commands: Connection) -> None:
    with CryptoStack(socket) as stack:
        key = stack.slot(slot)
        key.sign(algorithm, MESSAGE)
        commands.send(0)
        while seconds := commands.recv():
            count = 0
            until = time.perf_counter() + seconds
            while time.perf_counter() < until:
                key.sign(algorithm, MESSAGE)
                count += 1
            commands.send(count)


@contextmanager
def client_processes(count: int, socket: str, slot: str, algorithm: str) -> Iterator[Contender]:
    """`count` client processes, each with a connection of its own, as one contender."""
    spawn = multiprocessing.get_context("spawn")
    ends: list[Connection] = []
    processes = []
    for _ in range(count):
        ours, theirs = spawn.Pipe()
        process = spawn.Process(target=_client, args=(socket, slot, algorithm, theirs), daemon=True)
        process.start()
        ends.append(ours)
        processes.append(process)
    for end in ends:
        end.recv()

    def run(seconds: float) -> float:
        for end in ends:
            end.send(seconds)
        counts: list[int] = [end.recv() for end in ends]
        return sum(counts) / seconds

    try:
        yield run
    finally:
        for end in ends:
            end.send(0)
        for process in processes:
            process.join()


def threads(operations: list[Callable[[], object]]) -> Contender:
    """One thread an operation in this process, as one contender."""

    def run(seconds: float) -> float:
        counts = [0] * len(operations)
        until = time.perf_counter() + seconds

        def repeat(index: int) -> None:
            operation = operations[index]
            while time.perf_counter() < until:
                operation()
                counts[index] += 1

        workers = [threading.Thread(target=repeat, args=(index,)) for index in range(len(operations))]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return sum(counts) / seconds

    return run
