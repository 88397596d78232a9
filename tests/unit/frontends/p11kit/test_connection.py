"""The p11-kit front end on a real socket: the time that a frame has, and how many connections there may be."""

import shutil
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from hsmbridge.core import messages as m
from hsmbridge.core.calls import KeyTarget, MadeKey
from hsmbridge.core.errors import ResourceError, Status
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.frontends.p11kit import connection as module
from hsmbridge.frontends.p11kit.front_end import P11KitFrontEnd
from hsmbridge.frontends.p11kit.numbers import Ckr
from hsmbridge.frontends.p11kit.settings import LoginPolicy, P11KitSettings, TemplatePolicy, TokenView
from hsmbridge.wire.codec import decode_error
from tests.interop.p11kit_client import CALL, CkrError, Client, template, u
from tests.unit.frontends.native_rig import PATIENCE, Front, Peer

MOST = 3
SETTINGS = P11KitSettings(
    tokens=TokenView.PROVIDERS,
    templates=TemplatePolicy.ATTENUATE,
    login=LoginPolicy.NONE,
    pin=b"",
    version="0",
    max_data=1 << 20,
    max_connections=64,
    max_connections_per_principal=MOST,
    max_in_flight=8,
    max_sessions=8,
    timeout=PATIENCE,
)
INFO = struct.pack(">IIIII", 99, 0, 8, CALL["C_GetInfo"].number, 0)
"""A frame that asks for CK_INFO."""


class P11KitFront(Front):
    """A daemon's inside with a native socket and a p11-kit one."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.p11kit_path = directory / "p"
        self.p11kit = self._on_loop(self._listen())

    async def _listen(self) -> P11KitFrontEnd:
        p11kit = P11KitFrontEnd(
            self._loop,
            self.front_end.dispatcher,
            self.runner,
            SETTINGS,
            stamp=self.store.changes.stamp,
            watch_deadlines=self.front_end.watch_deadlines,
            turns=self.front_end,
        )
        self._p11kit_server = await self._loop.create_unix_server(p11kit.connection, str(self.p11kit_path))
        return p11kit

    async def _drain(self) -> None:
        self._p11kit_server.close()
        await self.p11kit.drain()
        await super()._drain()

    def client(self) -> Client:
        return Client(self.p11kit_path)


@pytest.fixture
def front() -> Iterator[P11KitFront]:
    directory = Path(tempfile.mkdtemp(prefix="hb", dir="/tmp"))
    made = P11KitFront(directory)
    try:
        yield made
    finally:
        made.close()
        shutil.rmtree(directory)


def test_a_frame_that_is_not_finished_in_time_ends_its_connection(
    front: P11KitFront, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FRAME_TIMEOUT", 0.1)
    with front.client() as silent, front.client() as slow:
        slow.socket.sendall(INFO + INFO[:7])
        assert slow.receive()[0] == 99
        assert slow.socket.recv(1) == b""
        silent.call("C_GetInfo")  # one that is silent between frames stays


def test_the_time_is_one_frame_s_and_not_the_connection_s(front: P11KitFront, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FRAME_TIMEOUT", 0.4)
    until = time.monotonic() + 1.0
    with front.client() as client:
        client.socket.sendall(INFO[:7])
        while time.monotonic() < until:  # always in the middle of a frame
            client.socket.sendall(INFO[7:] + INFO[:7])
            assert client.receive()[0] == 99
        client.socket.sendall(INFO[7:])
        assert client.receive()[0] == 99


def test_no_more_connections_of_one_user_than_the_limit(front: P11KitFront) -> None:
    with front.client(), front.client(), front.client() as last:
        with socket.socket(socket.AF_UNIX) as one_more:
            one_more.settimeout(PATIENCE)
            one_more.connect(str(front.p11kit_path))
            assert one_more.recv(1) == b""
        last.call("C_GetInfo")


def test_a_session_with_many_objects_is_closed(front: P11KitFront) -> None:
    with front.client() as client:
        slot = client.slot("short")
        session = client.open(slot)
        for _ in range(200):
            client.key_pair(session)
        client.call("C_CloseSession", u(session))
        assert client.find(client.open(slot)) == []


SECRET: dict[str, int | bytes] = {
    "CLASS": 4,
    "KEY_TYPE": 0x10,
    "VALUE": bytes(32),
    "SIGN": 1,
    "TOKEN": 1,
    "LABEL": b"late",
}


@pytest.fixture
def gated(front: P11KitFront, monkeypatch: pytest.MonkeyPatch) -> P11KitFront:
    """Whose provider `held` takes in keys where a test opens its gate."""
    held, real = front.held, front.held.import_key

    def import_key(target: KeyTarget, format_: str, material: bytes) -> MadeKey:
        held.entered.release()
        assert held.gate.wait(PATIENCE)
        return real(target, format_, material)

    monkeypatch.setattr(held, "import_key", import_key)
    held.gate.clear()
    return front


def wait_for(ready: threading.Event) -> None:
    assert ready.wait(PATIENCE)


def is_refused(peer: Peer, request: m.SlotCreateRequest) -> bool:
    """Whether there is a slot of this name already."""
    try:
        peer.ask(request, m.SlotInfo)
    except ResourceError:
        return True
    return False


def test_what_a_killed_application_was_making_is_whole_or_gone(gated: P11KitFront) -> None:
    slot = m.SlotCreateRequest("late", "EC-P256", ("short",), int(P.SIGN))
    with Peer(gated) as peer:
        with gated.client() as client:
            client.send("C_CreateObject", u(client.open(client.slot("held"))), template(**SECRET))
            gated.held.came(1)
        gated.settle()
        gated.held.gate.set()
        until = time.monotonic() + PATIENCE
        while not peer.ask(m.SlotShowRequest("late"), m.SlotInfo).versions:
            assert time.monotonic() < until
        peer.ask(m.SlotDestroyRequest("late"), m.Empty)
        # And once more, killed while its slot is made.
        ready = threading.Event()
        with gated.client() as client:
            session = client.open(client.slot("held"))
            gated._store_thread.submit(partial(wait_for, ready))
            client.send("C_CreateObject", u(session), template(**SECRET))
            gated.settle()
        gated.settle()
        peer.send(2, slot)
        ready.set()
        assert decode_error(peer.reply()).status is Status.RESOURCE_EXISTS, "it was there"
        while is_refused(peer, slot):
            assert time.monotonic() < until


def test_a_key_that_is_made_when_its_session_has_ended_is_not_kept(gated: P11KitFront) -> None:
    with gated.client() as client:
        slot = client.slot("held")
        session = client.open(slot)
        making = client.send("C_CreateObject", u(session), template(**{**SECRET, "TOKEN": 0}))
        gated.held.came(1)
        client.call("C_CloseSession", u(session))
        gated.held.gate.set()
        code, refusal = client.receive()
        assert code == making
        assert isinstance(refusal, CkrError)
        assert refusal.ckr == Ckr.SESSION_HANDLE_INVALID
        assert client.find(client.open(slot)) == []
        assert gated.held._ephemeral == {}
