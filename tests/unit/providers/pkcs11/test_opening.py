"""Which token, which PIN, and what is said where they are wrong."""

import ctypes
import mmap
from importlib.metadata import version
from pathlib import Path
from shutil import rmtree

import pkcs11
import pytest

from hsmbridge.core.errors import ProviderError, RequestError, Status
from hsmbridge.core.pkcs11_uri import parse_uri
from hsmbridge.core.secrets import Pin
from hsmbridge.providers.pkcs11 import Pkcs11Provider, Pkcs11Settings, function_list, open_pkcs11, settings_from_uri
from tests.faulty_module import ALWAYS, CKR_GENERAL_ERROR, CKR_PIN_EXPIRED, CKR_PIN_LOCKED, FaultyModule
from tests.unit.providers.pkcs11.tokens import MODULE, PIN, Tokens, generate, make_tokens, open_token


def test_a_wrong_pin_is_refused_and_the_token_is_named(tokens: Tokens) -> None:
    with pytest.raises(ProviderError) as refusal:
        open_token(pin="wrong-staple")
    assert refusal.value.status is Status.PIN_INCORRECT
    assert "'lab'" in refusal.value.message
    assert tokens.serials[0] in refusal.value.message
    assert "wrong-staple" not in f"{refusal.value.message} {refusal.value.origin} {refusal.value!r}"
    open_token().close()


def test_after_a_wrong_pin_it_is_told_that_the_token_counts(tokens: Tokens) -> None:
    with pytest.raises(ProviderError) as refusal:
        open_token(pin="wrong-staple")
    # SoftHSM sets CKF_USER_PIN_COUNT_LOW at the first one.
    assert "counts wrong PINs" in refusal.value.message
    open_token().close()


def test_a_wrong_pin_is_tried_once(faulty_module: FaultyModule) -> None:
    with pytest.raises(ProviderError):
        open_token(module=faulty_module.path, pin="wrong-staple")
    assert faulty_module.calls("C_Login") == 1


def test_a_pin_of_impossible_length_is_refused_as_a_pin(tokens: Tokens) -> None:
    with pytest.raises(ProviderError) as refusal:
        open_token(pin="1")
    assert refusal.value.status is Status.PIN_INCORRECT


def test_a_locked_token_says_who_can_unlock_it(faulty_module: FaultyModule) -> None:
    faulty_module.fail("C_Login", CKR_PIN_LOCKED, ALWAYS)
    with pytest.raises(ProviderError) as refusal:
        open_token(module=faulty_module.path)
    assert refusal.value.status is Status.PIN_LOCKED
    assert "'lab'" in refusal.value.message
    assert "security officer" in refusal.value.message
    assert faulty_module.calls("C_Login") == 1


def test_an_expired_pin_is_called_so(faulty_module: FaultyModule) -> None:
    faulty_module.fail("C_Login", CKR_PIN_EXPIRED)
    with pytest.raises(ProviderError, match="expired") as refusal:
        open_token(module=faulty_module.path)
    assert refusal.value.status is Status.PIN_INCORRECT


def test_a_missing_pin_is_a_matter_of_configuration(tokens: Tokens) -> None:
    with pytest.raises(RequestError, match="wants a PIN") as refusal:
        open_token(pin=None)
    assert refusal.value.status is Status.INVALID_CONFIGURATION


def test_a_missing_module_is_told_without_its_path(tmp_path: Path) -> None:
    with pytest.raises(ProviderError, match="there is no such file") as refusal:
        open_token(module=tmp_path / "libmissing.so")
    assert refusal.value.status is Status.PROVIDER_UNAVAILABLE
    assert "libmissing" not in refusal.value.message
    assert "libmissing" in refusal.value.origin


@pytest.mark.parametrize("content", [b"", b"no library", b"\x7fELF and no more"])
def test_a_file_that_is_no_library_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "module.so"
    file.write_bytes(content)
    with pytest.raises(ProviderError, match="cannot be loaded") as refusal:
        open_token(module=file)
    assert refusal.value.status is Status.PROVIDER_UNAVAILABLE


def test_a_library_that_is_no_pkcs11_module_is_refused() -> None:
    (libc, *_) = Path("/lib").glob("*-linux-gnu/libc.so.6")
    with pytest.raises(ProviderError, match="cannot be loaded") as refusal:
        open_token(module=libc)
    assert refusal.value.status is Status.PROVIDER_UNAVAILABLE


def test_a_module_is_not_looked_for_in_library_paths() -> None:
    with pytest.raises(RequestError, match="absolute") as refusal:
        open_token(module=Path("libsofthsm2.so"))
    assert refusal.value.status is Status.INVALID_CONFIGURATION


def test_a_module_that_does_not_initialise_is_refused_and_may_be_tried_again(faulty_module: FaultyModule) -> None:
    faulty_module.fail("C_Initialize", CKR_GENERAL_ERROR)
    with pytest.raises(ProviderError, match="cannot be initialised") as refusal:
        open_token(module=faulty_module.path)
    assert refusal.value.status is Status.PROVIDER_UNAVAILABLE
    open_token(module=faulty_module.path).close()


def test_a_missing_token_is_told_with_those_that_are_there(tokens: Tokens) -> None:
    with pytest.raises(ProviderError) as refusal:
        open_token("production")
    assert refusal.value.status is Status.TOKEN_NOT_PRESENT
    assert "'production'" in refusal.value.message
    assert f"'lab' (serial {tokens.serials[0]})" in refusal.value.message


def test_no_token_at_all_is_told() -> None:
    empty = make_tokens()
    with empty.current(), pytest.raises(ProviderError, match="no initialised token") as refusal:
        open_token()
    assert refusal.value.status is Status.TOKEN_NOT_PRESENT
    rmtree(empty.directory)


def test_of_two_tokens_with_one_label_the_serial_chooses() -> None:
    twins = make_tokens("twin", "twin")
    with twins.current():
        with pytest.raises(RequestError, match="Give the serial") as refusal:
            open_token("twin")
        assert refusal.value.status is Status.INVALID_CONFIGURATION
        assert all(serial in refusal.value.message for serial in twins.serials)
        for serial in twins.serials:
            provider = open_token("twin", serial=serial)
            assert provider.describe().token.serial == serial
            provider.close()
    rmtree(twins.directory)


def test_a_token_describes_itself_by_a_uri_that_names_it(provider: Pkcs11Provider, tokens: Tokens) -> None:
    token = provider.describe().token
    named = parse_uri(token.uri)
    assert (named.token, named.serial, named.manufacturer) == ("lab", tokens.serials[0], "SoftHSM project")
    assert (token.label, token.serial, token.firmware) == ("lab", tokens.serials[0], "2.6")


def test_a_provider_opens_by_uri(tokens: Tokens) -> None:
    settings = settings_from_uri(f"pkcs11:token=lab;serial={tokens.serials[0]}?module-path={MODULE}")
    open_pkcs11(settings, Pin(PIN)).close()


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("pkcs11:token=lab", "module-path"),
        ("pkcs11:token=lab;id=%01?module-path=/m.so", "names a token"),
        ("pkcs11:token=lab?module-path=/m.so&pin-value=1234", "holds a PIN"),
        ("pkcs11:tokn=lab?module-path=/m.so", "did you mean 'token'"),
    ],
)
def test_a_uri_that_is_no_token_is_refused(uri: str, why: str) -> None:
    with pytest.raises(RequestError, match=why) as refusal:
        settings_from_uri(uri)
    assert refusal.value.status is Status.INVALID_CONFIGURATION
    assert "1234" not in refusal.value.message


@pytest.mark.parametrize("sessions", [0, -1, 101])
def test_a_number_of_sessions_that_cannot_be_is_refused(sessions: int) -> None:
    with pytest.raises(RequestError, match="sessions"):
        Pkcs11Settings(module="/m.so", sessions=sessions)


def test_opening_touches_no_key(faulty_module: FaultyModule, provider: Pkcs11Provider) -> None:
    keys = [generate(provider, "EC-P256") for _ in range(3)]
    opened = open_token(module=faulty_module.path)
    opened.close()
    assert faulty_module.calls("C_FindObjectsInit") == 0
    for key in keys:
        key.destroy(provider)


def test_opening_leaves_nothing_on_the_token(tokens: Tokens) -> None:
    before = tokens.files()
    open_token().close()
    assert tokens.files() == before


def test_two_providers_of_one_process_share_the_login(provider: Pkcs11Provider) -> None:
    second = open_token()
    key = generate(second, "AES-128")
    second.close()
    assert key.load(provider)
    key.destroy(provider)


def test_another_pin_than_the_one_in_use_is_refused(provider: Pkcs11Provider) -> None:
    with pytest.raises(ProviderError, match="another PIN") as refusal:
        open_token(pin="wrong-staple")
    assert refusal.value.status is Status.PIN_INCORRECT


def test_a_closed_provider_can_be_opened_again(tokens: Tokens) -> None:
    for _ in range(3):
        provider = open_token()
        assert len(provider.random(8)) == 8
        provider.close()


def test_a_module_that_somebody_initialised_for_one_thread_is_initialised_again_and_left_so(
    faulty_module: FaultyModule,
) -> None:
    theirs = pkcs11.lib(str(faulty_module.path.resolve()))
    assert faulty_module.calls("C_Initialize") == 1
    provider = open_token(module=faulty_module.path)
    assert faulty_module.calls("C_Initialize") == 2
    provider.close()
    assert theirs.initialized
    theirs.finalize()


def test_a_function_list_in_read_only_memory_is_writable_for_a_moment() -> None:
    page = mmap.mmap(-1, mmap.PAGESIZE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(address), ctypes.c_size_t(mmap.PAGESIZE), mmap.PROT_READ) == 0
    assert not function_list._is_writable(address)
    with function_list._writable(address):
        ctypes.c_char.from_address(address).value = b"x"
    assert not function_list._is_writable(address)
    assert page[0:1] == b"x"


def test_python_pkcs11_still_initialises_without_arguments(provider: Pkcs11Provider) -> None:
    """Should it ever take arguments, the changed function list in `function_list` is not needed any more."""
    assert version("python-pkcs11") == "0.10.1"
    with pytest.raises(TypeError):
        pkcs11.lib(str(MODULE.resolve())).initialize("CKF_OS_LOCKING_OK")  # type: ignore[call-arg]  # that is the test
