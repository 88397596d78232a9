"""A token that fails: what is tried again, what is not, and whom it touches."""

import ctypes
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pkcs11
import pytest

from hsmbridge.core.algorithms import algorithm
from hsmbridge.core.errors import ProviderError, Status
from hsmbridge.core.identifiers import new_key_id
from hsmbridge.core.key_types import KEY_TYPES
from hsmbridge.core.params import DEFAULT_SIGNATURE
from hsmbridge.providers.pkcs11 import Pkcs11Provider, initialise
from hsmbridge.providers.pkcs11.errors import ckr_name
from tests.faulty_module import (
    ALWAYS,
    CKR_CRYPTOKI_NOT_INITIALIZED,
    CKR_DEVICE_ERROR,
    CKR_DEVICE_REMOVED,
    CKR_FUNCTION_FAILED,
    CKR_SESSION_CLOSED,
    CKR_SESSION_HANDLE_INVALID,
    CKR_TOKEN_NOT_PRESENT,
    CKR_USER_NOT_LOGGED_IN,
    FaultyModule,
)
from tests.unit.providers.pkcs11.tokens import MODULE, PIN, Made, Tokens, generate, open_token

ECDSA = algorithm("ECDSA-P256-SHA256")
CKR_PIN_INCORRECT = 0xA0


@pytest.fixture
def key(faulty: Pkcs11Provider) -> Iterator[Made]:
    made = generate(faulty, "EC-P256")
    yield made
    made.destroy(faulty)


@pytest.fixture
def sign(faulty: Pkcs11Provider, key: Made) -> Callable[[], None]:
    """Signs and verifies."""
    handle = key.load(faulty)

    def sign() -> None:
        signature = faulty.sign(handle, ECDSA, b"message", DEFAULT_SIGNATURE)
        faulty.verify(handle, ECDSA, b"message", signature, DEFAULT_SIGNATURE)

    sign()
    return sign


@pytest.mark.parametrize(
    "code", [CKR_SESSION_HANDLE_INVALID, CKR_SESSION_CLOSED, CKR_DEVICE_ERROR, CKR_USER_NOT_LOGGED_IN]
)
@pytest.mark.parametrize("function", ["C_SignInit", "C_Sign"])
def test_one_failure_of_a_session_is_not_seen_and_touches_no_other(
    faulty_module: FaultyModule, sign: Callable[[], None], function: str, code: int
) -> None:
    logins = faulty_module.calls("C_Login")
    faulty_module.fail(function, code)
    sign()
    assert faulty_module.pending(function) == 0
    assert faulty_module.calls("C_Login") == logins
    assert faulty_module.calls("C_Initialize") == 1


@pytest.mark.parametrize("code", [CKR_DEVICE_ERROR, CKR_SESSION_HANDLE_INVALID])
def test_a_failure_that_comes_again_starts_the_module_again(
    faulty_module: FaultyModule, sign: Callable[[], None], code: int
) -> None:
    faulty_module.fail("C_Sign", code, times=2)
    sign()
    assert faulty_module.calls("C_Initialize") == 2
    assert faulty_module.calls("C_Login") == 2


@pytest.mark.parametrize("code", [CKR_TOKEN_NOT_PRESENT, CKR_DEVICE_REMOVED, CKR_CRYPTOKI_NOT_INITIALIZED])
def test_a_token_that_was_away_is_opened_again(
    faulty_module: FaultyModule, sign: Callable[[], None], code: int
) -> None:
    faulty_module.fail("C_SignInit", code)
    sign()
    assert faulty_module.calls("C_Initialize") == 2


def test_a_failure_that_stays_is_told_and_starts_the_module_again_once_only(
    faulty_module: FaultyModule, sign: Callable[[], None]
) -> None:
    faulty_module.fail("C_Sign", CKR_DEVICE_ERROR, ALWAYS)
    for _ in range(5):
        with pytest.raises(ProviderError) as failure:
            sign()
        assert failure.value.status is Status.PROVIDER_FAILED
        assert failure.value.origin == "lab: CKR_DEVICE_ERROR"
        assert "CKR" not in failure.value.message
    assert faulty_module.calls("C_Initialize") == 2
    faulty_module.heal("C_Sign")
    sign()


def test_a_failure_of_the_call_itself_is_told_and_not_tried_again(
    faulty_module: FaultyModule, sign: Callable[[], None]
) -> None:
    faulty_module.fail("C_Sign", CKR_FUNCTION_FAILED)
    with pytest.raises(ProviderError):
        sign()
    sign()
    assert faulty_module.calls("C_Initialize") == 1


def test_a_token_that_is_gone_is_told_and_served_when_it_is_back(
    faulty_module: FaultyModule, sign: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(initialise, "START_AGAIN_INTERVAL", 0.0)
    faulty_module.fail("C_SignInit", CKR_DEVICE_REMOVED, ALWAYS)
    faulty_module.fail("C_GetTokenInfo", CKR_TOKEN_NOT_PRESENT, ALWAYS)
    for _ in range(2):
        with pytest.raises(ProviderError, match="'lab'") as failure:
            sign()
        assert failure.value.status is Status.TOKEN_NOT_PRESENT
    faulty_module.heal("C_SignInit")
    faulty_module.heal("C_GetTokenInfo")
    sign()


def test_a_pin_that_is_refused_on_the_way_back_is_never_tried_again(
    faulty_module: FaultyModule, faulty: Pkcs11Provider, provider: Pkcs11Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(initialise, "START_AGAIN_INTERVAL", 0.0)
    key = generate(faulty, "EC-P256")
    handle, logins = key.load(faulty), faulty_module.calls("C_Login")
    faulty_module.fail("C_Login", CKR_PIN_INCORRECT)
    faulty_module.fail("C_Sign", CKR_DEVICE_REMOVED)
    for _ in range(5):
        with pytest.raises(ProviderError) as failure:
            faulty.sign(handle, ECDSA, b"", DEFAULT_SIGNATURE)
        assert failure.value.status is Status.PIN_INCORRECT
    assert faulty_module.calls("C_Login") == logins + 1
    key.destroy(provider)


def test_a_lost_login_is_no_missing_key(provider: Pkcs11Provider) -> None:
    key = generate(provider, "EC-P256")
    handle = key.load(provider)
    sessions = provider._sessions
    assert sessions._anchor is not None
    sessions._anchor.close()  # it logs the whole process out
    provider.sign(handle, ECDSA, b"", DEFAULT_SIGNATURE)
    key.destroy(provider)


def test_sessions_that_another_library_closed_are_opened_again(provider: Pkcs11Provider) -> None:
    key = generate(provider, "EC-P256")
    handle = key.load(provider)
    library = ctypes.CDLL(str(MODULE.resolve()))
    assert library.C_CloseAllSessions(ctypes.c_ulong(provider._sessions.token.slot.slot_id)) == 0
    provider.sign(handle, ECDSA, b"", DEFAULT_SIGNATURE)
    key.destroy(provider)


def test_a_module_that_another_library_finalised_is_initialised_again(provider: Pkcs11Provider) -> None:
    key = generate(provider, "EC-P256")
    handle = key.load(provider)
    assert ctypes.CDLL(str(MODULE.resolve())).C_Finalize(None) == 0
    provider.sign(handle, ECDSA, b"", DEFAULT_SIGNATURE)
    key.destroy(provider)


def test_ephemeral_keys_outlive_the_failure_of_a_session(faulty: Pkcs11Provider, faulty_module: FaultyModule) -> None:
    key = generate(faulty, "EC-P256", ephemeral=True)
    handle = key.load(faulty)
    faulty_module.fail("C_Sign", CKR_SESSION_HANDLE_INVALID)
    faulty.sign(handle, ECDSA, b"", DEFAULT_SIGNATURE)
    key.destroy(faulty)


def test_ephemeral_keys_are_missing_after_the_module_was_started_again(
    faulty: Pkcs11Provider, faulty_module: FaultyModule
) -> None:
    key = generate(faulty, "EC-P256", ephemeral=True)
    handle = key.load(faulty)
    faulty_module.fail("C_Sign", CKR_DEVICE_REMOVED, 2)  # in the session of the key, and in another one
    with pytest.raises(ProviderError) as failure:
        faulty.sign(handle, ECDSA, b"", DEFAULT_SIGNATURE)
    assert failure.value.status is Status.HANDLE_UNKNOWN
    with pytest.raises(ProviderError, match="ephemeral") as failure:
        key.load(faulty)
    assert failure.value.status is Status.KEY_MATERIAL_MISSING
    another = generate(faulty, "EC-P256", ephemeral=True)
    assert another.load(faulty)


# --- calls that hang -----------------------------------------------------------------------------------------------


def test_a_call_that_hangs_holds_up_nobody_else(
    faulty: Pkcs11Provider, faulty_module: FaultyModule, sign: Callable[[], None]
) -> None:
    faulty_module.hang("C_Sign", 1.5)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(sign)
        while faulty_module.pending("C_Sign"):
            assert not slow.done()
        started = time.monotonic()
        for _ in range(20):
            sign()
        assert time.monotonic() - started < 1.2
        assert not slow.done()
        slow.result(timeout=10)


def test_the_module_is_not_finalised_under_a_running_call(
    faulty: Pkcs11Provider, faulty_module: FaultyModule, sign: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(initialise, "_IN_FLIGHT_WAIT", 0.2)
    faulty_module.hang("C_Sign", 1.5)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(sign)
        while faulty_module.pending("C_Sign"):
            assert not slow.done()
        faulty_module.fail("C_SignInit", CKR_DEVICE_REMOVED)
        with pytest.raises(ProviderError, match="does not end") as failure:
            sign()
        assert failure.value.status is Status.PROVIDER_UNAVAILABLE
        assert faulty_module.calls("C_Finalize") == 0
        slow.result(timeout=10)
    sign()


def test_sessions_that_all_hang_are_told_as_busy(faulty_module: FaultyModule, tokens: Tokens) -> None:
    provider = open_token(module=faulty_module.path, sessions=1)
    provider._sessions._pool._patience = 0.2
    key = generate(provider, "EC-P256")
    handle = key.load(provider)
    faulty_module.hang("C_Sign", 1.0)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(provider.sign, handle, ECDSA, b"", DEFAULT_SIGNATURE)
        while faulty_module.pending("C_Sign"):
            assert not slow.done()
        with pytest.raises(ProviderError, match="busy") as failure:
            provider.sign(handle, ECDSA, b"", DEFAULT_SIGNATURE)
        assert failure.value.status is Status.PROVIDER_UNAVAILABLE
        slow.result(timeout=10)
    key.destroy(provider)
    provider.close()


# --- many at once --------------------------------------------------------------------------------------------------


def test_failures_under_load_are_survived_by_everybody(
    faulty: Pkcs11Provider, faulty_module: FaultyModule, sign: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(initialise, "START_AGAIN_INTERVAL", 0.0)
    stop, progress = threading.Event(), threading.Condition()
    done = [0] * 6

    def work(place: int) -> None:
        while not stop.is_set():
            sign()
            with progress:
                done[place] += 1
                progress.notify_all()

    def everybody_went_on() -> bool:
        return all(now > then + 1 for now, then in zip(done, before, strict=True))

    with ThreadPoolExecutor(len(done)) as pool:
        workers = [pool.submit(work, place) for place in range(len(done))]
        try:
            for code in (CKR_SESSION_HANDLE_INVALID, CKR_DEVICE_ERROR, CKR_SESSION_CLOSED, CKR_DEVICE_REMOVED) * 4:
                with progress:
                    faulty_module.fail("C_Sign", code)
                    before = list(done)
                    assert progress.wait_for(everybody_went_on, timeout=20)
        finally:
            stop.set()
        for worker in workers:
            worker.result(timeout=30)
    assert faulty_module.calls("C_Initialize") == 1 + 4


# --- crashes -------------------------------------------------------------------------------------------------------

_GENERATE = """
import sys
from pathlib import Path
from tests.faulty_module import FaultyModule
from tests.unit.providers.pkcs11.tokens import open_token
from hsmbridge.core.calls import KeyTarget
module = FaultyModule(Path(sys.argv[1]))
provider = open_token(module=module.path)
if sys.argv[3] == "half":
    module.halve(crash=True)
elif sys.argv[3] == "whole":
    module.crash("C_GenerateKeyPair", done=True)
provider.generate(KeyTarget(bytes.fromhex(sys.argv[2]), "EC-P256", 0b1100, label="uid-0/web"))
print("made")
"""


def generate_in_another_process(module: FaultyModule, key_id: bytes, crash: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _GENERATE, str(module.directory), key_id.hex(), crash],
        cwd=Path(__file__).parents[4],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("crash", ["half", "whole"])
def test_what_a_crash_in_the_middle_of_a_generation_leaves_is_found_and_swept(
    faulty_module: FaultyModule, provider: Pkcs11Provider, tokens: Tokens, crash: str
) -> None:
    clean = tokens.files()
    key_id = new_key_id()
    done = generate_in_another_process(faulty_module, key_id, crash)
    assert done.returncode == -signal.SIGABRT, done.stderr
    assert "made" not in done.stdout
    assert PIN not in done.stderr

    assert key_id in provider.list_keys()
    provider.destroy(key_id, KEY_TYPES["EC-P256"], b"")
    assert key_id not in provider.list_keys()
    assert tokens.files() == clean

    done = generate_in_another_process(faulty_module, key_id, "never")
    assert "made" in done.stdout, done.stderr
    assert key_id in provider.list_keys()
    provider.destroy(key_id, KEY_TYPES["EC-P256"], b"")


def test_return_values_are_logged_by_name() -> None:
    assert ckr_name(pkcs11.SessionHandleInvalid()) == "CKR_SESSION_HANDLE_INVALID"
    assert ckr_name(pkcs11.PinIncorrect()) == "CKR_PIN_INCORRECT"
    assert ckr_name(pkcs11.PKCS11Error("Unmapped error code 0x68")) == "CKR_KEY_FUNCTION_NOT_PERMITTED"
    assert ckr_name(pkcs11.PKCS11Error("Unmapped error code 0x80000123")) == "0x80000123"
