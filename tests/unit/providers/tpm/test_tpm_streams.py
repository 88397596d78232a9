"""Data in pieces in a TPM: sequences that are there only while they are fed, and what a reset leaves of them."""

import hashlib
import secrets

import pytest

from hsmbridge.core import calls
from hsmbridge.core.algorithms import KeyOperation, algorithm
from hsmbridge.core.errors import HsmBridgeError, Status
from hsmbridge.core.params import DEFAULT_SIGNATURE
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.providers.base import perform
from hsmbridge.providers.tpm import TpmProvider
from tests.unit.providers.tpm.conftest import Rig
from tests.unit.providers.tpm.faults import opened
from tests.unit.providers.tpm.keys import SIGNING, Key

HMAC, CFB = algorithm("HMAC-SHA256"), algorithm("AES-128-CFB")
DATA = secrets.token_bytes(50_000)


def transient_objects(tpm: TpmProvider) -> int:
    return len(opened(tpm).connection.handles(0x80000000))


def begin(tpm: TpmProvider, stream: int, key: Key | None = None) -> None:
    if key is None:
        perform(tpm, calls.StreamOpenCall(stream, 0, "SHA-256", KeyOperation.DIGEST))
    else:
        perform(tpm, calls.StreamOpenCall(stream, key.handle, HMAC.name, KeyOperation.SIGN))


def end(tpm: TpmProvider, stream: int, data: bytes = b"") -> bytes:
    reply = perform(tpm, calls.StreamFinishCall(stream, data))
    assert isinstance(reply, calls.StreamEnd)
    return reply.output


def test_many_open_streams_take_no_slot_from_the_keys(tpm: TpmProvider) -> None:
    keys = [Key(tpm, "HMAC-SHA256", SIGNING) for _ in range(4)]
    expected = [tpm.sign(key.handle, HMAC, DATA, DEFAULT_SIGNATURE) for key in keys]
    idle = transient_objects(tpm)
    for number, key in enumerate(keys):
        begin(tpm, number, key)
        begin(tpm, 100 + number)
    for start in range(0, len(DATA), 20_000):
        for number in range(len(keys)):
            perform(tpm, calls.StreamUpdateCall(number, DATA[start : start + 20_000]))
            perform(tpm, calls.StreamUpdateCall(100 + number, DATA[start : start + 20_000]))
            assert transient_objects(tpm) <= idle
    assert [end(tpm, number) for number in range(len(keys))] == expected
    assert {end(tpm, 100 + number) for number in range(len(keys))} == {hashlib.sha256(DATA).digest()}
    assert transient_objects(tpm) <= idle
    assert len(tpm.streams) == 0


@pytest.mark.parametrize("kill", [False, True], ids=["orderly", "kill -9"])
def test_a_restart_ends_a_sequence_and_nothing_else(rig: Rig, tpm: TpmProvider, kill: bool) -> None:
    key = Key(tpm, "HMAC-SHA256", SIGNING)
    expected = tpm.sign(key.handle, HMAC, DATA, DEFAULT_SIGNATURE)
    begin(tpm, 1, key)
    perform(tpm, calls.StreamUpdateCall(1, DATA[:40_000]))
    begin(tpm, 2, key)
    perform(tpm, calls.StreamUpdateCall(2, DATA[:100]))
    rig.restart(kill=kill)
    with pytest.raises(HsmBridgeError) as failure:
        perform(tpm, calls.StreamUpdateCall(1, DATA[40_000:] + bytes(20_000)))
    assert failure.value.status is not Status.INTERNAL
    assert end(tpm, 2, DATA[100:]) == expected, "what waits here has lost nothing"
    begin(tpm, 3, key)
    assert end(tpm, 3, DATA) == expected
    assert len(tpm.streams) == 0


def test_cfb_goes_on_where_it_was_after_a_restart(rig: Rig, tpm: TpmProvider) -> None:
    key = Key(tpm, "AES-128", P.ENCRYPT | P.DECRYPT)
    data = DATA[:5_003]
    whole = tpm.encrypt(key.handle, CFB, bytes(16), data, b"").ciphertext
    perform(tpm, calls.StreamOpenCall(1, key.handle, CFB.name, KeyOperation.ENCRYPT, bytes(16)))
    output = perform(tpm, calls.StreamUpdateCall(1, data[:1_001]))
    rig.restart(kill=True)
    assert isinstance(output, bytes)
    assert output + end(tpm, 1, data[1_001:]) == whole


def test_what_was_given_up_leaves_the_tpm_as_it_was(tpm: TpmProvider) -> None:
    idle = transient_objects(tpm)
    for number in range(5):
        begin(tpm, number)
        perform(tpm, calls.StreamUpdateCall(number, DATA))
        perform(tpm, calls.StreamCloseCall(number))
    assert transient_objects(tpm) <= idle
    assert len(tpm.streams) == 0
