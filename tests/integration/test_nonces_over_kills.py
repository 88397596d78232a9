"""Service nonces over kill -9 and a store put back to an older copy: many processes encrypt, and none repeats."""

import os
import shutil
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from hsmbridge.client import Ciphertext, CryptoStack, KeyOperationPermission
from hsmbridge.core.errors import HsmBridgeError
from hsmbridge.lab.lab import Lab
from hsmbridge.lab.options import LabOptions

ALGORITHM = "AES-256-GCM"
BATCH = 50
CLIENTS = 8
SAMPLE = 200
"""Every so many ciphertexts one is kept, and decrypted at the end."""
PERMISSIONS = KeyOperationPermission.ENCRYPT | KeyOperationPermission.DECRYPT


@dataclass(frozen=True)
class Plan:
    """How many nonces are wanted, and the disturbances: one after so many batches. Each third puts the store back."""

    wanted: int
    disturbances: int
    after: int


SHARE = Plan(20_000, 6, 30)
WHOLE = Plan(1_000_000, 30, 400)


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab.start(LabOptions(workers=2, tpm=False)) as lab:
        yield lab


@dataclass
class Encrypting:
    """One client: single calls and batches in turn, over as many connections as it takes.

    Attributes:
        there: set while there is a daemon to connect to.
        begun: released for each batch.
    """

    lab: Lab
    slot: str
    share: int
    there: threading.Event
    begun: threading.Semaphore
    nonces: list[bytes] = field(default_factory=list)
    sample: list[Ciphertext] = field(default_factory=list)
    workers: set[int] = field(default_factory=set)
    lost: int = 0

    def run(self) -> None:
        while len(self.nonces) < self.share:
            self.there.wait()
            try:
                self._encrypt()
            except HsmBridgeError:
                self.lost += 1

    def _encrypt(self) -> None:
        # A stack of its own each time: the next connection may lead to the other worker.
        with CryptoStack(self.lab.socket, lifetime="fixed", timeout=20) as stack:
            self.workers.add(stack.status().pid)
            for _ in range(8):
                for _ in range(10):
                    self._keep(stack.encrypt(self.slot, ALGORITHM, b"plaintext"))
                for answer in stack.encrypt_batch(self.slot, ALGORITHM, [b"plaintext"] * BATCH):
                    if isinstance(answer, Ciphertext):
                        self._keep(answer)
                self.begun.release()

    def _keep(self, made: Ciphertext) -> None:
        if len(self.nonces) % SAMPLE == 0:
            self.sample.append(made)
        self.nonces.append(made.nonce)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("plan", [SHARE, pytest.param(WHOLE, marks=pytest.mark.all)], ids=lambda plan: str(plan.wanted))
def test_no_nonce_comes_twice_whatever_is_killed_and_put_back(lab: Lab, tmp_path: Path, plan: Plan) -> None:
    with lab.stack() as stack:
        stack.create_slot("nonces", "AES-256", PERMISSIONS, providers=["software"])
        before = stack.encrypt("nonces", ALGORITHM, b"plaintext")
    older = tmp_path / "older"
    lab.kill_daemon()
    shutil.copytree(lab.directory / "state", older)
    lab.start_daemon()
    there, begun = threading.Event(), threading.Semaphore(0)
    there.set()
    clients = [Encrypting(lab, "nonces", plan.wanted // CLIENTS, there, begun) for _ in range(CLIENTS)]
    threads = [threading.Thread(target=client.run) for client in clients]
    for thread in threads:
        thread.start()
    put_back = 0
    for number in range(plan.disturbances):
        for _ in range(plan.after):
            assert begun.acquire(timeout=120)
        if number % 3 == 2:
            there.clear()
            _put_back(lab, older)
            there.set()
            put_back += 1
        else:
            with CryptoStack(lab.socket, lifetime="fixed", timeout=20) as stack:
                os.kill(stack.status().pid, signal.SIGKILL)
    for thread in threads:
        thread.join(timeout=1800)
        assert not thread.is_alive()
    nonces = [before.nonce, *(nonce for client in clients for nonce in client.nonces)]
    assert len(nonces) > plan.wanted
    assert len(set(nonces)) == len(nonces)
    assert {len(nonce) for nonce in nonces} == {12}
    assert put_back == plan.disturbances // 3
    # Many processes took part, each with an epoch of its own.
    workers = set().union(*(client.workers for client in clients))
    assert len(workers) >= plan.disturbances // 2
    assert len({nonce[:8] for nonce in nonces}) >= plan.disturbances // 2
    print(f"{len(nonces)} nonces of {len(workers)} processes; {put_back} times an older store")
    with lab.stack() as stack:
        for client in clients:
            for ciphertext in client.sample:
                assert stack.decrypt("nonces", ALGORITHM, ciphertext) == b"plaintext"


def _put_back(lab: Lab, older: Path) -> None:
    """The store as it was once, in the place of what became of it."""
    lab.kill_daemon()
    state = lab.directory / "state"
    shutil.rmtree(state)
    shutil.copytree(older, state)
    lab.start_daemon()
