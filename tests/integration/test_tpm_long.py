"""Two hundred thousand signatures of a TPM while another program holds a session in it: none fails.

A session of another program once made signatures of a long-running process fail now and then (tpm2-tss issue 2691).
The other program is a process of its own with an ESAPI context of its own on the same TPM, and uses its session
again and again, so that the TPM's commands of both are mixed.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from hsmbridge.core.algorithms import algorithm
from hsmbridge.core.calls import KeyTarget
from hsmbridge.core.identifiers import new_key_id
from hsmbridge.core.key_types import key_type
from hsmbridge.core.params import DEFAULT_SIGNATURE
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.providers.tpm import TpmProvider, TpmSettings, open_tpm
from tests.unit.providers.tpm.conftest import Rig

SIGNATURES = 200_000
KEYS, THREADS = 4, 4
VERIFIED = 97
"""Every so many signatures, one is verified."""
_ROOT = Path(__file__).resolve().parents[2]
_OTHER = """
import sys, time
from tpm2_pytss import ESAPI, ESYS_TR, TPM2_ALG, TPM2_SE, TPMA_SESSION, TPMT_SYM_DEF, TPMU_SYM_KEY_BITS, TPMU_SYM_MODE
esapi = ESAPI(sys.argv[1])
aes = TPMT_SYM_DEF(algorithm=TPM2_ALG.AES, keyBits=TPMU_SYM_KEY_BITS(sym=128), mode=TPMU_SYM_MODE(sym=TPM2_ALG.CFB))
session = esapi.start_auth_session(ESYS_TR.NONE, ESYS_TR.NONE, TPM2_SE.HMAC, aes, TPM2_ALG.SHA256)
esapi.trsess_set_attributes(session, TPMA_SESSION.CONTINUESESSION | TPMA_SESSION.ENCRYPT)
print("holding", flush=True)
used = 0
while not sys.stdin.closed:
    assert len(bytes(esapi.get_random(16, session1=session))) == 16
    used += 1
    if used % 100 == 0:
        print(used, flush=True)
    time.sleep(0.005)
"""


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig(Path(tempfile.mkdtemp(prefix="hb", dir="/tmp")))
    yield made
    made.stop(kill=True)
    shutil.rmtree(made.directory)


def signed(tpm: TpmProvider, handle: int, public_key: bytes, numbers: range) -> int:
    """How many signatures were made; the first failure ends it."""
    row, public = algorithm("ECDSA-P256-SHA256"), load_der_public_key(public_key)
    assert isinstance(public, ec.EllipticCurvePublicKey)
    done = 0
    for number in numbers:
        message = b"message %d" % number
        signature = tpm.sign(handle, row, message, DEFAULT_SIGNATURE)
        if number % VERIFIED == 0:
            public.verify(signature, message, ec.ECDSA(hashes.SHA256()))
        done += 1
    return done


@pytest.mark.all
@pytest.mark.timeout(3600)
def test_no_signature_fails_while_another_program_holds_a_session(rig: Rig, capsys: pytest.CaptureFixture[str]) -> None:
    tpm = open_tpm(TpmSettings(tcti=rig.tcti))
    handles = []
    for _ in range(KEYS):
        target = KeyTarget(new_key_id(), "EC-P256", P.SIGN, b"long run")
        made = tpm.generate(target)
        handle = tpm.load(target.key_id, key_type("EC-P256"), P.SIGN, made.reference, b"long run")
        handles.append((handle, made.public_key))
    with subprocess.Popen(
        [sys.executable, "-c", _OTHER, rig.tcti],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=_ROOT,
        env=os.environ | {"TSS2_LOG": "all+none"},
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "holding\n"
        share = SIGNATURES // THREADS
        begun = time.monotonic()
        with ThreadPoolExecutor(THREADS) as threads:
            runs = [
                threads.submit(signed, tpm, *handles[index % KEYS], range(index * share, (index + 1) * share))
                for index in range(THREADS)
            ]
            total = sum(run.result() for run in runs)
        took = time.monotonic() - begun
        still_there = other.poll() is None
        other.kill()
        used = other.stdout.read().split()
    assert still_there, "the other program failed meanwhile"
    assert total == SIGNATURES
    assert used, "the other program used its session all the time"
    with capsys.disabled():
        sys.stdout.write(
            f"\n{total} signatures at {total / took:.0f} a second; the other session was used {used[-1]} times\n"
        )
    tpm.close()
