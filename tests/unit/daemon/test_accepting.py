"""How workers share the connections of one listening socket."""

import asyncio
import shutil
import socket
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import cast

import pytest
import uvloop

from hsmbridge.daemon.accepting import Acceptor

PATIENCE = 20.0


@pytest.fixture
def path() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="hb", dir="/tmp"))
    yield directory / "s"
    shutil.rmtree(directory)


class _Worker:
    """A worker as far as accepting goes; it tells each connection by its own name."""

    def __init__(self, name: bytes, listener: socket.socket, fewest: Callable[[], int]) -> None:
        self.clients = 0
        self._name = name
        loop = asyncio.get_running_loop()
        self.acceptor = Acceptor(loop, listener.dup(), self._connection, lambda: fewest() < self.clients)

    def _connection(self) -> asyncio.Protocol:
        self.clients += 1
        return _Greeting(self._name)


class _Greeting(asyncio.Protocol):
    def __init__(self, name: bytes) -> None:
        self._name = name

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's own class is not a subclass.
        cast(asyncio.WriteTransport, transport).write(self._name)


async def _greeting(path: Path) -> bytes:
    reader, writer = await asyncio.open_unix_connection(str(path))
    name = await reader.readexactly(1)
    writer.close()
    return name


def _run(path: Path, act: Callable[[socket.socket], Coroutine[None, None, None]]) -> None:
    async def bounded() -> None:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen()
            async with asyncio.timeout(PATIENCE):
                await act(listener)

    uvloop.run(bounded())


def test_clients_are_spread_evenly_over_workers_at_rest(path: Path) -> None:
    async def act(listener: socket.socket) -> None:
        workers: list[_Worker] = []
        for name in (b"a", b"b", b"c"):
            workers.append(_Worker(name, listener, lambda: min(one.clients for one in workers)))
        for _ in range(12):
            await _greeting(path)
        assert [worker.clients for worker in workers] == [4, 4, 4]
        for worker in workers:
            worker.acceptor.close()

    _run(path, act)


def test_a_client_is_taken_after_all_where_the_worker_with_fewer_does_not_come(path: Path) -> None:
    async def act(listener: socket.socket) -> None:
        # Somebody has no clients, and takes none.
        worker = _Worker(b"a", listener, lambda: -1)
        assert [await _greeting(path) for _ in range(3)] == [b"a"] * 3
        worker.acceptor.close()

    _run(path, act)


def test_an_acceptor_that_is_closed_while_it_yields_takes_nothing_more(path: Path) -> None:
    async def act(listener: socket.socket) -> None:
        asked = asyncio.Event()

        def fewest() -> int:
            asked.set()
            return -1

        leaving = _Worker(b"a", listener, fewest)
        greeting = asyncio.ensure_future(_greeting(path))
        await asked.wait()
        leaving.acceptor.close()
        staying = _Worker(b"b", listener, lambda: 0)
        assert await greeting == b"b"
        staying.acceptor.close()

    _run(path, act)
