"""The data plane of the client: used where there is one, done without where there is none, careful after a failure."""

import os
import signal
from collections.abc import Callable
from types import FrameType

import msgspec
import pytest

from hsmbridge.client import CryptoStack, MemoryAllocator
from hsmbridge.client.data_plane import SHARED_FROM, SharedBuffers
from hsmbridge.core import messages as m
from hsmbridge.core.errors import (
    ConnectionLost,
    DecryptionFailed,
    ProviderError,
    RequestError,
    ResourceError,
    Status,
    WireError,
)
from tests.unit.client.echo_daemon import Answer, EchoDaemon, Peer, hang_up, let_wait

GCM = "AES-256-GCM"
LARGE = bytes(range(256)) * (SHARED_FROM // 256)


def share(stack: CryptoStack) -> SharedBuffers:
    """Give the connection memory that no daemon sees; what a test's daemon answers is enough."""
    connection = stack._connection(5)
    connection.shared_asked = True
    connection.shared = buffers = SharedBuffers(7, MemoryAllocator.private(1 << 20))
    return buffers


def raising(status: Status, kind: type[Exception]) -> Answer:
    def answer(peer: Peer, request: msgspec.Struct) -> msgspec.Struct:
        raise kind(status)

    return answer


def without_descriptor(peer: Peer, request: msgspec.Struct) -> msgspec.Struct:
    assert isinstance(request, m.ShareMemoryRequest)
    return m.ShareMemoryReply(1, request.size)


@pytest.mark.parametrize("answer", [raising(Status.UNKNOWN_OPERATION, WireError), without_descriptor])
def test_without_shared_memory_everything_goes_through_the_socket(
    daemon: EchoDaemon, stack: CryptoStack, answer: Answer
) -> None:
    daemon.answers[m.ShareMemoryRequest] = answer
    for _ in range(3):
        sealed = stack.encrypt("web", GCM, LARGE)
        assert stack.decrypt("web", GCM, sealed) == LARGE
    assert daemon.requests(m.ShareMemoryRequest) <= 2, "it is asked for once, and again where the descriptor was lost"
    with pytest.raises(RequestError) as refusal:
        stack.allocate(10)
    assert refusal.value.status is Status.NOT_SUPPORTED


def test_small_data_never_asks_for_memory(daemon: EchoDaemon, stack: CryptoStack) -> None:
    stack.encrypt("web", GCM, LARGE[:-1])
    assert daemon.requests(m.ShareMemoryRequest) == 0


def test_large_data_is_named_and_not_sent(daemon: EchoDaemon, stack: CryptoStack) -> None:
    buffers = share(stack)

    def encrypt(peer: Peer, request: msgspec.Struct) -> msgspec.Struct:
        assert isinstance(request, m.SharedEncryptRequest)
        assert request.source == m.SharedRange(7, 0, len(LARGE))
        assert request.target.length >= len(LARGE)
        return m.SharedEncryptReply(3, b"n" * 12, b"t" * 16, len(LARGE))

    daemon.answers[m.SharedEncryptRequest] = encrypt
    assert stack.encrypt("web", GCM, LARGE).version == 3
    assert daemon.requests(m.EncryptRequest) == 0
    assert buffers.allocator.available == buffers.allocator.size


def test_a_tag_goes_behind_its_ciphertext(daemon: EchoDaemon, stack: CryptoStack) -> None:
    buffers, sealed = share(stack), LARGE + b"t" * 16

    def decrypt(peer: Peer, request: msgspec.Struct) -> msgspec.Struct:
        assert isinstance(request, m.SharedDecryptRequest)
        assert (request.source, request.tag) == (m.SharedRange(7, 0, len(sealed)), b"")
        return m.SharedDecryptReply(3, len(LARGE))

    daemon.answers[m.SharedDecryptRequest] = decrypt
    assert stack.decrypt("web", GCM, LARGE, nonce=b"n" * 12, tag=b"t" * 16) == LARGE
    with buffers.allocator.allocate(len(sealed)) as part:
        assert part.view == sealed
    with buffers.allocator.allocate(len(LARGE), 64) as part:
        part.spare[:] = bytes(64)
        stack.decrypt_in_place("web", GCM, part, part.length, nonce=b"n" * 12, tag=b"t" * 16)
        assert (bytes(part.view), bytes(part.spare)) == (LARGE, b"t" * 16 + bytes(48))


def test_what_has_no_tag_is_named_and_not_sent(daemon: EchoDaemon, stack: CryptoStack) -> None:
    share(stack)

    def decrypt(peer: Peer, request: msgspec.Struct) -> msgspec.Struct:
        assert isinstance(request, m.SharedDecryptRequest)
        assert (request.source, request.tag) == (m.SharedRange(7, 0, len(LARGE)), b"")
        return m.SharedDecryptReply(3, len(LARGE) - 5)

    daemon.answers[m.SharedDecryptRequest] = decrypt
    assert stack.decrypt("web", "AES-256-CBC", LARGE, nonce=b"n" * 16) == LARGE[:-5]


def test_a_tag_is_sent_apart_where_it_would_overwrite_something_or_is_none(
    daemon: EchoDaemon, stack: CryptoStack
) -> None:
    buffers = share(stack)
    sent: list[tuple[int, bytes]] = []

    def decrypt(peer: Peer, request: msgspec.Struct) -> msgspec.Struct:
        assert isinstance(request, m.SharedDecryptRequest)
        sent.append((request.source.length, request.tag))
        return m.SharedDecryptReply(3, 0)

    daemon.answers[m.SharedDecryptRequest] = decrypt
    for room, length, tag in ((64, 99, b"t" * 16), (15, 100, b"t" * 16), (64, 100, b"t" * 15), (64, 100, b"t" * 17)):
        sent.clear()
        with buffers.allocator.allocate(100, room) as part:
            part.view[:], part.spare[:] = b"c" * 100, b"s" * room
            stack.decrypt_in_place("web", GCM, part, length, nonce=b"n" * 12, tag=tag)
            assert sent == [(length, tag)]
            assert (bytes(part.view), bytes(part.spare)) == (b"c" * 100, b"s" * room)


def test_what_is_no_tag_goes_the_ordinary_way_and_is_not_taken_from_the_ciphertext(
    daemon: EchoDaemon, stack: CryptoStack
) -> None:
    share(stack)
    for tag in (b"", b"t" * 15, b"t" * 17):
        stack.decrypt("web", GCM, LARGE, nonce=b"n" * 12, tag=tag)
    assert (daemon.requests(m.SharedDecryptRequest), daemon.requests(m.DecryptRequest)) == (0, 3)


def test_a_refusal_is_raised_and_the_part_comes_back(daemon: EchoDaemon, stack: CryptoStack) -> None:
    buffers = share(stack)
    daemon.answers[m.SharedDecryptRequest] = raising(Status.DECRYPTION_FAILED, DecryptionFailed)
    with pytest.raises(DecryptionFailed):
        stack.decrypt("web", GCM, LARGE, nonce=b"n" * 12, tag=b"t" * 16)
    assert daemon.requests(m.DecryptRequest) == 0
    assert buffers.allocator.available == buffers.allocator.size


def test_a_slot_made_anew_is_left_to_the_ordinary_way(daemon: EchoDaemon, stack: CryptoStack) -> None:
    share(stack)
    daemon.answers[m.SharedEncryptRequest] = raising(Status.RESOURCE_NOT_FOUND, ResourceError)
    assert stack.encrypt("web", GCM, LARGE).ciphertext == LARGE[::-1]


def test_where_the_daemon_may_still_write_nobody_else_gets_the_memory(daemon: EchoDaemon, stack: CryptoStack) -> None:
    buffers = share(stack)
    daemon.answers[m.SharedEncryptRequest] = raising(Status.OPERATION_TIMED_OUT, ProviderError)
    with pytest.raises(ProviderError):
        stack.encrypt("web", GCM, LARGE)
    left = buffers.allocator.available
    assert left < buffers.allocator.size
    part = buffers.allocator.allocate(1000)
    with pytest.raises(ProviderError):
        stack.encrypt_in_place("web", GCM, part, 1000)
    part.release()
    assert buffers.allocator.available <= left - 1000


def test_what_may_have_been_carried_out_is_not_sent_again(daemon: EchoDaemon, stack: CryptoStack) -> None:
    share(stack)
    daemon.answers[m.SharedEncryptRequest] = hang_up
    with pytest.raises(ConnectionLost):
        stack.encrypt("web", GCM, LARGE)
    assert daemon.requests(m.EncryptRequest) == 0


def test_what_does_no_harm_is_sent_again_the_ordinary_way(daemon: EchoDaemon, stack: CryptoStack) -> None:
    large = (m.SharedDigestRequest, m.SharedMacRequest, m.SharedDecryptRequest)
    daemon.answers |= dict.fromkeys(large, hang_up)
    daemon.answers[m.DigestRequest] = lambda _, __: m.DigestReply(b"digest", "software")
    daemon.answers[m.MacRequest] = lambda _, __: m.MacReply(b"mac", 1)
    share(stack)
    assert stack.digest("SHA-256", LARGE) == b"digest"
    share(stack)
    assert stack.mac("web", "HMAC-SHA256", LARGE) == b"mac"
    share(stack)
    assert stack.decrypt("web", GCM, LARGE[::-1], nonce=b"n" * 12, tag=b"t" * 16) == LARGE
    assert [daemon.requests(kind) for kind in large] == [1, 1, 1]


def test_memory_of_a_lost_connection_is_not_used_on_the_next(daemon: EchoDaemon, stack: CryptoStack) -> None:
    part = share(stack).allocator.allocate(100)
    daemon.hang_up()
    stack.ping()
    share(stack)
    with pytest.raises(ConnectionLost):
        stack.digest_in_place("SHA-256", part, 100)


def test_a_call_that_gives_up_waiting_abandons_its_part(daemon: EchoDaemon, stack: CryptoStack) -> None:
    buffers = share(stack)
    daemon.answers[m.SharedMacRequest] = let_wait
    with pytest.raises(ProviderError) as refusal:
        stack.mac("web", "HMAC-SHA256", LARGE, timeout=0.01)
    assert refusal.value.status is Status.OPERATION_TIMED_OUT
    assert buffers.allocator.available <= buffers.allocator.size - len(LARGE)


class Interrupted(Exception):
    """Raised by a signal handler."""


def test_a_call_that_a_signal_interrupts_abandons_its_part(daemon: EchoDaemon, stack: CryptoStack) -> None:
    def interrupt(peer: Peer, request: msgspec.Struct) -> msgspec.Struct:
        os.kill(os.getpid(), signal.SIGUSR1)
        return let_wait(peer, request)

    def raise_it(number: int, frame: FrameType | None) -> None:
        raise Interrupted

    part = share(stack).allocator.allocate(100)
    allocator = part.allocator
    assert allocator is not None
    left = allocator.available
    daemon.answers[m.SharedEncryptRequest] = interrupt
    before = signal.signal(signal.SIGUSR1, raise_it)
    try:
        with pytest.raises(Interrupted), part:
            stack.encrypt_in_place("web", GCM, part, 100)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert allocator.available == left


@pytest.mark.parametrize("length", [-1, 101, 1 << 40])
def test_more_than_a_part_is_refused_and_not_sent(daemon: EchoDaemon, stack: CryptoStack, length: int) -> None:
    part = share(stack).allocator.allocate(100, 64)
    calls: tuple[Callable[[], object], ...] = (
        lambda: stack.digest_in_place("SHA-256", part, length),
        lambda: stack.mac_in_place("web", "HMAC-SHA256", part, length),
        lambda: stack.encrypt_in_place("web", GCM, part, length),
        lambda: stack.decrypt_in_place("web", GCM, part, length, nonce=b"n" * 12, tag=b"t" * 16),
    )
    for call in calls:
        with pytest.raises(RequestError, match="The part has 100 bytes"):
            call()
    assert part.allocator is not None


def test_many_messages_are_named_together_and_not_sent(daemon: EchoDaemon, stack: CryptoStack) -> None:
    buffers = share(stack)

    def encrypt(peer: Peer, request: msgspec.Struct) -> msgspec.Struct:
        assert isinstance(request, m.SharedEncryptManyRequest)
        assert request.lengths == (3, 0, 5)
        assert [b - a for a, b in zip(request.offsets, request.offsets[1:], strict=False)] == [19, 16]
        return m.SharedEncryptManyReply(3, [b"1" * 12, b"2" * 12, b"3" * 12])

    daemon.answers[m.SharedEncryptManyRequest] = encrypt
    sealed = stack.encrypt_many("web", GCM, [b"one", b"", bytearray(b"three")])
    assert [(one.version, one.nonce[:1], len(one.ciphertext), len(one.tag)) for one in sealed] == [
        (3, b"1", 3, 16),
        (3, b"2", 0, 16),
        (3, b"3", 5, 16),
    ]
    assert buffers.allocator.available == buffers.allocator.size


def test_a_daemon_that_does_not_know_many_messages_in_memory_is_asked_as_before(
    daemon: EchoDaemon, stack: CryptoStack
) -> None:
    share(stack)
    daemon.answers[m.SharedEncryptManyRequest] = raising(Status.UNKNOWN_OPERATION, WireError)
    assert [one.ciphertext for one in stack.encrypt_many("web", GCM, [b"one", b"two"])] == [b"eno", b"owt"]
