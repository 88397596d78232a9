"""Eight threads at once on one provider: every result is right."""

import itertools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from hsmbridge.core import calls
from hsmbridge.core.algorithms import ALGORITHMS, KeyOperation, Kind, Scheme, algorithm
from tests.conformance.independent import macs
from tests.conformance.pinned import Case, cases, each_backend
from tests.conformance.rig import Rig
from tests.conformance.samples import nonce

THREADS = 8
ROUNDS = 6


_SLOW = frozenset(name for name, row in ALGORITHMS.items() if row.scheme is Scheme.SLH_DSA) - {"SLH-DSA-SHA2-128f"}
"""A second a signature; one of the family stands for the others."""


def _checks(rig: Rig) -> list[Callable[[bytes], None]]:
    """One check for each pinned algorithm that signs, encrypts, encapsulates or hashes, keys made beforehand."""
    checks: list[Callable[[bytes], None]] = []
    for case in cases(Kind.SIGNATURE, Kind.MAC, needs=(KeyOperation.SIGN, KeyOperation.VERIFY), first=True):
        if case.backend == rig.pinned.backend and case.algorithm.name not in _SLOW:
            rig.key(case)
            checks.append(partial(_sign, rig, case))
    for case in cases(Kind.AEAD, Kind.CIPHER, needs=(KeyOperation.ENCRYPT, KeyOperation.DECRYPT), first=True):
        if case.backend == rig.pinned.backend:
            rig.key(case)
            checks.append(partial(_encrypt, rig, case))
    for case in cases(Kind.KEM, needs=(KeyOperation.ENCAPSULATE, KeyOperation.DECAPSULATE)):
        if case.backend == rig.pinned.backend:
            rig.key(case)
            checks.append(partial(_encapsulate, rig, case))
    digests = [name for name in rig.pinned.operations if algorithm(name).kind is Kind.DIGEST]
    return checks + [partial(_digest, rig, name) for name in digests]


def _sign(rig: Rig, case: Case, message: bytes) -> None:
    key = rig.key(case)
    rig.verify(case, key, message, rig.sign(case, key, message))


def _encrypt(rig: Rig, case: Case, message: bytes) -> None:
    key = rig.key(case)
    sealed = rig.encrypt(case, key, nonce(case.algorithm.nonce_size), message)
    assert rig.decrypt(case, key, sealed) == message


def _digest(rig: Rig, name: str, message: bytes) -> None:
    assert rig.ask(calls.DigestCall(name, message), bytes) == macs.digest(algorithm(name), message)


def _encapsulate(rig: Rig, case: Case, message: bytes) -> None:
    handle = rig.load(rig.key(case))
    made = rig.ask(calls.EncapsulateCall(handle, case.algorithm.name), calls.Encapsulated)
    assert rig.perform(calls.DecapsulateCall(handle, case.algorithm.name, made.ciphertext)) == made.secret


def _quick(backend: str) -> Case:
    """A case with a secret key, or with any key where the backend has no secret ones."""
    found = [*cases(Kind.MAC, Kind.AEAD, Kind.CIPHER), *cases(Kind.SIGNATURE)]
    return next(one for one in found if one.backend == backend)


@each_backend
def test_eight_threads_get_the_right_results(rig: Rig, backend: str) -> None:
    checks = _checks(rig)
    start = threading.Barrier(THREADS)

    def work(number: int) -> int:
        start.wait(timeout=30)
        # Each thread goes its own way round, so that different operations meet.
        turned = itertools.islice(itertools.cycle(checks), number, number + ROUNDS * len(checks))
        return sum(1 for at, check in enumerate(turned) if check(b"thread %d, %d" % (number, at)) is None)

    with ThreadPoolExecutor(THREADS) as pool:
        assert list(pool.map(work, range(THREADS))) == [ROUNDS * len(checks)] * THREADS


@each_backend
def test_eight_threads_loading_one_key_get_one_handle(rig: Rig, backend: str) -> None:
    key = rig.key(_quick(backend))
    rig.unload(rig.load(key))
    start = threading.Barrier(THREADS)

    def load(_: int) -> int:
        start.wait(timeout=30)
        return rig.load(key)

    with ThreadPoolExecutor(THREADS) as pool:
        assert len(set(pool.map(load, range(THREADS)))) == 1


@each_backend
def test_eight_threads_make_and_destroy_keys(rig: Rig, backend: str) -> None:
    case = _quick(backend)

    def live(_: int) -> bytes:
        key = rig.generate(case.key_type, case.permissions, ephemeral=True)
        handle = rig.load(key)
        rig.destroy(key)
        return handle.to_bytes(8, "big")

    with ThreadPoolExecutor(THREADS) as pool:
        assert len(set(pool.map(live, range(24)))) == 24
