"""The main job: the daemon against the direct library call, over software, SoftHSM and swtpm.

The direct calls are what a program would do that held the key itself: a cryptography key object, a python-pkcs11
key object found before and kept with its session, a key loaded into the TPM by tpm2-pytss.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, mldsa, padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from benchmarks.clients import MESSAGE, client_processes, threads
from benchmarks.direct_softhsm import direct_softhsm_signers
from benchmarks.direct_tpm import direct_tpm_signer
from benchmarks.measure import Result, compare, repeating
from hsmbridge.client import CryptoStack, KeyOperationPermission
from hsmbridge.lab.lab import Lab
from hsmbridge.lab.options import LabOptions
from hsmbridge.lab.rigs import SoftHsmToken, Swtpm
from hsmbridge.providers.registry import Isolation

SUITE = "core"
TURNS = 12
P256 = "ECDSA-P256-SHA256"
BATCH = 32
CLIENTS = 16
TPM_KEYS = 20
_SIGN = KeyOperationPermission.SIGN | KeyOperationPermission.VERIFY
_CIPHER = KeyOperationPermission.ENCRYPT | KeyOperationPermission.DECRYPT


def run(only: str, turns: int) -> Iterator[Result]:
    """Every case whose name contains `only`, with so many turns of each side."""
    choice = Choice(only, turns)
    # SoftHSM computes in the module: on two processors one thread there leaves the other to daemon and clients, and no
    # time goes into passing the interpreter to and fro.
    threads = max(1, len(os.sched_getaffinity(0)) // 2)
    with Lab.start(LabOptions(threads=threads)) as lab, lab.stack() as stack:
        yield from _software(choice, stack)
        with _direct_softhsm() as direct:
            yield from _softhsm(choice, lab, stack, direct)
            yield from _softhsm_in_process(choice, direct)
        yield from _tpm(choice, stack)


@dataclass(frozen=True, slots=True)
class Choice:
    """Which cases run, and how long."""

    only: str
    turns: int

    def __contains__(self, case: str) -> bool:
        return self.only in case


def _software(choice: Choice, stack: CryptoStack) -> Iterator[Result]:
    signatures: list[tuple[str, str, str, Callable[[], object], float]] = [
        ("software P-256", "EC-P256", P256, _direct_p256(), 0.45),
        ("software RSA-2048", "RSA-2048", "RSA-PKCS1-SHA256", _direct_rsa(), 0.80),
        ("software ML-DSA-65", "ML-DSA-65", "ML-DSA-65", _direct_ml_dsa(), 0.72),
    ]
    for case, key_type, algorithm, direct, target in signatures:
        if case in choice:
            slot = stack.slot(_slot(stack, key_type, "software", _SIGN))
            ours = repeating(lambda slot=slot, algorithm=algorithm: slot.sign(algorithm, MESSAGE))  # type: ignore[misc]
            yield compare(SUITE, case, ours, repeating(direct), target=target, turns=choice.turns)
    case = f"software P-256 batch of {BATCH}"
    if case in choice:
        name = _slot(stack, "EC-P256", "software", _SIGN)
        messages = [MESSAGE] * BATCH
        batch = repeating(lambda: stack.sign_many(name, P256, messages), BATCH)
        yield compare(SUITE, case, batch, repeating(_direct_p256()), target=0.90, turns=choice.turns)
    case = "software AES-256-GCM 1 KiB"
    if case in choice:
        cipher = stack.slot(_slot(stack, "AES-256", "software", _CIPHER))
        data = bytes(1024)
        ours = repeating(lambda: cipher.encrypt("AES-256-GCM", data))
        yield compare(SUITE, case, ours, repeating(_direct_gcm(data)), turns=choice.turns)


def _softhsm(choice: Choice, lab: Lab, stack: CryptoStack, direct: list[Callable[[], object]]) -> Iterator[Result]:
    name = _slot(stack, "EC-P256", "softhsm", _SIGN)
    slot = stack.slot(name)
    case = "SoftHSM P-256, host process"
    if case in choice:
        ours = repeating(lambda: slot.sign(P256, MESSAGE))
        yield compare(SUITE, case, ours, repeating(direct[0]), target=0.40, turns=choice.turns)
    case = f"SoftHSM P-256, host process, {CLIENTS} clients"
    if case in choice:
        with client_processes(CLIENTS, str(lab.socket), name, P256) as ours:
            yield compare(SUITE, case, ours, threads(direct), target=0.65, turns=choice.turns, turn=0.5)


def _softhsm_in_process(choice: Choice, direct: list[Callable[[], object]]) -> Iterator[Result]:
    case = "SoftHSM P-256, in-process"
    if case not in choice:
        return
    with Lab.start(LabOptions(tpm=False, isolation=Isolation.THREAD)) as lab, lab.stack() as stack:
        slot = stack.slot(_slot(stack, "EC-P256", "softhsm", _SIGN))
        ours = repeating(lambda: slot.sign(P256, MESSAGE))
        yield compare(SUITE, case, ours, repeating(direct[0]), target=0.40, turns=choice.turns)


def _tpm(choice: Choice, stack: CryptoStack) -> Iterator[Result]:
    cases = ("swtpm P-256", f"swtpm P-256, {TPM_KEYS} keys round robin against one")
    if not any(case in choice for case in cases):
        return
    names = [_slot(stack, "EC-P256", "tpm", _SIGN) for _ in range(TPM_KEYS)]
    one = stack.slot(names[0])
    ours = repeating(lambda: one.sign(P256, MESSAGE))
    if cases[0] in choice:
        with _direct_tpm() as direct:
            yield compare(SUITE, cases[0], ours, repeating(direct), target=0.85, turns=choice.turns, turn=0.5)
    if cases[1] in choice:
        turn = cycle([stack.slot(name) for name in names])
        many = repeating(lambda: next(turn).sign(P256, MESSAGE))
        yield compare(SUITE, cases[1], many, ours, against_name="one_key", target=0.70, turns=choice.turns, turn=0.5)


_numbers = iter(range(1_000_000))


def _slot(stack: CryptoStack, key_type: str, provider: str, permissions: KeyOperationPermission) -> str:
    name = f"bench-{next(_numbers)}"
    stack.create_slot(name, key_type, permissions, providers=[provider])
    return name


def _direct_p256() -> Callable[[], object]:
    key = ec.generate_private_key(ec.SECP256R1())
    scheme = ec.ECDSA(hashes.SHA256())
    return lambda: key.sign(MESSAGE, scheme)


def _direct_rsa() -> Callable[[], object]:
    key = rsa.generate_private_key(65537, 2048)
    scheme, hash_ = padding.PKCS1v15(), hashes.SHA256()
    return lambda: key.sign(MESSAGE, scheme, hash_)


def _direct_ml_dsa() -> Callable[[], object]:
    key = mldsa.MLDSA65PrivateKey.generate()
    return lambda: key.sign(MESSAGE)


def _direct_gcm(data: bytes) -> Callable[[], object]:
    cipher = AESGCM(AESGCM.generate_key(256))
    counter = iter(range(1 << 62))
    return lambda: cipher.encrypt(next(counter).to_bytes(12, "big"), data, None)


@contextmanager
def _direct_softhsm() -> Iterator[list[Callable[[], object]]]:
    with tempfile.TemporaryDirectory(prefix="hb", dir="/tmp") as directory:
        yield direct_softhsm_signers(SoftHsmToken.make(Path(directory) / "token", "direct"), MESSAGE, CLIENTS)


@contextmanager
def _direct_tpm() -> Iterator[Callable[[], object]]:
    with tempfile.TemporaryDirectory(prefix="hb", dir="/tmp") as directory:
        tpm = Swtpm.make(Path(directory) / "tpm")
        try:
            sign, close = direct_tpm_signer(tpm.tcti, MESSAGE)
            yield sign
            close()
        finally:
            tpm.stop()
