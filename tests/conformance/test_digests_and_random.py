"""Digests, which Python's hashlib computes too, and random bytes."""

import pytest

from hsmbridge.core import calls
from hsmbridge.core.algorithms import KeyOperation, algorithm
from hsmbridge.core.errors import RequestError, Status
from tests.conformance.independent import macs
from tests.conformance.pinned import PINNED, each_backend
from tests.conformance.rig import Rig
from tests.conformance.samples import each_message

_DIGESTS = [
    (pinned.backend, name)
    for pinned in PINNED.values()
    for name in pinned.operations
    if pinned.offers(algorithm(name), KeyOperation.DIGEST)
]


@pytest.mark.parametrize(("backend", "name"), _DIGESTS)
@each_message
def test_hashlib_computes_the_same_digest(rig: Rig, backend: str, name: str, message: bytes) -> None:
    row = algorithm(name)
    digest = rig.ask(calls.DigestCall(name, message), bytes)
    assert digest == macs.digest(row, message)
    assert len(digest) == row.output_size


@each_backend
@pytest.mark.parametrize("length", [0, 1, 32, 65_536])
def test_random_bytes_come_in_the_length_asked_for(rig: Rig, backend: str, length: int) -> None:
    assert rig.pinned.random, "every back end has a generator"
    assert len(rig.ask(calls.RandomCall(length), bytes)) == length


@each_backend
def test_random_bytes_do_not_repeat(rig: Rig, backend: str) -> None:
    drawn = [rig.ask(calls.RandomCall(16), bytes) for _ in range(50)]
    assert len(set(drawn)) == 50


@each_backend
def test_a_negative_length_is_refused(rig: Rig, backend: str) -> None:
    with pytest.raises(RequestError) as refusal:
        rig.perform(calls.RandomCall(-1))
    assert refusal.value.status is Status.INVALID_ARGUMENT
