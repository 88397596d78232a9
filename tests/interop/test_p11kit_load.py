"""64 applications at once for a minute: each makes, finds, uses and destroys keys, and checks its own results."""

import os
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from hsmbridge.frontends.p11kit.numbers import Cka
from tests.interop.p11kit_client import CkrError, Service, ay, fy, service, u

__all__ = ["service"]

ECDSA = 0x1041
CLIENTS = 64
SIGNATURES = 8


class Application(threading.Thread):
    """One client: on a connection of its own, again and again until the time is over."""

    def __init__(self, service: Service, number: int, seconds: float) -> None:
        super().__init__()
        self.service = service
        self.number = number
        self.until = time.monotonic() + seconds
        self.rounds = 0
        self.problem: Exception | None = None

    def run(self) -> None:
        try:
            while time.monotonic() < self.until:
                self._once()
                self.rounds += 1
        except (AssertionError, CkrError, OSError, InvalidSignature) as problem:
            self.problem = problem

    def _once(self) -> None:
        label = f"load {self.number} {self.rounds}".encode()
        with self.service.client(self.number % 3) as client:
            session = client.open(client.slot(("software", "softhsm")[self.number % 2]))
            token = int(self.number % 4 == 0)
            public, private = client.key_pair(session, TOKEN=token, LABEL=label, SIGN=1)
            assert sorted(client.find(session, LABEL=label)) == sorted([private, public])
            point = client.attributes(session, public, Cka.EC_POINT)[0][Cka.EC_POINT]
            key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point[2:])
            for _ in range(SIGNATURES):
                digest = os.urandom(32)
                client.call("C_SignInit", u(session), client.mechanism(ECDSA, plain=True), u(private))
                signature = client.call("C_Sign", u(session), ay(digest), fy(64))
                r, s = (int.from_bytes(half, "big") for half in (signature[:32], signature[32:]))
                key.verify(encode_dss_signature(r, s), digest, ec.ECDSA(Prehashed(SHA256())))
            client.call("C_DestroyObject", u(session), u(private))
            if token:
                assert client.find(session, LABEL=label) == []


def load(service: Service, seconds: float) -> list[Application]:
    applications = [Application(service, number, seconds) for number in range(CLIENTS)]
    for one in applications:
        one.start()
    for one in applications:
        one.join()
    return applications


@pytest.mark.parametrize("seconds", [3.0, pytest.param(60.0, marks=pytest.mark.all)])
def test_many_clients_at_once_disturb_nobody_and_leave_nothing(service: Service, seconds: float) -> None:
    load(service, 2.0)
    before = descriptors(service)
    applications = load(service, seconds)
    assert Counter(repr(one.problem) for one in applications) == {"None": CLIENTS}
    assert all(one.rounds for one in applications)
    with service.lab.stack() as stack:
        assert stack.list_slots() == []
    # Connections end a moment after their client has closed them.
    until = time.monotonic() + 10
    while descriptors(service) > before and time.monotonic() < until:
        threading.Event().wait(0.05)
    assert descriptors(service) <= before


def descriptors(service: Service) -> int:
    """Open files of the daemon's processes, which are those that hold its store open."""
    total = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
            files = [str(entry.readlink()) for entry in (folder / "fd").iterdir()]
        except OSError:
            continue
        if b"hsmbridge.daemon" in command and any(str(service.lab.directory) in name for name in files):
            total += len(files)
    return total
