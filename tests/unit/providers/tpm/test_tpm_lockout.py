"""The dictionary-attack lockout: shown as it is, and not brought nearer by anything that the provider does."""

from collections.abc import Callable

import pytest
from tpm2_pytss import ESAPI

from hsmbridge.core.algorithms import algorithm
from hsmbridge.core.errors import HsmBridgeError
from hsmbridge.core.params import DEFAULT_SIGNATURE
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.providers.tpm import TpmProtector, TpmSettings, open_tpm
from hsmbridge.providers.tpm.connection import Connection
from hsmbridge.providers.tpm.lockout import LockoutState, lockout_state
from tests.unit.providers.tpm.conftest import Rig
from tests.unit.providers.tpm.faults import opened
from tests.unit.providers.tpm.keys import SIGNING, Key, KnownKey
from tests.unit.providers.tpm.test_tpm_opening import lock_out


def state(rig: Rig) -> LockoutState:
    connection = Connection(rig.settings)
    found = lockout_state(connection)
    connection.abandon()
    return found


def whole_run(rig: Rig, *, encrypts: bool) -> None:
    """Something of everything that the provider does, refusals too."""
    tpm = open_tpm(TpmSettings(tcti=rig.tcti, parameter_encryption=encrypts))
    signing, reading = Key(tpm, "EC-P256", SIGNING | P.EXPORT), Key(tpm, "RSA-2048", P.DECRYPT)
    tpm.sign(signing.handle, algorithm("ECDSA-P256-SHA256"), b"message", DEFAULT_SIGNATURE)
    with pytest.raises(HsmBridgeError):
        tpm.decrypt(reading.handle, algorithm("RSA-OAEP-SHA256"), b"", bytes(256), b"", b"")
    with pytest.raises(HsmBridgeError):
        tpm.agree_secret(signing.handle, algorithm("ECDH-P256"), signing.made.public_key)
    mac = KnownKey(tpm, "HMAC-SHA256", SIGNING, bytes(32))
    tpm.sign(mac.handle, algorithm("HMAC-SHA256"), bytes(3000), DEFAULT_SIGNATURE)
    tpm.examine("", tpm.export(signing.handle, "tss2", b""))
    tpm.attest(signing.handle, b"nonce")
    tpm.random(8)
    tpm.close()


@pytest.mark.parametrize("encrypts", [False, True])
def test_a_whole_run_counts_nothing_even_when_the_power_fails_after_it(rig: Rig, encrypts: bool) -> None:
    whole_run(rig, encrypts=encrypts)
    protector = TpmProtector(rig.settings, (7,))
    protector.recover(protector.protect(bytes(32)))
    assert state(rig).counter == 0
    rig.restart(kill=True)
    assert state(rig).counter == 0


def test_a_run_that_is_cut_off_counts_nothing(rig: Rig) -> None:
    tpm = open_tpm(rig.settings)
    key = Key(tpm, "EC-P256", SIGNING)
    for _ in range(4):
        tpm.sign(key.handle, algorithm("ECDSA-P256-SHA256"), b"message", DEFAULT_SIGNATURE)
        rig.restart(kill=True)
    assert lockout_state(opened(tpm).connection) == LockoutState(counter=0, tries=3, interval=1000, locked=False)
    tpm.close()


def test_the_notes_show_the_state_of_now(rig: Rig) -> None:
    tpm = open_tpm(rig.settings)
    quiet = tpm.describe()
    assert (
        "Dictionary-attack state: 0 of 3 failed authorisations are counted; one is forgiven every 1000 s."
        in quiet.notes
    )
    assert tpm.describe() is quiet
    lock_out(rig)
    assert any("in dictionary-attack lockout" in note for note in tpm.describe().notes)
    esapi = ESAPI(rig.tcti)
    esapi.dictionary_attack_lock_reset()
    esapi.close()
    assert tpm.describe().notes == quiet.notes
    tpm.close()


def test_a_tpm_that_is_away_is_still_described(rig: Rig, new_rig: Callable[[], Rig]) -> None:
    tpm = open_tpm(rig.settings)
    known = tpm.describe()
    rig.stop()
    assert tpm.describe() == known
    tpm.close()
