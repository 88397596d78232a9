"""The settings of the PKCS#11 front end: one token for all, a PIN that has to be given, templates refused."""

from collections.abc import Iterator

import pytest

from hsmbridge.frontends.p11kit.numbers import Cka, Ckr, SessionState
from hsmbridge.lab.options import LabOptions
from tests.interop.p11kit_client import CkrError, Client, Service, ay, fy, octets, start, template, u

ECDSA = 0x1041
PIN = b"a secret of seven words"
LOGIN_REQUIRED, PROTECTED_PATH, COUNT_LOW, LOCKED = 0x4, 0x100, 0x10000, 0x40000


def refused(ckr: Ckr) -> "pytest.RaisesExc[CkrError]":
    return pytest.raises(CkrError, match=f"^{ckr.value:#x}$")


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    pin_file = tmp_path_factory.mktemp("pin") / "pin"
    pin_file.touch(mode=0o600)
    pin_file.write_bytes(PIN + b"\n")
    settings = f'tokens = "merged"\ntemplates = "refuse"\nlogin = "pin"\npin_file = "{pin_file}"'
    with start(settings, LabOptions(tpm=False, workers=2)) as lab:
        yield Service(lab)


@pytest.fixture
def client(strict: Service) -> Iterator[Client]:
    with strict.client() as connected:
        yield connected


def test_all_providers_are_one_token(client: Client) -> None:
    assert client.call("C_GetSlotList", b"\1", b"\0\0\0\x10") == [0]
    label, *_ = client.call("C_GetTokenInfo", u(0))
    assert label.rstrip() == b"hsmbridge"
    flags = client.call("C_GetTokenInfo", u(0))[4]
    assert flags & LOGIN_REQUIRED
    assert not flags & PROTECTED_PATH


def test_the_pin_opens_them_for_all_sessions_until_log_out(client: Client) -> None:
    session, other = client.open(0), client.open(0, write=False)
    client.call("C_Login", u(session), u(1), ay(PIN))
    with refused(Ckr.USER_ALREADY_LOGGED_IN):
        client.call("C_Login", u(other), u(1), ay(PIN))
    assert client.call("C_GetSessionInfo", u(other))[1] == SessionState.RO_USER_FUNCTIONS
    public, private = client.key_pair(session, TOKEN=1, LABEL=b"behind a pin", SIGN=1)
    assert client.find(other, LABEL=b"behind a pin") == [private, public]
    client.call("C_SignInit", u(other), client.mechanism(ECDSA, plain=True), u(private))
    client.call("C_Logout", u(session))
    with refused(Ckr.OPERATION_NOT_INITIALIZED):
        client.call("C_Sign", u(other), ay(b"d" * 32), fy(64))
    assert client.find(other, LABEL=b"behind a pin") == [public]
    with refused(Ckr.KEY_HANDLE_INVALID):
        client.call("C_SignInit", u(other), client.mechanism(ECDSA, plain=True), u(private))
    client.call("C_Login", u(session), u(1), ay(PIN))
    client.call("C_DestroyObject", u(session), u(private))


def test_the_login_ends_with_the_last_session(client: Client) -> None:
    session = client.open(0)
    client.call("C_Login", u(session), u(1), ay(PIN))
    client.call("C_CloseSession", u(session))
    again = client.open(0)
    assert client.call("C_GetSessionInfo", u(again))[1] == SessionState.RW_PUBLIC_SESSION


def test_nobody_logs_in_as_security_officer(client: Client) -> None:
    session = client.open(0)
    with refused(Ckr.USER_TYPE_INVALID):
        client.call("C_Login", u(session), u(0), ay(PIN))


def test_nobody_initialises_a_token_or_changes_its_pin(client: Client) -> None:
    session = client.open(0)
    for name, arguments in {
        "C_InitToken2": (u(0), ay(PIN), octets(b"mine".ljust(32))),
        "C_InitPIN": (u(session), ay(PIN)),
        "C_SetPIN": (u(session), ay(PIN), ay(b"another")),
    }.items():
        with refused(Ckr.FUNCTION_NOT_SUPPORTED):
            client.call(name, *arguments)


def test_a_template_that_asks_too_much_is_refused(client: Client) -> None:
    session = client.open(0)
    client.call("C_Login", u(session), u(1), ay(PIN))
    with refused(Ckr.TEMPLATE_INCONSISTENT):
        client.call(
            "C_GenerateKey",
            u(session),
            client.mechanism(0x1080, plain=True),
            template(VALUE_LEN=32, ENCRYPT=1, DECRYPT=1, WRAP=1, UNWRAP=1),
        )
    key = client.call(
        "C_GenerateKey",
        u(session),
        client.mechanism(0x1080, plain=True),
        template(VALUE_LEN=32, ENCRYPT=1, DECRYPT=1),
    )
    assert client.attributes(session, key, Cka.WRAP)[0] == {Cka.WRAP: 0}


def test_private_keys_are_out_of_reach_before_the_pin(client: Client) -> None:
    with refused(Ckr.USER_NOT_LOGGED_IN):
        client.key_pair(client.open(0), TOKEN=1, SIGN=1)


# The last one: it locks everybody out who runs as this user.


def test_wrong_pins_are_counted_by_user_and_not_by_connection(strict: Service) -> None:
    for wrong in (b"something else", None, PIN + b"\n"):
        with strict.client() as client, refused(Ckr.PIN_INCORRECT):
            client.call("C_Login", u(client.open(0)), u(1), ay(wrong))
    for _ in range(8):  # whichever of the daemon's processes takes the connection
        with strict.client() as client, refused(Ckr.PIN_LOCKED):
            assert client.call("C_GetTokenInfo", u(0))[4] & (COUNT_LOW | LOCKED) == COUNT_LOW | LOCKED
            client.call("C_Login", u(client.open(0)), u(1), ay(PIN))
