"""NSS softokn: arguments at C_Initialize, one serial for all its tokens, and lengths that it tells too short."""

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from shutil import rmtree

import pytest

from hsmbridge.core.algorithms import ALGORITHMS
from hsmbridge.core.errors import ProviderError, RequestError, SignatureInvalid, Status
from hsmbridge.core.params import DEFAULT_SIGNATURE
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.core.secrets import Pin
from hsmbridge.providers.pkcs11 import Pkcs11Provider, Pkcs11Settings, open_pkcs11
from tests.unit.providers.pkcs11.tokens import generate

MODULE = "/usr/lib/x86_64-linux-gnu/libsoftokn3.so"
PROVISION = Path(__file__).resolve().parents[4] / "softhsm-config" / "provision-softokn"


@pytest.fixture(scope="module")
def database() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="hb", dir="/tmp"))
    for label in ("one", "two"):
        subprocess.run([PROVISION, directory / label, label], capture_output=True, timeout=60, check=True)
    yield directory
    rmtree(directory)


def opened(database: Path, label: str, *, token: str = "") -> Pkcs11Provider:
    arguments = (database / label / "module-arguments").read_text()
    settings = Pkcs11Settings(module=MODULE, token=token or label, module_arguments=arguments)
    return open_pkcs11(settings, Pin((database / label / "pin").read_text()))


def test_without_arguments_the_module_does_not_open_the_database(database: Path) -> None:
    pin = Pin((database / "one" / "pin").read_text())
    with pytest.raises(ProviderError) as failure:
        open_pkcs11(Pkcs11Settings(module=MODULE, token="one"), pin)
    assert failure.value.status in {Status.PROVIDER_UNAVAILABLE, Status.TOKEN_NOT_PRESENT}


def test_two_databases_cannot_be_open_in_one_process_and_one_after_the_other_can(database: Path) -> None:
    first = opened(database, "one")
    with pytest.raises(RequestError) as refusal:
        opened(database, "two")
    assert refusal.value.status is Status.INVALID_CONFIGURATION
    first.close()
    second = opened(database, "two")
    assert second.describe().token.label == "two"
    second.close()


def test_a_key_of_one_database_is_not_looked_for_in_another_of_the_same_serial(database: Path) -> None:
    first = opened(database, "one")
    made = generate(first, "AES-256", P.ENCRYPT | P.DECRYPT)
    serial = first.describe().token.serial
    first.close()
    second = opened(database, "two")
    assert second.describe().token.serial == serial
    with pytest.raises(ProviderError) as failure:
        made.load(second)
    assert failure.value.status is Status.WRONG_TOKEN
    second.close()


def test_arguments_cannot_have_a_nul(database: Path) -> None:
    with pytest.raises(RequestError) as refusal:
        Pkcs11Settings(module=MODULE, module_arguments="configdir='sql:/x'\0")
    assert refusal.value.status is Status.INVALID_CONFIGURATION


def test_there_is_room_for_a_tag_that_the_module_forgets_to_count(database: Path) -> None:
    provider = opened(database, "one")
    handle = generate(provider, "AES-256", P.ENCRYPT | P.DECRYPT).load(provider)
    for size in (0, 1, 16, 8192, 100_000):
        sealed = provider.encrypt(handle, ALGORITHMS["AES-256-GCM"], bytes(12), bytes(size), b"")
        assert (len(sealed.ciphertext), len(sealed.tag)) == (size, 16)
    provider.close()


def test_a_mac_that_was_cut_does_not_verify(database: Path) -> None:
    provider = opened(database, "one")
    row = ALGORITHMS["HMAC-SHA256"]
    handle = generate(provider, "HMAC-SHA256", P.SIGN | P.VERIFY).load(provider)
    mac = provider.sign(handle, row, b"message", DEFAULT_SIGNATURE)
    provider.verify(handle, row, b"message", mac, DEFAULT_SIGNATURE)
    for size in (0, 1, 16, 31):
        with pytest.raises(SignatureInvalid):
            provider.verify(handle, row, b"message", mac[:size], DEFAULT_SIGNATURE)
    provider.close()
