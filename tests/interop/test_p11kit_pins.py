"""Tokens of each user's own (login = "own"): stock tools initialise them and set PINs, and what is refused is told."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import repeat
from pathlib import Path

import pytest

from hsmbridge.client import KeyOperationPermission
from hsmbridge.frontends.p11kit.numbers import Ckr, SessionState, TokenFlag
from hsmbridge.lab.options import LabOptions
from tests.interop.p11kit_client import MODULE, CkrError, Client, Service, ay, octets, start, u
from tests.interop.test_p11kit_newer import CLIENTS, NewerService

SO, USER, CONTEXT = 0, 1, 2
SO_PIN, PIN = b"12345678", b"4711"
SOFTWARE, OTHER = 0, 2
"""Slots of two tokens that are there from the first moment on."""
HSMBRIDGE = str(Path(sys.executable).with_name("hsmbridge"))
UP = TokenFlag.RNG | TokenFlag.LOGIN_REQUIRED


def refused(ckr: Ckr) -> "pytest.RaisesExc[CkrError]":
    return pytest.raises(CkrError, match=f"^{ckr.value:#x}$")


@pytest.fixture(scope="module")
def daemon() -> Iterator[Service]:
    settings = 'login = "own"\n[providers.other]\nuri = "software:"'
    with start(settings, LabOptions(tpm=False, workers=2)) as lab:
        yield Service(lab)


@pytest.fixture
def service(daemon: Service) -> Iterator[Service]:
    """The daemon, with tokens that were never initialised and nothing on them."""
    yield daemon
    with daemon.lab.stack() as stack:
        for slot in stack.list_slots():
            stack.destroy(slot.name)
        for pins in stack.pins():
            stack.reset_pins(pins.principal, pins.token)


@pytest.fixture
def client(service: Service) -> Iterator[Client]:
    with service.client() as connected:
        yield connected


def init_token(client: Client, pin: bytes | None = SO_PIN, label: bytes = b"mine", slot: int = SOFTWARE) -> None:
    if client.offered:
        client.call("C_InitToken2", u(slot), ay(pin), octets(label.ljust(32)))
    else:
        client.call("C_InitToken", u(slot), ay(pin), octets(label.ljust(32)))


def login(client: Client, session: int, user: int, pin: bytes | None) -> None:
    client.call("C_Login", u(session), u(user), ay(pin))


def flags(client: Client) -> TokenFlag:
    return TokenFlag(client.call("C_GetTokenInfo", u(SOFTWARE))[4])


def set_up(client: Client) -> None:
    """Both PINs are set, and nobody is logged in."""
    init_token(client)
    session = client.open(SOFTWARE)
    login(client, session, SO, SO_PIN)
    client.call("C_InitPIN", u(session), ay(PIN))
    client.call("C_CloseSession", u(session))


def slots(service: Service) -> set[str]:
    with service.lab.stack() as stack:
        return {slot.name.rpartition("/")[2] for slot in stack.list_slots()}


def hsmbridge(service: Service, *words: str, code: int = 0) -> str:
    ended = subprocess.run(
        (HSMBRIDGE, *words),
        env={**os.environ, **service.lab.environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == code, ended.stderr
    return ended.stdout + ended.stderr


# Programs of others


def test_pkcs11_tool_initialises_a_token_and_changes_its_pins(service: Service, tmp_path: Path) -> None:
    def tool(*words: str, check: bool = True) -> str:
        return service.tool("--token-label", "my own", *words, cwd=tmp_path, check=check)

    assert "uninitialized" in service.tool("-L", cwd=tmp_path)
    initialize = ("--init-token", "--slot", "2", "--label", "my own", "--so-pin", "12345678")
    assert "successfully initialized" in service.tool(*initialize, cwd=tmp_path)
    tool("--init-pin", "--login", "--login-type", "so", "--so-pin", "12345678", "--new-pin", "4711")
    make = ("-k", "--key-type", "EC:prime256v1", "--label", "web", "--id", "01")
    assert "CKR_PIN_INCORRECT" in tool("--login", "--pin", "4712", *make, check=False)
    tool("--login", "--pin", "4711", *make)
    tool("--change-pin", "--pin", "4711", "--new-pin", "564738")
    tool("--change-pin", "--login", "--login-type", "so", "--so-pin", "12345678", "--new-pin", "87654321")
    assert "Private Key" not in tool("-O")
    (tmp_path / "data").write_bytes(b"data")
    (tmp_path / "digest").write_bytes(hashlib.sha256(b"data").digest())
    sign = ("--sign", "--mechanism", "ECDSA", "--signature-format", "openssl", "-i", "digest", "-o", "signature")
    tool("--login", "--pin", "564738", *sign, "--id", "01")
    tool("--read-object", "--type", "pubkey", "--id", "01", "-o", "key")
    verify = ("-verify", "key", "-keyform", "DER", "-signature", "signature", "data")
    assert "Verified OK" in service.run("openssl", "dgst", "-sha256", *verify, cwd=tmp_path)
    assert "web.id-01" in slots(service)
    wrong = ("--init-token", "--slot", "2", "--label", "again", "--so-pin", "12345678")
    assert "CKR_PIN_INCORRECT" in service.tool(*wrong, cwd=tmp_path, check=False)
    service.tool(*wrong[:-1], "87654321", cwd=tmp_path)
    assert "web.id-01" not in slots(service)
    assert "again" in service.tool("-L", cwd=tmp_path)


@pytest.mark.all
@pytest.mark.parametrize("suite", CLIENTS)
def test_newer_clients_do_the_same(service: Service, suite: str, tmp_path: Path) -> None:
    (tmp_path / "programs").mkdir()
    newer = NewerService(service.lab, suite, tmp_path / "programs")
    test_pkcs11_tool_initialises_a_token_and_changes_its_pins(newer, tmp_path)


def test_gnutls_initialises_a_token(service: Service, tmp_path: Path) -> None:
    def tool(*words: str) -> str:
        return service.run("p11tool", "--provider", MODULE, *words, cwd=tmp_path)

    tool("--initialize", "pkcs11:token=other", "--label", "gnu", "--set-so-pin", "12345678")
    tool("--initialize-pin", "pkcs11:token=gnu", "--set-so-pin", "12345678", "--set-pin", "4711")
    login_ = ("--login", "--set-pin", "4711")
    tool(*login_, "--generate-ecc", "--curve", "secp256r1", "--label", "made", "pkcs11:token=gnu")
    assert "object=made;type=private" in tool(*login_, "--list-all", "pkcs11:token=gnu")
    assert "type=private" not in tool("--list-all", "pkcs11:token=gnu")


def test_an_operator_sees_pins_and_resets_forgotten_ones(service: Service) -> None:
    with service.client() as client:
        set_up(client)
        session = client.open(SOFTWARE)
        login(client, session, USER, PIN)
        client.key_pair(session, SIGN=1, TOKEN=1, LABEL=b"kept")
    me = f"uid:{os.getuid()}"
    assert me in hsmbridge(service, "pkcs11", "pin", "list")
    (told,) = json.loads(hsmbridge(service, "pkcs11", "pin", "list", "--json"))
    assert (told["principal"], told["token"], told["label"]) == (me, "software", "mine")
    assert told["user_pin"] == {"set": True, "wrong": 0, "left": 3, "locked_until": None}
    hsmbridge(service, "pkcs11", "pin", "reset", me, "software")
    assert "has no PINs" in hsmbridge(service, "pkcs11", "pin", "reset", me, "software", code=13)
    with service.client() as client:
        assert not flags(client) & TokenFlag.TOKEN_INITIALIZED
        set_up(client)
        init_token(client)
    assert slots(service) == {"kept"}, "it is older than the token"


# What PKCS#11 says of each state


def test_the_flags_tell_the_truth_at_every_step(client: Client) -> None:
    assert flags(client) == UP
    init_token(client)
    assert flags(client) == UP | TokenFlag.TOKEN_INITIALIZED
    session = client.open(SOFTWARE)
    login(client, session, SO, SO_PIN)
    client.call("C_InitPIN", u(session), ay(PIN))
    client.call("C_Logout", u(session))
    ready = UP | TokenFlag.TOKEN_INITIALIZED | TokenFlag.USER_PIN_INITIALIZED
    seen = []
    for wrong in range(3):
        seen.append(flags(client) & ~ready)
        with refused(Ckr.PIN_INCORRECT):
            login(client, session, USER, b"wrong" if wrong else None)
    low = TokenFlag.USER_PIN_COUNT_LOW
    assert seen == [TokenFlag(0), low, low | TokenFlag.USER_PIN_FINAL_TRY]
    assert flags(client) == ready | low | TokenFlag.USER_PIN_LOCKED
    with refused(Ckr.PIN_LOCKED):
        login(client, session, USER, PIN)
    with refused(Ckr.PIN_LOCKED):
        client.call("C_SetPIN", u(session), ay(PIN), ay(b"another"))
    with refused(Ckr.PIN_INCORRECT):
        login(client, session, SO, PIN)
    assert flags(client) & TokenFlag.SO_PIN_COUNT_LOW
    login(client, session, SO, SO_PIN)
    client.call("C_InitPIN", u(session), ay(b"another"))
    client.call("C_Logout", u(session))
    login(client, session, USER, b"another")
    assert flags(client) == ready


def test_what_one_process_of_the_daemon_sets_the_other_knows(service: Service) -> None:
    with service.client() as client:
        set_up(client)
    for _ in range(6):
        with service.client() as client:
            login(client, client.open(SOFTWARE), USER, PIN)


@pytest.mark.parametrize("offered", [0, 1])
def test_older_clients_initialise_tokens_too(service: Service, offered: int) -> None:
    with service.client(offered) as client:
        if offered:
            init_token(client, label="Größe".encode())
        else:  # what lies in memory behind the label comes along
            client.call("C_InitToken", u(SOFTWARE), ay(SO_PIN), octets("Größe".encode().ljust(32) + b"\xff\x01memory"))
        assert client.call("C_GetTokenInfo", u(SOFTWARE))[0].decode().rstrip() == "Größe"


def test_private_keys_are_the_users_and_not_the_officers(client: Client) -> None:
    set_up(client)
    session = client.open(SOFTWARE)
    with refused(Ckr.USER_NOT_LOGGED_IN):
        client.key_pair(session, SIGN=1, TOKEN=1)
    login(client, session, USER, PIN)
    public, _ = client.key_pair(session, SIGN=1, TOKEN=1, LABEL=b"mine")
    client.call("C_Logout", u(session))
    login(client, session, SO, SO_PIN)
    assert client.find(session, LABEL=b"mine") == [public]
    with refused(Ckr.USER_NOT_LOGGED_IN):
        client.key_pair(session, SIGN=1, TOKEN=1)


def test_who_is_logged_in_decides_which_sessions_there_may_be(client: Client) -> None:
    set_up(client)
    reading, writing = client.open(SOFTWARE, write=False), client.open(SOFTWARE)
    with refused(Ckr.SESSION_READ_ONLY_EXISTS):
        login(client, writing, SO, SO_PIN)
    client.call("C_CloseSession", u(reading))
    login(client, writing, SO, SO_PIN)
    assert client.call("C_GetSessionInfo", u(writing))[1] == SessionState.RW_SO_FUNCTIONS
    with refused(Ckr.SESSION_READ_WRITE_SO_EXISTS):
        client.open(SOFTWARE, write=False)
    with refused(Ckr.USER_ANOTHER_ALREADY_LOGGED_IN):
        login(client, writing, USER, PIN)
    with refused(Ckr.USER_ALREADY_LOGGED_IN):
        login(client, writing, SO, SO_PIN)
    client.call("C_Logout", u(writing))
    assert client.call("C_GetSessionInfo", u(writing))[1] == SessionState.RW_PUBLIC_SESSION
    login(client, writing, USER, PIN)
    with refused(Ckr.USER_ANOTHER_ALREADY_LOGGED_IN):
        login(client, writing, SO, SO_PIN)
    with refused(Ckr.OPERATION_NOT_INITIALIZED):
        login(client, writing, CONTEXT, PIN)
    with refused(Ckr.USER_TYPE_INVALID):
        login(client, writing, 7, PIN)


def test_c_init_token_is_refused_by_what_stands_in_the_way(service: Service, client: Client) -> None:
    with refused(Ckr.ARGUMENTS_BAD):
        init_token(client, None)
    for pin in (b"", b"123", b"x" * 256):
        with refused(Ckr.PIN_LEN_RANGE):
            init_token(client, pin)
    with refused(Ckr.SLOT_ID_INVALID):
        init_token(client, slot=7)
    with refused(Ckr.TOKEN_NOT_RECOGNIZED):
        client.open(SOFTWARE)
    set_up(client)
    with refused(Ckr.PIN_INCORRECT):
        init_token(client, PIN)
    session = client.open(SOFTWARE)
    with refused(Ckr.SESSION_EXISTS):
        init_token(client)
    others = [service.client().__enter__() for _ in range(4)]  # both processes have some
    for other in others:
        other.open(SOFTWARE)
    client.call("C_CloseSession", u(session))
    with service.client() as another, refused(Ckr.SESSION_EXISTS):
        init_token(another)
    for other in others:
        other.call("C_Finalize")
        other.socket.close()


def test_c_init_pin_is_the_officers_alone(client: Client) -> None:
    set_up(client)
    session = client.open(SOFTWARE)
    with refused(Ckr.USER_NOT_LOGGED_IN):
        client.call("C_InitPIN", u(session), ay(b"another"))
    login(client, session, USER, PIN)
    with refused(Ckr.USER_NOT_LOGGED_IN):
        client.call("C_InitPIN", u(session), ay(b"another"))
    with refused(Ckr.SESSION_HANDLE_INVALID):
        client.call("C_InitPIN", u(session + 1), ay(b"another"))
    client.call("C_Logout", u(session))
    login(client, session, SO, SO_PIN)
    with refused(Ckr.PIN_LEN_RANGE):
        client.call("C_InitPIN", u(session), ay(b"123"))
    with refused(Ckr.ARGUMENTS_BAD):
        client.call("C_InitPIN", u(session), ay(None))


def test_c_set_pin_changes_the_pin_of_who_is_logged_in_or_the_users(client: Client) -> None:
    init_token(client)
    session = client.open(SOFTWARE)
    with refused(Ckr.USER_PIN_NOT_INITIALIZED):
        client.call("C_SetPIN", u(session), ay(PIN), ay(b"another"))
    with refused(Ckr.USER_PIN_NOT_INITIALIZED):
        login(client, session, USER, PIN)
    login(client, session, SO, SO_PIN)
    client.call("C_InitPIN", u(session), ay(PIN))
    client.call("C_SetPIN", u(session), ay(SO_PIN), ay(b"officer"))
    client.call("C_Logout", u(session))
    with refused(Ckr.PIN_INCORRECT):
        login(client, session, SO, SO_PIN)
    for old, new, ckr in (
        (b"wrong", b"another", Ckr.PIN_INCORRECT),
        (PIN, b"123", Ckr.PIN_LEN_RANGE),
        (None, b"another", Ckr.ARGUMENTS_BAD),
        (PIN, None, Ckr.ARGUMENTS_BAD),
    ):
        with refused(ckr):
            client.call("C_SetPIN", u(session), ay(old), ay(new))
    client.call("C_SetPIN", u(session), ay(PIN), ay(b"another"))
    login(client, session, USER, b"another")
    client.call("C_SetPIN", u(session), ay(b"another"), ay(PIN))
    reading = client.open(SOFTWARE, write=False)
    with refused(Ckr.SESSION_READ_ONLY):
        client.call("C_SetPIN", u(reading), ay(PIN), ay(b"another"))


def test_two_logins_at_once_are_one(client: Client) -> None:
    set_up(client)
    session = client.open(SOFTWARE)
    for _ in range(2):
        client.send("C_Login", u(session), u(USER), ay(PIN))
    ends = [client.receive()[1] for _ in range(2)]
    (refusal,) = [end for end in ends if isinstance(end, CkrError)]
    assert refusal.ckr == Ckr.USER_ALREADY_LOGGED_IN


def test_a_login_whose_session_ends_meanwhile_does_not_hold(client: Client) -> None:
    set_up(client)
    session = client.open(SOFTWARE)
    client.send("C_Login", u(session), u(USER), ay(PIN))
    client.send("C_CloseSession", u(session))
    ends = {type(client.receive()[1]) for _ in range(2)}
    assert CkrError in ends
    again = client.open(SOFTWARE)
    assert client.call("C_GetSessionInfo", u(again))[1] == SessionState.RW_PUBLIC_SESSION


def test_initialising_again_destroys_what_was_made_there_and_nothing_else(service: Service, client: Client) -> None:
    with service.lab.stack() as stack:
        stack.create_slot("older", "EC-P256", KeyOperationPermission.SIGN, providers=["software"])
        set_up(client)
        stack.create_slot("elsewhere", "EC-P256", KeyOperationPermission.SIGN, providers=["other"])
        stack.create_slot("shared", "EC-P256", KeyOperationPermission.SIGN, providers=["software"])
        stack.grant("shared", "uid:65534", KeyOperationPermission.SIGN)
        session = client.open(SOFTWARE)
        login(client, session, USER, PIN)
        client.key_pair(session, SIGN=1, TOKEN=1, LABEL=b"made")
        client.call("C_CloseAllSessions", u(SOFTWARE))
        assert {"older", "elsewhere", "shared"} < slots(service)
        init_token(client, label=b"again")
        assert slots(service) == {"older", "elsewhere", "shared"}
    assert not flags(client) & TokenFlag.USER_PIN_INITIALIZED
    labels = [client.call("C_GetTokenInfo", u(slot))[0].rstrip() for slot in (SOFTWARE, OTHER)]
    assert labels == [b"again", b"other"]


def test_programs_that_log_in_at_once_do_not_lock_a_pin_and_have_no_further_tries(
    service: Service, client: Client
) -> None:
    set_up(client)
    with ExitStack() as stack, ThreadPoolExecutor(8) as threads:
        clients = [stack.enter_context(service.client()) for _ in range(8)]
        sessions = [one.open(SOFTWARE) for one in clients]

        def told(at: int, pin: bytes) -> str:
            try:
                login(clients[at], sessions[at], USER, pin)
            except CkrError as refusal:
                return str(refusal)
            return ""

        assert [*threads.map(told, range(8), repeat(PIN))] == [""] * 8
        assert not flags(client) & (TokenFlag.USER_PIN_COUNT_LOW | TokenFlag.USER_PIN_LOCKED)
        for one, session in zip(clients, sessions, strict=True):
            one.call("C_Logout", u(session))
        refusals = sorted(threads.map(told, range(8), repeat(b"wrong")))
        assert refusals == [f"{Ckr.PIN_INCORRECT.value:#x}"] * 3 + [f"{Ckr.PIN_LOCKED.value:#x}"] * 5
