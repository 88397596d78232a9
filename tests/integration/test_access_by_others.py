"""Another user of the machine: what is hidden looks as if it were not there, and grants and roles hold at once.

The other user is a process under a uid of its own, which only root can start (setpriv). Run by anybody else these
tests belong to those that `--all` asks for.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hsmbridge.client import CryptoStack, KeyOperationPermission
from hsmbridge.core.errors import HsmBridgeError, RequestError, Status
from hsmbridge.core.policy import Role
from hsmbridge.lab.lab import Lab
from hsmbridge.lab.options import LabOptions

pytestmark = [] if os.geteuid() == 0 else [pytest.mark.all]

ROOT = Path(__file__).parents[2]
OTHER_UID = 65_533
OTHER = f"uid:{OTHER_UID}"
OWN = f"uid-{os.geteuid()}"
CONNECTIONS = 6
ALGORITHM = "ECDSA-P256-SHA256"
SIGN, VERIFY, GENERATE = (
    KeyOperationPermission.SIGN,
    KeyOperationPermission.VERIFY,
    KeyOperationPermission.GENERATE,
)

# Does what it is told line by line: the name of a method of the stack and its arguments, or how many connections to
# open and keep. Answers with what came of it.
PEER = """
import json, socket, sys
from contextlib import suppress
from hsmbridge.client import CryptoStack, KeyOperationPermission
from hsmbridge.core.errors import HsmBridgeError
from hsmbridge.core.policy import Role
from hsmbridge.wire.codec import decode_error, encode_request
from hsmbridge.wire.frames import FrameReader
from hsmbridge.wire.hello import hello

def flood(count):
    refusals = []
    for _ in range(count):
        one = socket.socket(socket.AF_UNIX)
        one.settimeout(20)
        one.connect(sys.argv[1])
        with suppress(BrokenPipeError):  # one that is refused is told before it has said a word
            one.sendall(encode_request(1, hello("flood")))
        (frame,) = FrameReader(1 << 20, replies=True).feed(one.recv(65536))
        if frame.word:
            refusals.append(decode_error(frame).status.name)
        else:
            held.append(one)
    return refusals

def do(stack, what, arguments, named):
    if what == "flood":
        return flood(*arguments)
    if what == "close":
        while held:
            held.pop().close()
        return ""
    if "permissions" in named:
        named["permissions"] = KeyOperationPermission(named["permissions"])
    if "role" in named:
        named["role"] = Role(named["role"])
    if what == "sign":
        arguments[2] = arguments[2].encode()
    result = getattr(stack, what)(*arguments, **named)
    if what == "list_slots":
        return [slot.name for slot in result]
    return result.principal if what == "status" else getattr(result, "version", 0)

held = []
with CryptoStack(sys.argv[1], lifetime="fixed") as stack:
    for line in sys.stdin:
        what, arguments, named = json.loads(line)
        try:
            answer = ["OK", do(stack, what, arguments, named)]
        except HsmBridgeError as refused:
            answer = [refused.status.name, refused.message]
        print(json.dumps(answer), flush=True)
"""


class Somebody:
    """A process of another user, with a connection to the daemon."""

    def __init__(self, socket: Path) -> None:
        identity = ("setpriv", f"--reuid={OTHER_UID}", f"--regid={OTHER_UID}", "--clear-groups", "--")
        self._process = subprocess.Popen(
            (*identity, sys.executable, "-P", "-c", PEER, str(socket)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd="/",
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        )

    def does(self, what: str, *arguments: object, **named: object) -> tuple[str, Any]:
        """The status of what it does, and its result or the text of its refusal."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([what, arguments, named]) + "\n")
        self._process.stdin.flush()
        status, result = json.loads(self._process.stdout.readline())
        return status, result

    def close(self) -> None:
        self._process.communicate(timeout=20)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab.start(LabOptions(workers=2, tpm=False)) as lab:
        lab.stop_daemon()
        limit = f'[daemon]\nsocket_mode = "0666"\nmax_connections_per_principal = {CONNECTIONS}'
        lab.config.write_text(lab.config.read_text().replace("[daemon]", limit))
        # What is behind the socket stays the daemon's own; only the way to it is open.
        lab.directory.chmod(0o711)
        lab.start_daemon()
        yield lab


@pytest.fixture
def owner(lab: Lab) -> Iterator[CryptoStack]:
    with lab.stack() as stack:
        yield stack


@pytest.fixture
def somebody(lab: Lab) -> Iterator[Somebody]:
    made = Somebody(lab.socket)
    yield made
    made.close()


def slot(owner: CryptoStack, name: str) -> str:
    return owner.create_slot(name, "EC-P256", SIGN | VERIFY | GENERATE, providers=["software"]).name


def test_the_daemon_knows_the_other_user_from_the_kernel(somebody: Somebody) -> None:
    assert somebody.does("status") == ("OK", OTHER)


def test_a_hidden_slot_and_one_that_is_not_there_are_refused_in_the_same_words(
    owner: CryptoStack, somebody: Somebody
) -> None:
    hidden, missing = slot(owner, "hidden"), f"{OWN}/missed"
    acts: tuple[tuple[str, tuple[object, ...], dict[str, object]], ...] = (
        ("show_slot", (), {}),
        ("sign", (ALGORITHM, "message"), {}),
        ("rotate", (), {}),
        ("revoke", (), {}),
        ("revoke", (1,), {}),
        ("destroy", (), {}),
        ("grant", (OTHER,), {"permissions": int(SIGN)}),
        ("ungrant", (OTHER,), {}),
    )
    for what, arguments, named in acts:
        told = [somebody.does(what, name, *arguments, **named) for name in (hidden, missing)]
        assert told[0][0] == told[1][0] == "RESOURCE_NOT_FOUND", what
        assert told[0][1].replace(hidden, "SLOT") == told[1][1].replace(missing, "SLOT"), what
    assert somebody.does("list_slots") == ("OK", [])
    assert somebody.does("list_slots", OWN) == ("OK", [])
    assert owner.sign(hidden, ALGORITHM, b"message").version == 1


def test_nobody_makes_a_slot_in_the_namespace_of_another(somebody: Somebody) -> None:
    arguments = {"permissions": int(SIGN), "providers": ["software"]}
    status, _ = somebody.does("create_slot", f"{OWN}/theirs", "EC-P256", **arguments)
    assert status == Status.ACCESS_DENIED.name
    assert somebody.does("create_slot", "own", "EC-P256", **arguments)[0] == "OK"
    assert somebody.does("list_slots") == ("OK", [f"uid-{OTHER_UID}/own"])
    assert somebody.does("destroy", "own")[0] == "OK"


def test_the_owner_does_not_see_what_the_other_user_has(owner: CryptoStack, somebody: Somebody) -> None:
    name = f"uid-{OTHER_UID}/private"
    somebody.does("create_slot", "private", "EC-P256", permissions=int(SIGN), providers=["software"])
    with pytest.raises(HsmBridgeError) as refused:
        owner.show_slot(name)
    assert refused.value.status is Status.RESOURCE_NOT_FOUND
    assert name not in [found.name for found in owner.list_slots()]
    assert somebody.does("destroy", "private")[0] == "OK"


def test_a_grant_and_its_end_hold_at_once_at_every_worker(lab: Lab, owner: CryptoStack) -> None:
    name = slot(owner, "granted")
    # Workers share connections evenly; with four of them both are asked.
    users = [Somebody(lab.socket) for _ in range(4)]
    try:
        for _ in range(5):
            assert {user.does("sign", name, ALGORITHM, "m")[0] for user in users} == {"RESOURCE_NOT_FOUND"}
            owner.grant(name, OTHER, SIGN)
            began = time.monotonic()
            assert [user.does("sign", name, ALGORITHM, "m") for user in users] == [("OK", 1)] * 4
            assert time.monotonic() - began < 1.0
            owner.grant(name, OTHER, VERIFY)
            assert {user.does("sign", name, ALGORITHM, "m")[0] for user in users} == {"KEY_OPERATION_NOT_PERMITTED"}
            owner.ungrant(name, OTHER)
    finally:
        for user in users:
            user.close()


def test_who_may_use_a_slot_may_not_administer_it(owner: CryptoStack, somebody: Somebody) -> None:
    name = slot(owner, "used")
    owner.grant(name, OTHER, SIGN)
    assert somebody.does("sign", name, ALGORITHM, "message") == ("OK", 1)
    assert somebody.does("list_slots") == ("OK", [name])
    denied = Status.ACCESS_DENIED.name
    assert somebody.does("revoke", name)[0] == denied
    assert somebody.does("destroy", name)[0] == denied
    assert somebody.does("grant", name, OTHER, permissions=int(SIGN | VERIFY))[0] == denied
    assert somebody.does("ungrant", name, f"uid:{os.geteuid()}")[0] == denied
    assert somebody.does("rotate", name)[0] == Status.KEY_OPERATION_NOT_PERMITTED.name
    owner.ungrant(name, OTHER)


def test_an_administrator_has_no_more_uses_than_the_mask_says_and_cannot_be_shut_out_alone(
    owner: CryptoStack, somebody: Somebody
) -> None:
    name = slot(owner, "administered")
    owner.grant(name, OTHER, GENERATE, role=Role.ADMINISTER)
    assert somebody.does("sign", name, ALGORITHM, "message")[0] == Status.KEY_OPERATION_NOT_PERMITTED.name
    assert somebody.does("rotate", name)[0] == "OK"
    assert owner.sign(name, ALGORITHM, b"message").version == 2
    # It may take the slot over as a whole; then the owner is one who sees nothing.
    assert somebody.does("ungrant", name, f"uid:{os.geteuid()}")[0] == "OK"
    with pytest.raises(HsmBridgeError) as refused:
        owner.sign(name, ALGORITHM, b"message")
    assert refused.value.status is Status.RESOURCE_NOT_FOUND
    assert somebody.does("ungrant", name, OTHER)[0] == Status.INVALID_ARGUMENT.name
    assert somebody.does("destroy", name)[0] == "OK"


def test_nobody_gets_more_than_the_slot_allows(owner: CryptoStack) -> None:
    name = slot(owner, "ceiling")
    with pytest.raises(RequestError) as refused:
        owner.grant(name, OTHER, KeyOperationPermission.DECRYPT)
    assert refused.value.status is Status.INVALID_PERMISSIONS


def test_one_user_cannot_take_all_connections(lab: Lab, somebody: Somebody) -> None:
    with lab.stack() as mine:
        workers = mine.status().workers
        # Each worker grants so many, and they are asked for ten more than all of them together.
        status, refusals = somebody.does("flood", workers * CONNECTIONS + 10)
        assert status == "OK"
        assert len(refusals) >= 10
        assert set(refusals) == {Status.TOO_MANY_CONNECTIONS.name}
        assert mine.ping(b"still served") == b"still served"
        with CryptoStack(lab.socket, lifetime="fixed") as another:
            assert another.ping(b"and let in") == b"and let in"
        assert somebody.does("close")[0] == "OK"
        assert somebody.does("status") == ("OK", OTHER)


def test_what_lies_behind_the_socket_is_out_of_reach(lab: Lab) -> None:
    open_to_all = [
        path
        for path in (lab.directory / "state", lab.directory / "softhsm", lab.token.pin_file)
        if path.stat().st_mode & 0o077
    ]
    assert open_to_all == []
