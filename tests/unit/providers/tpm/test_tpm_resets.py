"""A TPM that is restarted, cut off, shared or disturbed: what is survived unnoticed, and what is said otherwise."""

import threading
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key
from tpm2_pytss import ESAPI, ESYS_TR, TPM2_ALG, TPM2_PT, TPM2_RC, TPM2_SE, TPMT_SYM_DEF, TSS2_Exception

from hsmbridge.core.algorithms import algorithm
from hsmbridge.core.errors import ProviderError, Status
from hsmbridge.core.params import DEFAULT_SIGNATURE
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.providers.tpm import TpmProvider, open_tpm
from tests.unit.providers.tpm.conftest import Rig
from tests.unit.providers.tpm.faults import before, esapi, opened, refusing, watching
from tests.unit.providers.tpm.keys import SIGNING, Key

P256 = algorithm("ECDSA-P256-SHA256")


def sign_and_verify(tpm: TpmProvider, key: Key, message: bytes = b"message") -> None:
    """The signature is by this key and no other."""
    signature = tpm.sign(key.handle, P256, message, DEFAULT_SIGNATURE)
    public = load_der_public_key(key.made.public_key)
    assert isinstance(public, ec.EllipticCurvePublicKey)
    public.verify(signature, message, ec.ECDSA(hashes.SHA256()))


def transient_objects(tpm: TpmProvider) -> int:
    return len(opened(tpm).connection.handles(0x80000000))


@pytest.mark.parametrize("kill", [False, True], ids=["orderly", "kill -9"])
def test_a_restart_between_operations_is_not_noticed(rig: Rig, tpm: TpmProvider, kill: bool) -> None:
    signing = [Key(tpm, "EC-P256", SIGNING) for _ in range(4)]
    rsa = Key(tpm, "RSA-2048", P.ENCRYPT | P.DECRYPT)
    aes = Key(tpm, "AES-128", P.ENCRYPT | P.DECRYPT)
    mac = Key(tpm, "HMAC-SHA256", SIGNING)
    ephemeral = Key(tpm, "EC-P256", SIGNING, ephemeral=True)
    oaep, cfb, hmac = (algorithm(name) for name in ("RSA-OAEP-SHA256", "AES-128-CFB", "HMAC-SHA256"))
    ciphertext = tpm.encrypt(rsa.handle, oaep, b"", b"plaintext", b"").ciphertext
    encrypted = tpm.encrypt(aes.handle, cfb, bytes(16), b"plaintext", b"").ciphertext
    tag = tpm.sign(mac.handle, hmac, b"message" * 1000, DEFAULT_SIGNATURE)
    operations: list[Callable[[], object]] = [
        *(lambda key=key: sign_and_verify(tpm, key) for key in signing),
        lambda: sign_and_verify(tpm, ephemeral),
        lambda: tpm.decrypt(rsa.handle, oaep, b"", ciphertext, b"", b""),
        lambda: tpm.decrypt(aes.handle, cfb, bytes(16), encrypted, b"", b""),
        lambda: tpm.verify(mac.handle, hmac, b"message" * 1000, tag, DEFAULT_SIGNATURE),
        lambda: Key(tpm, "EC-P384", SIGNING),
        lambda: tpm.digest(algorithm("SHA-256"), bytes(5000)),
        lambda: tpm.random(100),
    ]
    for operation in operations:
        rig.restart(kill=kill)
        operation()


def test_after_a_restart_no_key_is_taken_for_another(rig: Rig, tpm: TpmProvider) -> None:
    """The TPM hands out the same slots again, in an order of its own."""
    keys = [Key(tpm, "EC-P256", SIGNING) for _ in range(4)]
    unseen = [Key(tpm, "EC-P256", SIGNING) for _ in range(4)]
    for first in range(4):
        for key in keys:
            sign_and_verify(tpm, key)
        tpm.unload(unseen[first].handle)
        sign_and_verify(tpm, keys[first])
        rig.restart()
        unseen[first].handle = unseen[first].load(tpm)
        for key in (*keys[::-1], unseen[first], *keys):
            sign_and_verify(tpm, key)


def test_a_key_that_alone_was_loaded_is_not_taken_for_one_loaded_after_a_restart(rig: Rig, tpm: TpmProvider) -> None:
    old, new = Key(tpm, "EC-P256", SIGNING), Key(tpm, "EC-P256", SIGNING)
    tpm.unload(new.handle)
    sign_and_verify(tpm, old)
    rig.restart(kill=True)
    new.handle = new.load(tpm)
    sign_and_verify(tpm, old)
    sign_and_verify(tpm, new)


@pytest.mark.parametrize("command", ["sequence_update", "sequence_complete"])
def test_a_mac_over_long_data_survives_a_restart_in_its_midst(rig: Rig, tpm: TpmProvider, command: str) -> None:
    key = Key(tpm, "HMAC-SHA256", SIGNING)
    row = algorithm("HMAC-SHA256")
    undisturbed = tpm.sign(key.handle, row, bytes(10_000), DEFAULT_SIGNATURE)
    last = 0 if command == "sequence_complete" else 5
    with before(tpm, command, lambda call: rig.restart(kill=True) if call == last else None) as calls:
        assert tpm.sign(key.handle, row, bytes(10_000), DEFAULT_SIGNATURE) == undisturbed
    assert calls


def test_a_tpm_that_is_down_says_so_and_works_when_it_is_back(rig: Rig, tpm: TpmProvider) -> None:
    key = Key(tpm, "EC-P256", SIGNING)
    rig.stop()
    for _ in range(2):
        with pytest.raises(ProviderError) as refused:
            sign_and_verify(tpm, key)
        assert refused.value.status is Status.TOKEN_NOT_PRESENT
        assert str(rig.directory) not in str(refused.value)
    tpm.unload(12345)
    rig.start()
    sign_and_verify(tpm, key)


def test_a_tpm_that_is_exchanged_for_another_is_not_used_for_its_keys(
    rig: Rig, tpm: TpmProvider, new_rig: Callable[[], Rig]
) -> None:
    key = Key(tpm, "EC-P256", SIGNING)
    sign_and_verify(tpm, key)
    other = new_rig()
    rig.stop()
    other.stop()
    (rig.directory / "state").rename(rig.directory / "kept")
    (other.directory / "state").rename(rig.directory / "state")
    rig.start()
    with pytest.raises(ProviderError) as refused:
        sign_and_verify(tpm, key)
    assert refused.value.status is Status.WRONG_TOKEN
    rig.stop()
    (rig.directory / "state").rename(other.directory / "state")
    (rig.directory / "kept").rename(rig.directory / "state")
    rig.start()
    sign_and_verify(tpm, key)


def test_twenty_keys_in_turn_are_each_unwrapped_once(tpm: TpmProvider) -> None:
    keys = [Key(tpm, "EC-P256", SIGNING) for _ in range(20)]
    with before(tpm, "load", watching) as loads, before(tpm, "context_load", watching) as contexts:
        for _ in range(3):
            for key in keys:
                sign_and_verify(tpm, key)
    assert not loads
    assert len(contexts) == 60
    assert transient_objects(tpm) <= 2


def test_a_key_that_is_used_again_and_again_stays_loaded(tpm: TpmProvider) -> None:
    busy, *others = (Key(tpm, "EC-P256", SIGNING) for _ in range(4))
    sign_and_verify(tpm, busy)
    with before(tpm, "context_load", watching) as contexts:
        for other in others:
            sign_and_verify(tpm, other)
            sign_and_verify(tpm, busy)
    assert len(contexts) == len(others)


def test_eight_threads_share_one_tpm(tpm: TpmProvider) -> None:
    keys = [Key(tpm, "EC-P256", SIGNING) for _ in range(8)]
    mac = Key(tpm, "HMAC-SHA256", SIGNING)
    row = algorithm("HMAC-SHA256")
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(12):
                sign_and_verify(tpm, keys[(number + turn) % 8], b"%d" % turn)
                tag = tpm.sign(mac.handle, row, bytes(3000), DEFAULT_SIGNATURE)
                tpm.verify(mac.handle, row, bytes(3000), tag, DEFAULT_SIGNATURE)
                assert len(tpm.random(100)) == 100
                if turn % 6 == number % 6:
                    sign_and_verify(tpm, Key(tpm, "EC-P256", SIGNING))
        except BaseException as failure:
            failures.append(failure)
            raise

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_threads_that_load_the_same_key_get_one_handle(tpm: TpmProvider) -> None:
    key = Key(tpm, "EC-P256", SIGNING)
    tpm.unload(key.handle)
    handles: list[int] = []
    threads = [threading.Thread(target=lambda: handles.append(key.load(tpm))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(handles) == 8
    assert len(set(handles)) == 1


def test_what_a_dead_client_left_in_the_tpm_is_flushed_at_the_start(rig: Rig) -> None:
    left = ESAPI(rig.tcti)
    for _ in range(3):
        left.hash_sequence_start(b"", TPM2_ALG.SHA256)
    none = TPMT_SYM_DEF(algorithm=TPM2_ALG.NULL)
    sessions = [
        left.start_auth_session(ESYS_TR.NONE, ESYS_TR.NONE, TPM2_SE.POLICY, none, TPM2_ALG.SHA256) for _ in range(3)
    ]
    left.context_save(sessions[0])
    provider = open_tpm(rig.settings)
    connection = opened(provider).connection
    for first in (0x80000000, 0x02000000, 0x03000000):
        assert connection.handles(first) == []
    provider.close()
    left.close()


def test_a_program_that_flushes_our_keys_is_survived(rig: Rig, tpm: TpmProvider) -> None:
    keys = [Key(tpm, "EC-P256", SIGNING) for _ in range(2)]
    for key in keys:
        sign_and_verify(tpm, key)
    other = ESAPI(rig.tcti)
    for handle in opened(tpm).connection.handles(0x80000000):
        other.flush_context(other.tr_from_tpmpublic(handle))
    for key in (*keys, Key(tpm, "EC-P256", SIGNING)):
        sign_and_verify(tpm, key)
    other.close()


def test_a_program_that_takes_every_slot_is_named_and_outlived(rig: Rig, tpm: TpmProvider) -> None:
    key = Key(tpm, "EC-P256", SIGNING)
    sign_and_verify(tpm, key)
    opened(tpm).keys.release_all()
    other = ESAPI(rig.tcti)
    taken = [other.hash_sequence_start(b"", TPM2_ALG.SHA256) for _ in range(3)]
    with pytest.raises(ProviderError) as refused:
        sign_and_verify(tpm, key)
    assert refused.value.status is Status.PROVIDER_UNAVAILABLE
    assert "slots" in str(refused.value)
    other.flush_context(taken.pop())
    sign_and_verify(tpm, key)
    while taken:
        other.flush_context(taken.pop())
    other.close()


def test_a_program_that_takes_a_slot_for_a_moment_is_waited_for(rig: Rig, tpm: TpmProvider) -> None:
    first, second = Key(tpm, "EC-P256", SIGNING), Key(tpm, "EC-P256", SIGNING)
    sign_and_verify(tpm, first)
    opened(tpm).keys.release_all()
    other = ESAPI(rig.tcti)
    taken = [other.hash_sequence_start(b"", TPM2_ALG.SHA256) for _ in range(3)]
    with before(tpm, "context_load", lambda call: other.flush_context(taken.pop()) if call == 1 else None):
        sign_and_verify(tpm, second)
    other.close()


def test_a_key_made_just_after_the_tpm_was_exchanged_belongs_to_the_new_one(
    rig: Rig, tpm: TpmProvider, new_rig: Callable[[], Rig]
) -> None:
    serial = tpm.describe().token.serial
    other = new_rig()
    open_tpm(other.settings).close()
    rig.stop()
    other.stop()
    (rig.directory / "state").rename(rig.directory / "kept")
    (other.directory / "state").rename(rig.directory / "state")
    rig.start()
    sign_and_verify(tpm, Key(tpm, "EC-P256", SIGNING))
    assert tpm.describe().token.serial != serial


@pytest.mark.parametrize("code", [TPM2_RC.RETRY, TPM2_RC.YIELDED, TPM2_RC.TESTING, TPM2_RC.SESSION_MEMORY])
def test_a_busy_tpm_is_asked_again(tpm: TpmProvider, code: int) -> None:
    key = Key(tpm, "EC-P256", SIGNING)
    with before(tpm, "sign", refusing(code, times=2)) as calls:
        sign_and_verify(tpm, key)
    assert len(calls) == 3


def test_a_tpm_that_stays_busy_is_given_up_in_bounded_time(tpm: TpmProvider) -> None:
    key = Key(tpm, "EC-P256", SIGNING)
    with before(tpm, "sign", refusing(TPM2_RC.RETRY, times=1000)) as calls, pytest.raises(ProviderError) as refused:
        sign_and_verify(tpm, key)
    assert refused.value.status is Status.PROVIDER_UNAVAILABLE
    assert len(calls) < 10
    sign_and_verify(tpm, key)


def test_a_failure_of_the_tpm_itself_is_told_without_its_internals(tpm: TpmProvider) -> None:
    key = Key(tpm, "EC-P256", SIGNING)
    broken = before(tpm, "sign", refusing(TPM2_RC.SENSITIVE, times=1000))
    with broken as calls, pytest.raises(ProviderError) as refused:
        sign_and_verify(tpm, key)
    assert refused.value.status is Status.PROVIDER_FAILED
    assert "0x155" in refused.value.origin
    assert "0x155" not in str(refused.value)
    assert len(calls) == 1
    sign_and_verify(tpm, key)


def lockout_counter(tpm: TpmProvider) -> int:
    number = int(TPM2_PT.LOCKOUT_COUNTER)
    return opened(tpm).connection.properties(number, 1)[number]


def test_using_keys_never_counts_against_the_lockout(rig: Rig, tpm: TpmProvider) -> None:
    key = Key(tpm, "EC-P256", SIGNING)
    mac = Key(tpm, "HMAC-SHA256", SIGNING)
    assert lockout_counter(tpm) == 0
    for _ in range(4):  # three would lock a fresh swtpm
        sign_and_verify(tpm, key)
        tpm.sign(mac.handle, algorithm("HMAC-SHA256"), bytes(5000), DEFAULT_SIGNATURE)
        rig.restart(kill=True)
    sign_and_verify(tpm, key)
    assert lockout_counter(tpm) == 0


def test_closing_leaves_a_simulator_in_order(rig: Rig) -> None:
    orderly = 1 << 31  # TPMA_STARTUP_CLEAR
    states = []
    for _ in range(2):
        provider = open_tpm(rig.settings)
        sign_and_verify(provider, Key(provider, "EC-P256", SIGNING))
        number = int(TPM2_PT.STARTUP_CLEAR)
        states.append(bool(opened(provider).connection.properties(number, 1)[number] & orderly))
        provider.close()
        rig.restart(kill=True)
    assert states[1]


def test_a_closed_provider_leaves_its_slots_empty(rig: Rig) -> None:
    provider = open_tpm(rig.settings)
    for _ in range(3):
        sign_and_verify(provider, Key(provider, "EC-P256", SIGNING))
    provider.close()
    other = ESAPI(rig.tcti)
    taken = [other.hash_sequence_start(b"", TPM2_ALG.SHA256) for _ in range(3)]
    with pytest.raises(TSS2_Exception):
        other.hash_sequence_start(b"", TPM2_ALG.SHA256)
    for sequence in taken:
        other.flush_context(sequence)
    other.close()


def test_the_esapi_that_failed_is_replaced(rig: Rig, tpm: TpmProvider) -> None:
    sign_and_verify(tpm, Key(tpm, "EC-P256", SIGNING))
    before_restart = esapi(tpm)
    rig.stop(kill=True)
    with pytest.raises(ProviderError):
        tpm.random(1)
    rig.start()
    assert tpm.random(1)
    assert esapi(tpm) is not before_restart
