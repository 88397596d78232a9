"""The SSH agent front end on a real socket: order, limits, pauses, ends; the service behind it is the real one.

The keys are in the provider `held`, which works on threads, and whose signatures wait where a test shuts its gate.
"""

import asyncio
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Self

import pytest

from hsmbridge.core import messages as m
from hsmbridge.core.algorithms import Algorithm
from hsmbridge.core.params import SignatureParameters
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.frontends.ssh_agent import front_end as module
from hsmbridge.frontends.ssh_agent.front_end import SshAgentFrontEnd
from hsmbridge.frontends.ssh_agent.settings import SshAgentSettings
from tests.unit.frontends.native_rig import PATIENCE, Front, Peer

MOST = 4
LIST = b"\0\0\0\1\x0b"
FAILURE = b"\x05"
SETTINGS = SshAgentSettings(
    slots=(), forwarding=True, max_connections=64, max_connections_per_principal=MOST, timeout=PATIENCE
)


def string(value: bytes) -> bytes:
    return len(value).to_bytes(4, "big") + value


class AgentFront(Front):
    """A daemon's inside with a native socket and an agent's, and one key, EC-P256, behind the gate."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.agent_path = directory / "a"
        self.agent = self._on_loop(self._listen())
        with Peer(self) as peer:
            request = m.SlotCreateRequest("login", "EC-P256", ("held",), int(P.SIGN | P.VERIFY))
            self.slot = peer.ask(request, m.SlotInfo)
        with self.client() as client:
            self.key = client.ask(LIST)[9 : 9 + 104]
        self._gate_signatures()

    async def _listen(self) -> SshAgentFrontEnd:
        agent = SshAgentFrontEnd(
            self._loop,
            self.front_end.dispatcher,
            self.runner,
            SETTINGS,
            stamp=self.store.changes.stamp,
            watch_deadlines=self.front_end.watch_deadlines,
        )
        self._agent_server = await self._loop.create_unix_server(agent.connection, str(self.agent_path))
        return agent

    async def _drain(self) -> None:
        self._agent_server.close()
        await self.agent.drain()
        await super()._drain()

    def _gate_signatures(self) -> None:
        held, real = self.held, self.held.sign

        def sign(handle: int, row: Algorithm, message: bytes, parameters: SignatureParameters) -> bytes:
            held.entered.release()
            assert held.gate.wait(PATIENCE)
            return real(handle, row, message, parameters)

        pytest.MonkeyPatch().setattr(held, "sign", sign)

    def client(self) -> "Client":
        return Client(self.agent_path)

    def sign_request(self) -> bytes:
        return string(b"\x0d" + string(self.key) + string(b"data") + bytes(4))

    def drain_agent(self) -> Future[None]:
        drained = asyncio.run_coroutine_threadsafe(self.agent.drain(), self._loop)
        self.settle()
        return drained


class Client:
    """One connection."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(PATIENCE)
        self.socket.connect(str(path))
        self._stream = self.socket.makefile("rb")

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def receive(self) -> bytes:
        """The next reply, b"" at the end."""
        head = self._stream.read(4)
        return self._stream.read(int.from_bytes(head, "big")) if head else b""

    def ask(self, data: bytes) -> bytes:
        self.send(data)
        return self.receive()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        self.socket.close()


@pytest.fixture
def front() -> Iterator[AgentFront]:
    directory = Path(tempfile.mkdtemp(prefix="hb", dir="/tmp"))
    made = AgentFront(directory)
    try:
        yield made
    finally:
        made.close()
        shutil.rmtree(directory)


def is_signature(reply: bytes) -> bool:
    return reply[:1] == b"\x0e"


def test_one_message_is_under_way_at_a_time_and_the_others_are_answered_after_it(front: AgentFront) -> None:
    front.held.gate.clear()
    with front.client() as client, front.client() as other:
        client.send(front.sign_request() + front.sign_request() + LIST + b"\0\0\0\1\x16")
        front.held.came(1)
        assert other.ask(LIST)[0] == 12, "another connection is not held up"
        assert not front.held.entered.acquire(blocking=False)
        front.held.gate.set()
        front.held.came(1)
        kinds = [client.receive()[0] for _ in range(4)]
        assert kinds == [14, 14, 12, 5]


def test_who_leaves_while_a_signature_is_made_holds_nobody_up(front: AgentFront) -> None:
    front.held.gate.clear()
    with front.client() as client:
        client.send(front.sign_request())
        front.held.came(1)
    front.held.gate.set()
    with front.client() as other:
        assert is_signature(other.ask(front.sign_request()))


def test_no_more_connections_of_one_user_than_the_limit(front: AgentFront) -> None:
    clients = [front.client() for _ in range(MOST)]
    assert all(client.ask(LIST)[0] == 12 for client in clients)
    with front.client() as refused:
        assert refused.receive() == b""
    clients.pop().__exit__()
    front.settle()
    with front.client() as again:
        assert again.ask(LIST)[0] == 12
    for client in clients:
        client.__exit__()


def test_a_drain_answers_what_is_under_way_and_nothing_after_it(front: AgentFront) -> None:
    front.held.gate.clear()
    with front.client() as client, front.client() as idle:
        assert idle.ask(LIST)[0] == 12
        client.send(front.sign_request() + LIST)
        front.held.came(1)
        drained = front.drain_agent()
        assert idle.receive() == b""
        front.held.gate.set()
        assert is_signature(client.receive())
        assert client.receive() == b""
        drained.result(PATIENCE)


def test_a_message_that_is_not_finished_in_time_ends_its_connection(
    front: AgentFront, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MESSAGE_TIMEOUT", 0.05)
    with front.client() as silent, front.client() as slow:
        assert silent.ask(LIST)[0] == 12
        assert slow.ask(LIST + LIST[:3])[0] == 12
        assert slow.receive() == b""
        assert silent.ask(LIST)[0] == 12, "one that is silent between messages stays"


def test_the_time_is_one_message_s_and_not_the_connection_s(front: AgentFront, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MESSAGE_TIMEOUT", 0.4)
    until = time.monotonic() + 1.0
    with front.client() as client:
        client.send(LIST[:3])
        while time.monotonic() < until:  # always in the middle of a message
            assert client.ask(LIST[3:] + LIST[:3])[0] == 12
        assert client.ask(LIST[3:])[0] == 12


def test_a_client_that_does_not_read_is_held_up_and_loses_nothing(front: AgentFront) -> None:
    count = 20_000
    with front.client() as client, front.client() as other:
        client.send(LIST * count)
        assert is_signature(other.ask(front.sign_request()))
        assert all(client.receive()[0] == 12 for _ in range(count))


def test_a_signature_that_takes_too_long_fails_and_the_next_message_is_answered(
    front: AgentFront, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(front.agent, "settings", replace(SETTINGS, timeout=0.2))
    front.held.gate.clear()
    with front.client() as client:
        client.send(front.sign_request() + LIST)
        assert client.receive() == FAILURE
        assert client.receive()[0] == 12
    front.held.gate.set()
