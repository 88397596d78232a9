"""Kill -9 at random instants: what was acknowledged is there, what was not is whole or absent, nothing is half-made.

A client makes, rotates and destroys slots as fast as it can while a worker, the whole daemon or the provider's
host process is killed again and again. Its ledger says what was acknowledged; afterwards every slot is held
against it, and the doctor must have nothing left to tell.
"""

import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from hsmbridge.client import CryptoStack, KeyOperationPermission
from hsmbridge.core.errors import HsmBridgeError, Status
from hsmbridge.lab.lab import Lab

KILLS = 20
"""At least; more where the machine is so slow that few slots were acknowledged between them."""
KILLS_MAX = 60
ALGORITHM = "ECDSA-P256-SHA256"
MESSAGE = b"what was acknowledged is there"
PERMISSIONS = KeyOperationPermission.SIGN | KeyOperationPermission.VERIFY | KeyOperationPermission.GENERATE
SWEEP_TIME = 30.0


@dataclass
class Entry:
    """What the client knows of one slot: versions acknowledged, destruction acknowledged, and what it asked last."""

    versions: int = 0
    destroyed: bool = False
    asked: str = ""


@dataclass
class Client:
    """Makes, rotates and destroys until told to stop."""

    socket: str
    provider: str
    ledger: dict[str, Entry] = field(default_factory=dict)
    stop: threading.Event = field(default_factory=threading.Event)
    refused: list[HsmBridgeError] = field(default_factory=list)

    @property
    def acknowledged(self) -> int:
        """How many slots were."""
        return sum(entry.versions > 0 for entry in list(self.ledger.values()))

    def run(self) -> None:
        with CryptoStack(self.socket, timeout=20) as stack:
            number = 0
            while not self.stop.is_set():
                number += 1
                name = f"{self.provider}-{number}"
                entry = self.ledger[name] = Entry()
                try:
                    entry.asked = "create"
                    stack.create_slot(name, "EC-P256", PERMISSIONS, providers=[self.provider])
                    entry.versions, entry.asked = 1, "rotate"
                    stack.rotate(name)
                    entry.versions, entry.asked = 2, ""
                    if number % 2:
                        entry.asked = "destroy"
                        stack.destroy(name)
                        entry.destroyed, entry.asked = True, ""
                except HsmBridgeError as failure:
                    self.refused.append(failure)
                    # The daemon is away for a moment; asking on at full speed would only fill the ledger.
                    self.stop.wait(0.05)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab.start() as lab:
        yield lab


def _kill_something(lab: Lab, provider: str, choice: random.Random) -> None:
    victims = ["worker", "daemon"] if provider == "software" else ["worker", "daemon", "host", "host"]
    victim = choice.choice(victims)
    if victim == "daemon":
        lab.kill_daemon()
        lab.start_daemon()
        return
    if victim == "host":
        replaced = lab.kill_host(provider)
    else:
        replaced = 0
        with lab.stack() as stack:
            os.kill(stack.status().pid, signal.SIGKILL)
    lab.wait_until_available(replaced=replaced)


def _hold_against(stack: CryptoStack, name: str, entry: Entry) -> str:
    """What is wrong with a slot, or ""."""
    try:
        info = stack.show_slot(name)
    except HsmBridgeError as failure:
        if failure.status is not Status.RESOURCE_NOT_FOUND:
            return f"{name}: {failure!r}"
        may_be_absent = entry.destroyed or entry.asked == "destroy" or entry.versions == 0
        return "" if may_be_absent else f"{name}: acknowledged, and lost ({entry})"
    if entry.destroyed:
        return f"{name}: destroyed, and there"
    numbers = [version.number for version in info.versions if version.state == "active"]
    allowed = {entry.versions, entry.versions + 1} if entry.asked in {"create", "rotate"} else {entry.versions}
    if len(numbers) != 1 or not numbers[0] >= max(1, entry.versions):
        return f"{name}: active versions {numbers}, acknowledged {entry}"
    if sum(version.state in {"active", "rotated"} for version in info.versions) not in allowed:
        return f"{name}: {[(v.number, v.state) for v in info.versions]}, acknowledged {entry}"
    signature = stack.sign(name, ALGORITHM, MESSAGE)
    stack.verify(name, ALGORITHM, MESSAGE, signature)
    return ""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("provider", ["software", "softhsm", "tpm"])
def test_twenty_kills_lose_nothing_acknowledged_and_leave_nothing_half_made(lab: Lab, provider: str) -> None:
    choice = random.Random()
    client = Client(str(lab.socket), provider)
    thread = threading.Thread(target=client.run)
    thread.start()
    try:
        for kill in range(KILLS_MAX):
            if kill >= KILLS and client.acknowledged >= KILLS:
                break
            time.sleep(choice.uniform(0.0, 0.25))  # the random instant itself
            _kill_something(lab, provider, choice)
    finally:
        client.stop.set()
        thread.join(60)
    lab.wait_until_available()
    with lab.stack() as stack:
        wrong = [problem for name, entry in client.ledger.items() if (problem := _hold_against(stack, name, entry))]
        assert wrong == []
        assert client.acknowledged >= KILLS
        assert client.refused, "no kill hit anything"
        assert _left_over(stack) == []


def _left_over(stack: CryptoStack) -> list[str]:
    """What the doctor has to tell beside good news, once the sweep had its time."""
    deadline = time.monotonic() + SWEEP_TIME
    while True:
        findings = [
            f"{found.subject}: {found.message}" for found in stack.doctor() if found.severity in {"warning", "error"}
        ]
        if not findings or time.monotonic() > deadline:
            return findings
        time.sleep(0.2)
