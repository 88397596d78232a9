"""Finding a TPM: what it must be like, what is made there, and what is said when it will not do."""

import socket
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from tpm2_pytss import (
    ESAPI,
    ESYS_TR,
    TPM2B_PUBLIC,
    TPM2B_SENSITIVE_CREATE,
    TPMA_OBJECT,
    TPMS_SENSITIVE_CREATE,
    TSS2_Exception,
)

from hsmbridge.core.algorithms import KeyOperation, algorithm
from hsmbridge.core.calls import KeyTarget
from hsmbridge.core.errors import HsmBridgeError, ProviderError, RequestError, Status
from hsmbridge.core.identifiers import new_key_id
from hsmbridge.core.params import DEFAULT_SIGNATURE
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.providers.base import claims
from hsmbridge.providers.tpm import TpmSettings, open_tpm
from tests.unit.providers.tpm.conftest import Rig
from tests.unit.providers.tpm.faults import before, opened, watching
from tests.unit.providers.tpm.keys import SIGNING, Key

SRK = 0x81000001
STORAGE = (
    TPMA_OBJECT.FIXEDTPM
    | TPMA_OBJECT.FIXEDPARENT
    | TPMA_OBJECT.SENSITIVEDATAORIGIN
    | TPMA_OBJECT.USERWITHAUTH
    | TPMA_OBJECT.RESTRICTED
    | TPMA_OBJECT.DECRYPT
)


def persist(rig: Rig, template: str, attributes: int, handle: int = SRK) -> None:
    esapi = ESAPI(rig.tcti)
    primary, *_ = esapi.create_primary(None, TPM2B_PUBLIC.parse(template, objectAttributes=attributes))
    esapi.evict_control(ESYS_TR.RH_OWNER, primary, handle)
    esapi.flush_context(primary)
    esapi.close()


def signs(rig: Rig) -> bool:
    provider = open_tpm(rig.settings)
    key = Key(provider, "EC-P256", SIGNING)
    signature = provider.sign(key.handle, algorithm("ECDSA-P256-SHA256"), b"message", DEFAULT_SIGNATURE)
    provider.close()
    return bool(signature)


@pytest.mark.parametrize("tcti", ["swtpm:path={0}/nobody", "device:{0}/tpm7", "swtpm:garbage", "mssim:port=1"])
def test_a_tpm_that_is_not_there_is_told_without_its_path(tcti: str, tmp_path: Path) -> None:
    with pytest.raises(ProviderError) as refused:
        open_tpm(TpmSettings(tcti=tcti.format(tmp_path)))
    assert refused.value.status is Status.TOKEN_NOT_PRESENT
    assert "tcti" in str(refused.value)
    assert str(tmp_path) not in str(refused.value)
    assert refused.value.origin


def test_a_file_that_is_no_device_is_refused_and_not_written_to(tmp_path: Path) -> None:
    file = tmp_path / "precious"
    file.write_bytes(b"contents that a TPM command would overwrite")
    with pytest.raises(RequestError) as refused:
        open_tpm(TpmSettings(tcti=f"device:{file}"))
    assert refused.value.status is Status.INVALID_CONFIGURATION
    assert str(file) not in str(refused.value)
    assert file.read_bytes() == b"contents that a TPM command would overwrite"


def test_a_module_that_is_not_installed_is_a_wrong_configuration() -> None:
    with pytest.raises(RequestError) as refused:
        open_tpm(TpmSettings(tcti="libtpms"))
    assert refused.value.status is Status.INVALID_CONFIGURATION


@pytest.mark.parametrize("tcti", ["", ":", "swtmp:path=/x", "/dev/tpm0", "cmd:cat", "libtss2-tcti-swtpm.so.0:path=/x"])
def test_a_way_to_a_tpm_that_is_not_known_is_refused(tcti: str) -> None:
    with pytest.raises(RequestError) as refused:
        TpmSettings(tcti=tcti)
    assert refused.value.status is Status.INVALID_CONFIGURATION


@pytest.mark.parametrize(("tcti", "handle"), [("swtpm", 0x80000001), ("swtpm", 0x81800000), ("swtpm", 0)])
def test_settings_that_cannot_be_right_are_refused(tcti: str, handle: int) -> None:
    with pytest.raises(RequestError) as refused:
        TpmSettings(tcti=tcti, srk_handle=handle)
    assert refused.value.status is Status.INVALID_CONFIGURATION


@pytest.mark.parametrize(
    ("tcti", "managed", "simulated"),
    [
        ("device:/dev/tpmrm0", True, False),
        ("tabrmd", True, False),
        ("device:/dev/tpm0", False, False),
        ("device", False, False),
        ("swtpm:path=/x", False, True),
        ("mssim:host=localhost", False, True),
    ],
)
def test_who_manages_the_slots_follows_from_the_way_to_the_tpm(tcti: str, managed: bool, simulated: bool) -> None:
    settings = TpmSettings(tcti=tcti)
    assert (settings.managed, settings.simulated) == (managed, simulated)


def test_the_storage_root_key_is_made_once(rig: Rig) -> None:
    serials = set()
    for _ in range(2):
        provider = open_tpm(rig.settings)
        with before(provider, "create_primary", watching) as made:
            serials.add(provider.describe().token.serial)
            assert opened(provider).connection.handles(0x81000000) == [SRK]
        assert not made
        provider.close()
    assert len(serials) == 1


@pytest.mark.parametrize("template", ["ecc", "rsa2048"])
def test_a_storage_root_key_that_is_there_is_used(rig: Rig, template: str) -> None:
    persist(rig, f"{template}:null:aes128cfb", STORAGE | TPMA_OBJECT.NODA)
    assert signs(rig)


def test_another_handle_can_be_given(rig: Rig) -> None:
    provider = open_tpm(TpmSettings(tcti=rig.tcti, srk_handle=0x81000123))
    assert opened(provider).connection.handles(0x81000000) == [0x81000123]
    assert Key(provider, "EC-P256", SIGNING).handle
    provider.close()


@pytest.mark.parametrize(
    ("template", "attributes"),
    [
        ("ecc:ecdsa:null", STORAGE & ~TPMA_OBJECT.DECRYPT | TPMA_OBJECT.SIGN_ENCRYPT),
        ("ecc:null:null", STORAGE & ~TPMA_OBJECT.RESTRICTED),
        ("ecc:null:aes128cfb", STORAGE & ~TPMA_OBJECT.FIXEDPARENT & ~TPMA_OBJECT.FIXEDTPM),
    ],
    ids=["signs", "not restricted", "can be duplicated"],
)
def test_another_object_in_its_place_is_not_taken_for_it(rig: Rig, template: str, attributes: int) -> None:
    persist(rig, template, attributes)
    with pytest.raises(RequestError) as refused:
        open_tpm(rig.settings)
    assert refused.value.status is Status.INVALID_CONFIGURATION
    assert "srk_handle" in str(refused.value)


def test_a_tpm_whose_owner_has_a_password_says_what_to_do(rig: Rig) -> None:
    esapi = ESAPI(rig.tcti)
    esapi.hierarchy_change_auth(ESYS_TR.RH_OWNER, b"password")
    esapi.close()
    with pytest.raises(ProviderError) as refused:
        open_tpm(rig.settings)
    assert refused.value.status is Status.PIN_INCORRECT
    assert "owner" in str(refused.value)


def test_with_a_storage_root_key_made_by_the_owner_the_password_is_not_needed(rig: Rig) -> None:
    open_tpm(rig.settings).close()
    esapi = ESAPI(rig.tcti)
    esapi.hierarchy_change_auth(ESYS_TR.RH_OWNER, b"password")
    esapi.close()
    assert signs(rig)


def lock_out(rig: Rig) -> None:
    """Guess the password of a key that is protected against that until the TPM has enough."""
    esapi = ESAPI(rig.tcti)
    secret = TPM2B_SENSITIVE_CREATE(TPMS_SENSITIVE_CREATE(userAuth=b"password"))
    guessed, *_ = esapi.create_primary(secret, "ecc")
    esapi.tr_set_auth(guessed, b"wrong")
    for _ in range(4):
        with suppress(TSS2_Exception):
            esapi.create(guessed, None, "ecc")
    esapi.flush_context(guessed)
    esapi.close()


def test_a_lockout_does_not_touch_our_keys(rig: Rig) -> None:
    lock_out(rig)
    assert signs(rig)


def test_a_lockout_that_stops_a_foreign_storage_root_key_is_named_and_says_how_it_ends(rig: Rig) -> None:
    persist(rig, "ecc:null:aes128cfb", STORAGE)
    provider = open_tpm(rig.settings)
    assert any("dictionary-attack lockout" in note for note in provider.describe().notes)
    lock_out(rig)
    with pytest.raises(ProviderError) as refused:
        provider.generate(KeyTarget(new_key_id(), "EC-P256", SIGNING))
    assert refused.value.status is Status.PIN_LOCKED
    assert "every 1000 s" in str(refused.value)
    assert "tpm2_dictionarylockout" in str(refused.value)
    opened(provider).esapi.dictionary_attack_lock_reset()
    assert provider.generate(KeyTarget(new_key_id(), "EC-P256", SIGNING))
    provider.close()


def test_a_simulator_that_nobody_has_started_up_is_started_up(new_rig: Callable[[], Rig]) -> None:
    rig = new_rig()
    rig.stop()
    path = rig.directory / "bare.sock"
    with subprocess.Popen(
        [
            "swtpm", "socket", "--tpm2",
            "--tpmstate", f"dir={rig.directory / 'state'}",
            "--server", f"type=unixio,path={path}",
            "--ctrl", f"type=unixio,path={path}.ctrl",
            "--flags", "not-need-init",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as swtpm:  # fmt: skip
        try:
            await_socket(Path(f"{path}.ctrl"))
            provider = open_tpm(TpmSettings(tcti=f"swtpm:path={path}"))
            assert len(provider.random(8)) == 8
            provider.close()
        finally:
            swtpm.kill()


def await_socket(path: Path) -> None:
    while True:
        with socket.socket(socket.AF_UNIX) as probe, suppress(FileNotFoundError, ConnectionRefusedError):
            probe.connect(str(path))
            return


def test_it_describes_the_tpm(rig: Rig) -> None:
    provider = open_tpm(rig.settings)
    described = provider.describe()
    assert described.scheme == "tpm"
    assert described.token.manufacturer == "IBM"
    assert described.token.model == "SW TPM"
    assert len(described.token.serial) == 64
    assert str(rig.directory) not in repr(described)
    assert claims(described, "RSA-OAEP-SHA256", KeyOperation.DECRYPT)
    assert claims(described, "AES-128-CFB", KeyOperation.ENCRYPT)
    assert not claims(described, "AES-128-GCM", KeyOperation.ENCRYPT)
    assert provider.describe() is described
    provider.close()


def test_what_a_tpm_does_not_name_is_not_claimed(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    provider = open_tpm(rig.settings)
    connection = opened(provider).connection
    sha512, encrypt_decrypt_2 = 0x000D, 0x0193
    algorithms, commands = connection.algorithms() - {sha512}, connection.commands() - {encrypt_decrypt_2}
    monkeypatch.setattr(connection, "algorithms", lambda: algorithms)
    monkeypatch.setattr(connection, "commands", lambda: commands)
    described = provider.describe()
    assert claims(described, "RSA-PSS-SHA256", KeyOperation.SIGN)
    assert not claims(described, "RSA-PSS-SHA512", KeyOperation.SIGN)
    assert not claims(described, "SHA-512", KeyOperation.DIGEST)
    assert not claims(described, "AES-128-CFB", KeyOperation.ENCRYPT)
    provider.close()


def test_no_error_of_the_stack_gets_through_unnamed(rig: Rig) -> None:
    provider = open_tpm(rig.settings)
    key = Key(provider, "RSA-2048", P.DECRYPT)
    rig.stop(kill=True)
    for call in (
        lambda: provider.decrypt(key.handle, algorithm("RSA-OAEP-SHA256"), b"", bytes(256), b"", b""),
        lambda: provider.generate(KeyTarget(new_key_id(), "EC-P256", SIGNING)),
        lambda: provider.random(8),
        lambda: provider.digest(algorithm("SHA-256"), b""),
        lambda: provider.destroy(key.key_id, key.row, key.made.reference),
    ):
        with pytest.raises(HsmBridgeError) as refused:
            call()
        assert refused.value.status is Status.TOKEN_NOT_PRESENT
    provider.close()
