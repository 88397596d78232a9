"""Service nonces over kill -9: two workers, each killed again and again while it encrypts, and none repeats."""

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from hsmbridge.client import Ciphertext, CryptoStack, KeyOperationPermission
from hsmbridge.core.errors import HsmBridgeError
from hsmbridge.lab.lab import Lab
from hsmbridge.lab.options import LabOptions

ALGORITHM = "AES-256-GCM"
WANTED = 20_000
BATCH = 50
KILLS = 8
CLIENTS = 4
PERMISSIONS = KeyOperationPermission.ENCRYPT | KeyOperationPermission.DECRYPT


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab.start(LabOptions(workers=2, tpm=False)) as lab:
        yield lab


class Encrypting:
    """One client: single calls and batches in turn, over as many connections as it takes."""

    def __init__(self, lab: Lab, slot: str, share: int, begun: threading.Semaphore) -> None:
        self.made: list[Ciphertext] = []
        self.workers: set[int] = set()
        self.lost = 0
        self._lab, self._slot, self._share, self._begun = lab, slot, share, begun

    def run(self) -> None:
        while len(self.made) < self._share:
            try:
                self._encrypt()
            except HsmBridgeError:
                self.lost += 1

    def _encrypt(self) -> None:
        # A stack of its own each time: the next connection may lead to the other worker.
        with CryptoStack(self._lab.socket, lifetime="fixed", timeout=20) as stack:
            self.workers.add(stack.status().pid)
            for _ in range(8):
                self.made += [stack.encrypt(self._slot, ALGORITHM, b"plaintext") for _ in range(10)]
                answers = stack.encrypt_batch(self._slot, ALGORITHM, [b"plaintext"] * BATCH)
                self.made += [answer for answer in answers if isinstance(answer, Ciphertext)]
                self._begun.release()


@pytest.mark.timeout(120)
def test_twenty_thousand_nonces_of_workers_that_are_killed_are_all_different(lab: Lab) -> None:
    with lab.stack() as stack:
        stack.create_slot("nonces", "AES-256", PERMISSIONS, providers=["software"])
    begun = threading.Semaphore(0)
    clients = [Encrypting(lab, "nonces", WANTED // CLIENTS, begun) for _ in range(CLIENTS)]
    threads = [threading.Thread(target=client.run) for client in clients]
    for thread in threads:
        thread.start()
    for _ in range(KILLS):
        for _ in range(20):
            assert begun.acquire(timeout=60)
        with CryptoStack(lab.socket, lifetime="fixed", timeout=20) as stack:
            os.kill(stack.status().pid, signal.SIGKILL)
    for thread in threads:
        thread.join(timeout=90)
        assert not thread.is_alive()
    made = [ciphertext for client in clients for ciphertext in client.made]
    assert len(made) >= WANTED
    assert len({ciphertext.nonce for ciphertext in made}) == len(made)
    assert {len(ciphertext.nonce) for ciphertext in made} == {12}
    # Many processes took part, each with an epoch of its own.
    workers = set().union(*(client.workers for client in clients))
    assert len(workers) >= KILLS // 2
    assert len({ciphertext.nonce[:8] for ciphertext in made}) >= KILLS // 2
    with lab.stack() as stack:
        for ciphertext in made[:: len(made) // 100]:
            assert stack.decrypt("nonces", ALGORITHM, ciphertext) == b"plaintext"
