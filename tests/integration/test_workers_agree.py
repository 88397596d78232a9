"""Two daemon processes on one socket: what one acknowledges, the other obeys with its very next request."""

import subprocess
import sys
from collections.abc import Iterator

import pytest

from hsmbridge.client import KeyOperationPermission
from hsmbridge.core.errors import ResourceError, Status
from hsmbridge.lab.lab import Lab
from hsmbridge.lab.options import LabOptions

ALGORITHM = "ECDSA-P256-SHA256"
PERMISSIONS = KeyOperationPermission.SIGN | KeyOperationPermission.VERIFY | KeyOperationPermission.GENERATE

# Holds one connection; for each line it is told it does one thing and says how that ended.
PEER = """
import sys
from hsmbridge.client import CryptoStack
from hsmbridge.core.errors import HsmBridgeError
with CryptoStack(sys.argv[1], lifetime="fixed") as stack:
    print(stack.status().pid, flush=True)
    for line in sys.stdin:
        verb, slot = line.split()
        try:
            if verb == "sign":
                print(stack.sign(slot, "ECDSA-P256-SHA256", b"message").version, flush=True)
            else:
                print(stack.encrypt(slot, "AES-256-GCM", b"message").nonce.hex(), flush=True)
        except HsmBridgeError as refused:
            print(refused.status.name, flush=True)
"""


class Peer:
    """Another client, in a process of its own."""

    def __init__(self, lab: Lab) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", PEER, str(lab.socket)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.worker = int(self._read())

    def ask(self, verb: str, slot: str) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{verb} {slot}\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        self._process.communicate()

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab.start(LabOptions(workers=2, tpm=False)) as lab:
        yield lab


@pytest.fixture(scope="module")
def peers(lab: Lab) -> Iterator[tuple[Peer, Peer]]:
    """Two clients, each at a worker of its own."""
    made = [Peer(lab)]
    while len({peer.worker for peer in made}) < 2:
        assert len(made) < 50, "the kernel gives every connection to one worker"
        made.append(Peer(lab))
    yield made[0], made[-1]
    for peer in made:
        peer.close()


@pytest.mark.parametrize("provider", ["software", "softhsm"])
def test_rotation_revocation_and_destruction_hold_at_once_in_the_other_process(
    lab: Lab, peers: tuple[Peer, Peer], provider: str
) -> None:
    with lab.stack() as stack:
        slot = f"agree-{provider}"
        stack.create_slot(slot, "EC-P256", PERMISSIONS, providers=[provider])
        for version in range(2, 8):
            assert [peer.ask("sign", slot) for peer in peers] == [str(version - 1)] * 2
            stack.rotate(slot)
            assert [peer.ask("sign", slot) for peer in peers] == [str(version)] * 2
        stack.revoke(slot)
        assert [peer.ask("sign", slot) for peer in peers] == [Status.KEY_STATE_FORBIDS.name] * 2
        stack.destroy(slot)
        assert [peer.ask("sign", slot) for peer in peers] == [Status.RESOURCE_NOT_FOUND.name] * 2
        assert stack.doctor()


def test_no_nonce_is_used_twice_by_two_processes(lab: Lab, peers: tuple[Peer, Peer]) -> None:
    with lab.stack() as stack:
        stack.create_slot(
            "nonces", "AES-256", KeyOperationPermission.ENCRYPT | KeyOperationPermission.DECRYPT, providers=["software"]
        )
    nonces = [peer.ask("encrypt", "nonces") for _ in range(1500) for peer in peers]
    assert all(len(nonce) == 24 for nonce in nonces)
    assert len(set(nonces)) == len(nonces)


def test_a_slot_of_somebody_else_looks_like_one_that_is_not_there(lab: Lab) -> None:
    with (
        lab.stack() as stack,
        pytest.raises(ResourceError, match="There is no slot uid-4711/web, or you have no access"),
    ):
        stack.show_slot("uid-4711/web")
