"""The client against a real daemon: what survives its death, guards, deadlines, children, many threads."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import pytest

from hsmbridge.client import CryptoStack, GenerateKeyParams, KeyOperationPermission, NoncePolicy
from hsmbridge.client.guards import CryptoResourceGuard
from hsmbridge.errors import ConnectionLost, KeyUseError, ProviderError, ResourceError, Status
from hsmbridge.lab.lab import Lab

P = KeyOperationPermission
SIGN = "ECDSA-P256-SHA256"
GCM = "AES-256-GCM"
P256 = GenerateKeyParams(key_type="EC-P256", permissions=int(P.SIGN | P.VERIFY))
PROVIDERS = ("software", "softhsm", "tpm")
_numbers = count()


@pytest.fixture
def stack(hsmbridge_lab: Lab) -> Iterator[CryptoStack]:
    with CryptoStack(hsmbridge_lab.socket) as made:
        yield made


def new_slot(stack: CryptoStack, provider: str, permissions: P = P.SIGN | P.VERIFY, key_type: str = "EC-P256") -> str:
    name = f"client-{next(_numbers)}"
    stack.create_slot(name, key_type, permissions, providers=[provider])
    return name


@pytest.mark.parametrize("provider", PROVIDERS)
def test_eight_threads_share_a_connection(stack: CryptoStack, provider: str) -> None:
    slot = stack.slot(new_slot(stack, provider))

    def work(number: int) -> None:
        for turn in range(5):
            message = b"%d of %d" % (turn, number)
            assert slot.verify(SIGN, message, slot.sign(SIGN, message)) == 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8), timeout=100))


def test_a_batch_signs_what_single_calls_verify(stack: CryptoStack) -> None:
    slot = stack.slot(new_slot(stack, "software"))
    messages = [b"message %d" % number for number in range(64)]
    signatures = slot.sign_many(SIGN, messages)
    assert all(
        slot.verify(SIGN, message, signature) == 1 for message, signature in zip(messages, signatures, strict=True)
    )
    wrong = list(zip(messages, reversed(signatures), strict=True))
    assert all(isinstance(answer, KeyUseError) for answer in stack.verify_batch(slot, SIGN, wrong))


@pytest.mark.parametrize("provider", PROVIDERS)
def test_an_ephemeral_key_lives_as_long_as_its_guard(stack: CryptoStack, provider: str) -> None:
    with stack.generate_key(P256, provider=provider) as guard:
        resource = guard.resource
        signature = guard.sign(SIGN, b"message")
        assert stack.verify(resource, SIGN, b"message", signature) >= 0
    with pytest.raises(ResourceError) as caught:
        stack.sign(resource, SIGN, b"message")
    assert caught.value.status is Status.RESOURCE_NOT_FOUND


@pytest.mark.parametrize(
    ("provider", "algorithm", "size"), [("software", GCM, 12), ("softhsm", GCM, 12), ("tpm", "AES-256-CFB", 16)]
)
def test_an_ephemeral_key_takes_the_nonces_of_its_caller_once(
    stack: CryptoStack, provider: str, algorithm: str, size: int
) -> None:
    params = GenerateKeyParams(key_type="AES-256", permissions=int(P.ENCRYPT | P.DECRYPT))
    nonces = (number.to_bytes(size, "big") for number in count())
    with stack.generate_key(params, provider=provider, nonce_policy=NoncePolicy.MONOTONIC) as guard:
        for data in (b"", b"message", bytes(100_000)):  # the last through shared memory
            nonce = next(nonces)
            sealed = guard.encrypt(algorithm, data, nonce=nonce)
            assert sealed.nonce == nonce
            assert guard.decrypt(algorithm, sealed) == data
            with pytest.raises(KeyUseError) as refusal:
                guard.encrypt(algorithm, data, nonce=nonce)
            assert refusal.value.status is Status.NONCE_REUSED


def test_an_id_means_nothing_on_another_connection(stack: CryptoStack) -> None:
    with stack.generate_key(P256) as guard:
        resource = guard.resource
        child = os.fork()
        if child == 0:
            try:
                stack.sign(resource, SIGN, b"message")
            except ResourceError:
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert guard.sign(SIGN, b"message")


def test_a_slot_made_anew_under_its_name_is_used(stack: CryptoStack) -> None:
    name = new_slot(stack, "software")
    before = stack.sign(name, SIGN, b"message")
    stack.destroy(name)
    stack.create_slot(name, "EC-P256", P.SIGN | P.VERIFY, providers=["software"])
    after = stack.sign(name, SIGN, b"message")
    assert stack.verify(name, SIGN, b"message", after) == 1
    with pytest.raises(KeyUseError):
        stack.verify(name, SIGN, b"message", before)


def test_a_deadline_that_cannot_be_kept_is_told(hsmbridge_lab: Lab, stack: CryptoStack) -> None:
    slot = new_slot(stack, "tpm")
    with pytest.raises(ProviderError) as caught:
        stack.sign_many(slot, SIGN, [b"message"] * 200, timeout=0.02)
    assert caught.value.status is Status.OPERATION_TIMED_OUT
    # The call was given up and its host with it; another one takes its place.
    hsmbridge_lab.wait_until_available()
    assert stack.sign(slot, SIGN, b"message")


def test_nothing_is_lost_while_workers_are_stopped_in_order(hsmbridge_lab: Lab, stack: CryptoStack) -> None:
    hsmbridge_lab.wait_until_available()
    slot = new_slot(stack, "software", P.ENCRYPT | P.DECRYPT, "AES-256")
    sealed = []
    for _ in range(3):
        worker = stack.status().pid
        sealed += [stack.encrypt(slot, "AES-256-GCM", b"before") for _ in range(50)]
        os.kill(worker, signal.SIGTERM)
        # Encryption is never sent twice; each of these reaches exactly one worker.
        sealed += [stack.encrypt(slot, "AES-256-GCM", b"after") for _ in range(200)]
        assert stack.status().pid != worker
    assert len({one.nonce for one in sealed}) == len(sealed) == 750


def test_slots_outlive_the_daemon_and_guards_do_not(hsmbridge_lab: Lab, stack: CryptoStack) -> None:
    hsmbridge_lab.wait_until_available()
    slots = [stack.slot(new_slot(stack, provider)) for provider in PROVIDERS]
    signatures = [slot.sign(SIGN, b"before") for slot in slots]
    guard = stack.generate_key(P256)
    assert isinstance(guard, CryptoResourceGuard)
    hsmbridge_lab.kill_daemon()
    hsmbridge_lab.start_daemon()
    assert [slot.verify(SIGN, b"before", signature) for slot, signature in zip(slots, signatures, strict=True)] == [
        1,
        1,
        1,
    ]
    assert not guard.active
    with pytest.raises(ConnectionLost):
        guard.sign(SIGN, b"after")
