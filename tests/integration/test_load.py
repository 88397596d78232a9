"""Eight client threads on each of three providers, all at once: no error, and every result is right.

What the daemon answers is checked with another library than the one that made it, or with the public key alone.
"""

import hashlib
import hmac
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from hsmbridge.client import CryptoStack, KeyOperationPermission
from hsmbridge.lab.lab import Lab

THREADS = 8
P = KeyOperationPermission
Work = Callable[[bytes], None]


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab.start() as lab:
        yield lab


def _signing(stack: CryptoStack, provider: str) -> Work:
    name = f"{provider}-sign"
    info = stack.create_slot(name, "EC-P256", P.SIGN | P.VERIFY, providers=[provider])
    public = load_der_public_key(info.versions[0].public_key)
    assert isinstance(public, ec.EllipticCurvePublicKey)

    def work(message: bytes) -> None:
        signature = stack.sign(name, "ECDSA-P256-SHA256", message)
        public.verify(bytes(signature), message, ec.ECDSA(hashes.SHA256()))

    return work


def _verifying(stack: CryptoStack, provider: str) -> Work:
    name = f"{provider}-sign"

    def work(message: bytes) -> None:
        signature = stack.sign(name, "ECDSA-P256-SHA256", message)
        assert stack.verify(name, "ECDSA-P256-SHA256", message, signature) == 1

    return work


def _computing_macs(stack: CryptoStack, provider: str) -> Work:
    name = f"{provider}-mac"
    stack.create_slot(name, "HMAC-SHA256", P.SIGN | P.VERIFY, providers=[provider])
    known = stack.mac(name, "HMAC-SHA256", b"known")

    def work(message: bytes) -> None:
        mac = stack.mac(name, "HMAC-SHA256", message)
        assert stack.verify_mac(name, "HMAC-SHA256", message, mac) == 1
        assert hmac.compare_digest(bytes(stack.mac(name, "HMAC-SHA256", b"known")), bytes(known))

    return work


def _encrypting(stack: CryptoStack, provider: str) -> Work:
    name, algorithm = f"{provider}-cipher", "AES-128-CFB" if provider == "tpm" else "AES-128-GCM"
    stack.create_slot(name, "AES-128", P.ENCRYPT | P.DECRYPT, providers=[provider])

    def work(message: bytes) -> None:
        assert stack.decrypt(name, algorithm, stack.encrypt(name, algorithm, message)) == message

    return work


def _digesting(stack: CryptoStack, provider: str) -> Work:
    def work(message: bytes) -> None:
        assert stack.digest("SHA-256", message, provider=provider) == hashlib.sha256(message).digest()
        assert len(stack.random(32, provider=provider)) == 32

    return work


@pytest.mark.timeout(180)
@pytest.mark.parametrize("seconds", [10.0, pytest.param(60.0, marks=pytest.mark.all)], ids=["ten seconds", "a minute"])
def test_eight_threads_on_each_provider_get_right_answers_only(lab: Lab, seconds: float) -> None:
    failures: list[str] = []
    counts: dict[str, int] = {}
    end = time.monotonic() + seconds

    def repeat(name: str, work: Work) -> None:
        number = 0
        try:
            while time.monotonic() < end:
                number += 1
                work(f"{name} {number}".encode() * (1 + number % 40))
        except Exception as failure:  # noqa: BLE001 - a thread's top: whatever it is, it is what the test looks for
            failures.append(f"{name} after {number}: {failure!r}")
        counts[name] = number

    with lab.stack() as stack:
        threads = []
        for provider in lab.providers:
            works = [make(stack, provider) for make in (_signing, _verifying, _computing_macs, _encrypting, _digesting)]
            for index in range(THREADS):
                name = f"{provider} {index}"
                threads.append(threading.Thread(target=repeat, args=(name, works[index % len(works)])))
        pids = {info.name: info.pid for info in stack.providers()}
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert min(counts.values()) > 10, counts
        assert {info.name: info.pid for info in stack.providers()} == pids, "a process was replaced"
