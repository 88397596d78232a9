"""The master key in a TPM: it comes back from the same TPM in the same state, and from no other."""

import secrets
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tpm2_pytss import ESAPI, ESYS_TR, TPM2_ALG, TPML_DIGEST_VALUES, TPMT_HA, TPMU_HA

from hsmbridge.core.algorithms import algorithm
from hsmbridge.core.errors import HsmBridgeError, Status
from hsmbridge.core.params import DEFAULT_SIGNATURE
from hsmbridge.core.protocols import Protector
from hsmbridge.daemon.spec import StoreSpec
from hsmbridge.daemon.store_opening import open_store_of
from hsmbridge.providers.tpm import TpmProtector, TpmSettings, open_tpm
from tests.unit.providers.tpm.conftest import Rig
from tests.unit.providers.tpm.keys import SIGNING, Key

MASTER = bytes(range(32))
PCRS = (7, 16)


def extend(rig: Rig, pcr: int) -> None:
    """As a firmware does that starts something else."""
    esapi = ESAPI(rig.tcti)
    esapi.pcr_extend(
        ESYS_TR(pcr), TPML_DIGEST_VALUES(digests=[TPMT_HA(hashAlg=TPM2_ALG.SHA256, digest=TPMU_HA(sha256=b"\1" * 32))])
    )
    esapi.close()


def refusal(act: Callable[[], object]) -> str:
    with pytest.raises(HsmBridgeError) as refused:
        act()
    assert refused.value.status is Status.MASTER_KEY_UNAVAILABLE
    return refused.value.message


@pytest.mark.parametrize("pcrs", [(), PCRS])
def test_the_master_key_comes_back_also_after_a_restart(rig: Rig, pcrs: tuple[int, ...]) -> None:
    protector: Protector = TpmProtector(rig.settings, pcrs)
    protected = protector.protect(MASTER)
    assert MASTER not in protected
    assert protector.recover(protected) == MASTER
    rig.restart()
    assert TpmProtector(rig.settings).recover(protected) == MASTER


def test_after_a_change_of_a_pcr_it_says_which_and_what_to_do(rig: Rig) -> None:
    protector = TpmProtector(rig.settings, PCRS)
    protected = protector.protect(MASTER)
    extend(rig, 8)
    assert protector.recover(protected) == MASTER
    extend(rig, 16)
    message = refusal(lambda: protector.recover(protected))
    assert "7, 16" in message
    assert "firmware" in message
    rig.restart()
    assert protector.recover(protected) == MASTER


def test_without_pcrs_it_does_not_mind_them(rig: Rig) -> None:
    protector = TpmProtector(rig.settings)
    protected = protector.protect(MASTER)
    extend(rig, 7)
    assert protector.recover(protected) == MASTER


def test_another_tpm_and_a_cleared_one_give_nothing(rig: Rig, new_rig: Callable[[], Rig]) -> None:
    protected = TpmProtector(rig.settings).protect(MASTER)
    assert "another TPM" in refusal(lambda: TpmProtector(new_rig().settings).recover(protected))
    esapi = ESAPI(rig.tcti)
    esapi.clear(ESYS_TR.LOCKOUT)
    esapi.close()
    assert "cleared" in refusal(lambda: TpmProtector(rig.settings).recover(protected))


def test_a_tpm_that_is_not_there_is_said_to_be_so(rig: Rig) -> None:
    protector = TpmProtector(rig.settings)
    protected = protector.protect(MASTER)
    rig.stop()
    assert "cannot be reached" in refusal(lambda: protector.recover(protected))


@pytest.fixture(scope="module")
def sealed(shared_rig: Rig) -> tuple[TpmProtector, bytes]:
    protector = TpmProtector(shared_rig.settings, PCRS)
    return protector, protector.protect(MASTER)


@settings(max_examples=60)
@given(st.data())
def test_a_changed_form_is_damaged(sealed: tuple[TpmProtector, bytes], data: st.DataObject) -> None:
    protector, protected = sealed
    changed = bytearray(protected)
    changed[data.draw(st.integers(0, len(changed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    outcomes: set[bytes | Status] = set()
    try:
        outcomes.add(protector.recover(bytes(changed)))
    except HsmBridgeError as refused:
        outcomes.add(refused.status)
    # A PCR number that was changed to one of the same value, for one, still gives the key.
    assert outcomes <= {Status.MASTER_KEY_UNAVAILABLE, MASTER}


@given(st.binary(max_size=100))
def test_noise_is_damaged(noise: bytes) -> None:
    with pytest.raises(HsmBridgeError) as refused:
        TpmProtector(TpmSettings(tcti="swtpm:path=/nowhere")).recover(noise)
    assert refused.value.status is Status.MASTER_KEY_UNAVAILABLE


@pytest.mark.parametrize("pcrs", [(24,), (-1,), (0, 100)])
def test_a_pcr_that_no_tpm_has_is_refused(pcrs: tuple[int, ...]) -> None:
    with pytest.raises(HsmBridgeError) as refused:
        TpmProtector(TpmSettings(tcti="swtpm"), pcrs)
    assert refused.value.status is Status.INVALID_CONFIGURATION


def test_it_shows_nothing_of_itself(rig: Rig) -> None:
    assert repr(TpmProtector(rig.settings, PCRS)) == "TpmProtector()"
    assert TpmProtector(rig.settings).name == "TPM"


def test_it_works_beside_a_provider_that_owns_the_tpm(rig: Rig) -> None:
    """Without a resource manager, what it flushes the provider loads again."""
    provider = open_tpm(rig.settings)
    row = algorithm("ECDSA-P256-SHA256")
    keys = [Key(provider, "EC-P256", SIGNING) for _ in range(3)]
    protector = TpmProtector(rig.settings, PCRS)
    for _ in range(3):
        master = secrets.token_bytes(32)
        protected = protector.protect(master)
        for key in keys:
            assert provider.sign(key.handle, row, b"message", DEFAULT_SIGNATURE)
        assert protector.recover(protected) == master
        for key in keys:
            assert provider.sign(key.handle, row, b"message", DEFAULT_SIGNATURE)
    provider.close()


# In the daemon


def test_a_store_opens_with_the_tpm_and_not_after_a_change(rig: Rig, tmp_path: Path) -> None:
    spec = StoreSpec(url=f"sqlite:///{tmp_path / 'store.sqlite'}", protector="tpm", tcti=rig.tcti, pcrs=(16,))
    for _ in range(2):
        with closing(open_store_of(spec)) as store:
            assert store.protector_name == "TPM"
    extend(rig, 16)
    assert "PCR 16" in refusal(lambda: open_store_of(spec))


def test_a_store_that_a_key_file_protects_is_not_opened_with_a_tpm(rig: Rig, tmp_path: Path) -> None:
    url, file = f"sqlite:///{tmp_path / 'store.sqlite'}", str(tmp_path / "key")
    open_store_of(StoreSpec(url=url, protector="keyfile", key_file=file)).close()
    assert "key file" in refusal(lambda: open_store_of(StoreSpec(url=url, protector="tpm", tcti=rig.tcti)))
