"""Many calls in one round trip."""

import pytest

from hsmbridge.client import Ciphertext, CryptoStack
from hsmbridge.core import messages as m
from hsmbridge.errors import ConnectionLost, ResourceError, SignatureInvalid, Status
from tests.unit.client.echo_daemon import EchoDaemon, hang_up, signature_of

SIGN = "ECDSA-P256-SHA256"
MESSAGES = [f"message {number}".encode() for number in range(40)]


def test_a_batch_answers_in_the_order_of_its_messages(stack: CryptoStack) -> None:
    assert stack.sign_batch("web", SIGN, MESSAGES) == [signature_of(message) for message in MESSAGES]
    assert stack.slot("web").sign_many(SIGN, MESSAGES) == [signature_of(message) for message in MESSAGES]


def test_each_request_of_a_batch_has_an_error_of_its_own(stack: CryptoStack) -> None:
    pairs = [(b"a", signature_of(b"a")), (b"b", signature_of(b"a"))]
    good, bad = stack.verify_batch("web", SIGN, pairs)
    assert good == 1
    assert isinstance(bad, SignatureInvalid)


def test_many_raises_the_first_error(stack: CryptoStack, daemon: EchoDaemon) -> None:
    with pytest.raises(ResourceError):
        stack.sign_many("nobody", SIGN, MESSAGES)


def test_an_empty_batch_asks_nobody(daemon: EchoDaemon) -> None:
    with CryptoStack(daemon.path) as stack:
        assert stack.sign_batch("web", SIGN, []) == []
    assert daemon.peers == []


def test_a_batch_larger_than_a_frame_travels_in_several() -> None:
    daemon = EchoDaemon(max_frame=100_000)
    daemon.start()
    try:
        with CryptoStack(daemon.path) as stack:
            plaintexts = [bytes([number]) * 30_000 for number in range(20)]
            sealed = stack.encrypt_many("web", "AES-256-GCM", plaintexts)
            assert all(isinstance(one, Ciphertext) for one in sealed)
            assert stack.decrypt_many("web", "AES-256-GCM", sealed) == plaintexts
    finally:
        daemon.remove()


def test_more_requests_than_a_frame_may_have_travel_in_several(stack: CryptoStack) -> None:
    assert len(stack.sign_many("web", SIGN, [b"m"] * 2500)) == 2500


def test_a_batch_on_a_slot_made_anew_finds_it_again(stack: CryptoStack, daemon: EchoDaemon) -> None:
    stack.sign("web", SIGN, b"message")
    daemon.peers[0].forget("web")
    assert stack.sign_many("web", SIGN, MESSAGES) == [signature_of(message) for message in MESSAGES]


def test_a_batch_that_must_not_be_sent_twice_is_not(stack: CryptoStack, daemon: EchoDaemon) -> None:
    daemon.answers[m.EncryptRequest] = hang_up
    with pytest.raises(ConnectionLost) as caught:
        stack.encrypt_batch("web", "AES-256-GCM", [b"one", b"two"])
    assert caught.value.status is Status.CONNECTION_LOST
    assert daemon.requests(m.EncryptRequest) == 1
