"""Large data through shared memory, on software and SoftHSM keys: the same results, nothing left behind."""

import hashlib
import os
import threading
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hsmbridge.client import CryptoStack, KeyOperationPermission
from hsmbridge.client.connection import Connection
from hsmbridge.client.data_plane import SHARED_FROM, SharedBuffers
from hsmbridge.core import messages as m
from hsmbridge.core.errors import ConnectionLost, DecryptionFailed, HsmBridgeError, LimitError, RequestError, Status
from hsmbridge.lab.lab import Lab
from hsmbridge.wire.codec import decode_reply, encode_request

P = KeyOperationPermission
GCM = "AES-256-GCM"
LARGE = os.urandom(300_000)
_numbers = count()


@pytest.fixture
def stack(hsmbridge_lab: Lab) -> Iterator[CryptoStack]:
    with hsmbridge_lab.stack() as made:
        yield made


def slot(
    stack: CryptoStack, key_type: str, permissions: P, provider: str = "software", algorithms: Sequence[str] = ()
) -> str:
    name = f"plane-{next(_numbers)}"
    stack.create_slot(name, key_type, permissions, providers=[provider], algorithms=algorithms)
    return name


def buffers_of(stack: CryptoStack) -> SharedBuffers:
    shared = stack._connection(5).shared
    assert isinstance(shared, SharedBuffers)
    return shared


def ask(connection: Connection, request: msgspec.Struct) -> msgspec.Struct:
    return decode_reply(connection.exchange(encode_request, request, 5))


@pytest.mark.parametrize("provider", ["software", "softhsm"])
def test_large_data_is_encrypted_and_decrypted(stack: CryptoStack, provider: str) -> None:
    name = slot(stack, "AES-256", P.ENCRYPT | P.DECRYPT, provider)
    sealed = stack.encrypt(name, GCM, LARGE, aad=b"aad")
    assert len(sealed.ciphertext) == len(LARGE)
    assert stack.decrypt(name, GCM, sealed, aad=b"aad") == LARGE
    # What went one way comes back the other: the same bytes in pieces too small for shared memory.
    small = LARGE[: SHARED_FROM - 1]
    assert stack.decrypt(name, GCM, stack.encrypt(name, GCM, small)) == small
    with pytest.raises(DecryptionFailed):
        stack.decrypt(name, GCM, sealed, aad=b"other")
    shared = buffers_of(stack)
    assert shared.allocator.available == shared.allocator.size, "every part came back"


@pytest.mark.parametrize("provider", ["software", "softhsm"])
def test_large_data_is_digested_and_authenticated(stack: CryptoStack, provider: str) -> None:
    assert stack.digest("SHA-256", LARGE, provider=provider) == hashlib.sha256(LARGE).digest()
    name = slot(stack, "HMAC-SHA256", P.SIGN | P.VERIFY, provider)
    mac = stack.mac(name, "HMAC-SHA256", LARGE)
    assert stack.verify_mac(name, "HMAC-SHA256", LARGE, mac) == 1


@settings(max_examples=25, deadline=None)
@given(size=st.integers(SHARED_FROM - 2, SHARED_FROM + 2) | st.integers(1, 1 << 20))
def test_any_size_comes_back(hsmbridge_lab: Lab, size: int) -> None:
    with hsmbridge_lab.stack() as stack:
        name = "plane-any"
        if name not in [one.name.rpartition("/")[2] for one in stack.list_slots()]:
            stack.create_slot(name, "AES-256", P.ENCRYPT | P.DECRYPT, providers=["software"])
        data = os.urandom(size)
        assert stack.decrypt(name, GCM, stack.encrypt(name, GCM, data)) == data


def test_a_slot_made_anew_is_found_again(stack: CryptoStack) -> None:
    name = slot(stack, "AES-256", P.ENCRYPT | P.DECRYPT)
    stack.encrypt(name, GCM, LARGE)
    stack.destroy(name)
    stack.create_slot(name, "AES-256", P.ENCRYPT | P.DECRYPT, providers=["software"])
    assert stack.decrypt(name, GCM, stack.encrypt(name, GCM, LARGE)) == LARGE
    stack.destroy(name)
    stack.create_slot(name, "AES-256", P.ENCRYPT | P.DECRYPT, providers=["software"])
    with stack.allocate(100) as part:
        assert stack.encrypt_in_place(name, GCM, part, 100).length == 100


def test_more_than_the_memory_holds_goes_the_ordinary_way_and_more_than_a_frame_is_refused(stack: CryptoStack) -> None:
    name = slot(stack, "AES-256", P.ENCRYPT | P.DECRYPT)
    held = used_buffers(stack, name).allocator.allocate(15 * 1024 * 1024)
    data = bytes(2 * 1024 * 1024)
    assert stack.decrypt(name, GCM, stack.encrypt(name, GCM, data)) == data
    held.release()
    with pytest.raises(LimitError) as refusal:
        stack.encrypt(name, GCM, bytes(17 * 1024 * 1024))
    assert refusal.value.status is Status.DATA_TOO_LARGE


def used_buffers(stack: CryptoStack, name: str) -> SharedBuffers:
    stack.encrypt(name, GCM, LARGE)
    return buffers_of(stack)


def test_threads_share_the_memory_from_the_first_call_on(hsmbridge_lab: Lab) -> None:
    with hsmbridge_lab.stack() as stack:
        name = slot(stack, "AES-256", P.ENCRYPT | P.DECRYPT)
        stack.ping()
    failed: list[object] = []

    def work(stack: CryptoStack, number: int) -> None:
        data = bytes([number]) * (SHARED_FROM + number * 1000)
        opened = [stack.decrypt(name, GCM, stack.encrypt(name, GCM, data)) for _ in range(10)]
        if opened != [data] * 10 or stack.ping(b"x") != b"x":
            failed.append(number)

    for _ in range(5):
        with CryptoStack(hsmbridge_lab.socket) as stack:
            threads = [threading.Thread(target=work, args=(stack, number)) for number in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            shared = buffers_of(stack)
            assert shared.allocator.available == shared.allocator.size
    assert failed == []


def test_data_is_used_where_it_lies(stack: CryptoStack) -> None:
    name, auth = slot(stack, "AES-256", P.ENCRYPT | P.DECRYPT), slot(stack, "HMAC-SHA256", P.SIGN | P.VERIFY)
    with stack.allocate(len(LARGE)) as part:
        assert part.provider_compatible
        part.view[:] = LARGE
        assert stack.digest_in_place("SHA-256", part, len(LARGE)) == hashlib.sha256(LARGE).digest()
        assert stack.mac_in_place(auth, "HMAC-SHA256", part, 5) == stack.mac(auth, "HMAC-SHA256", LARGE[:5])
        sealed = stack.encrypt_in_place(name, GCM, part, len(LARGE), aad=b"aad")
        ciphertext = part.view.tobytes()
        assert (sealed.length, ciphertext != LARGE) == (len(LARGE), True)
        opened = {"nonce": sealed.nonce, "tag": sealed.tag, "version": sealed.version}
        with pytest.raises(DecryptionFailed):
            stack.decrypt_in_place(name, GCM, part, sealed.length, nonce=sealed.nonce, tag=sealed.tag)
        assert part.view == ciphertext, "nothing of a failed decryption is written"
        assert stack.decrypt(name, GCM, ciphertext, aad=b"aad", **opened) == LARGE  # type: ignore[arg-type]
        stack.decrypt_in_place(name, GCM, part, sealed.length, aad=b"aad", nonce=sealed.nonce, tag=sealed.tag)
        assert part.view == LARGE
    with pytest.raises(ConnectionLost):
        stack.digest_in_place("SHA-256", part, 1)


@pytest.mark.parametrize(
    ("key_type", "algorithm", "provider"),
    [
        ("AES-256", GCM, "software"),
        ("AES-256", GCM, "softhsm"),
        ("AES-256", "AES-256-CCM", "software"),
        ("ChaCha20", "ChaCha20-Poly1305", "software"),
    ],
)
@pytest.mark.parametrize("size", [0, 1, 70_000, 1_000_000])
def test_a_tag_lies_behind_its_ciphertext_or_comes_by_itself(
    stack: CryptoStack, key_type: str, algorithm: str, provider: str, size: int
) -> None:
    name, text = slot(stack, key_type, P.ENCRYPT | P.DECRYPT, provider, [algorithm]), os.urandom(size)
    sealed = stack.encrypt(name, algorithm, text, aad=b"aad")
    both = sealed.ciphertext + sealed.tag
    with stack.allocate(size + 50) as part:
        part.view[:] = both + b"." * 34
        for end in (15, size + 15, size + 17):
            with pytest.raises(DecryptionFailed):
                stack.decrypt_in_place(name, algorithm, part, end, nonce=sealed.nonce, aad=b"aad")
            assert part.view == both + b"." * 34
        opened = stack.decrypt_in_place(name, algorithm, part, size + 16, nonce=sealed.nonce, aad=b"aad")
        assert (opened.length, bytes(part.view)) == (size, text + sealed.tag + b"." * 34)
        part.view[:size] = sealed.ciphertext
        opened = stack.decrypt_in_place(name, algorithm, part, size, nonce=sealed.nonce, aad=b"aad", tag=sealed.tag)
        assert (opened.length, bytes(part.view)) == (size, text + sealed.tag + b"." * 34)


def test_a_cipher_without_a_tag_takes_all_of_its_data(stack: CryptoStack) -> None:
    name = slot(stack, "AES-256", P.ENCRYPT | P.DECRYPT, algorithms=["AES-256-CBC"])
    with stack.allocate(112) as part:
        part.view[:100] = LARGE[:100]
        sealed = stack.encrypt_in_place(name, "AES-256-CBC", part, 100)
        opened = stack.decrypt_in_place(name, "AES-256-CBC", part, sealed.length, nonce=sealed.nonce)
        assert (sealed.length, bytes(part.view[: opened.length])) == (112, LARGE[:100])


@pytest.mark.parametrize(
    ("key_type", "algorithm"),
    [("AES-256", GCM), ("AES-256", "AES-256-CCM"), ("ChaCha20", "ChaCha20-Poly1305")],
)
def test_who_changes_a_ciphertext_meanwhile_gets_a_change_of_his_own_or_nothing(
    stack: CryptoStack, key_type: str, algorithm: str
) -> None:
    name, text = slot(stack, key_type, P.ENCRYPT | P.DECRYPT, algorithms=[algorithm]), os.urandom(1 << 20)
    sealed = stack.encrypt(name, algorithm, text)
    whole = len(text)
    connection = stack._connection(5)
    with stack.allocate(whole + 16) as source, stack.allocate(whole) as target:
        buffers = buffers_of(stack)
        request = m.SharedDecryptRequest(
            connection.slots[name],
            algorithm,
            buffers.range(source, whole + 16),
            buffers.range(target, whole),
            nonce=sealed.nonce,
        )
        source.view[:] = sealed.ciphertext + sealed.tag
        place, right, done = whole * 3 // 4, sealed.ciphertext[whole * 3 // 4], threading.Event()

        def change() -> None:
            while not done.is_set():
                source.view[place] = right ^ 1
                source.view[place] = right

        changing = threading.Thread(target=change)
        changing.start()
        outcomes = {"refused": 0, "opened": 0}
        try:
            for _ in range(10_000):
                target.view[:] = bytes(whole)
                try:
                    ask(connection, request)
                except DecryptionFailed:
                    assert target.view == bytes(whole), "nothing of what was not verified is seen"
                    outcomes["refused"] += 1
                else:
                    got = target.view.tobytes()
                    assert (got[:place], got[place + 1 :]) == (text[:place], text[place + 1 :])
                    assert got[place] ^ text[place] in (0, 1)
                    outcomes["opened"] += 1
                if sum(outcomes.values()) >= 100 and all(outcomes.values()):
                    break
        finally:
            done.set()
            changing.join()
        assert all(outcomes.values()), outcomes


@pytest.mark.parametrize("provider", ["software", "softhsm"])
def test_many_messages_go_together(stack: CryptoStack, provider: str) -> None:
    name = slot(stack, "AES-256", P.ENCRYPT | P.DECRYPT, provider)
    texts = [os.urandom(size) for size in (0, 1, 1000, 70_000)] + [b"x" * size for size in range(30)]
    aads = [bytes([number]) for number in range(len(texts))]
    for associated in (aads, None):
        sealed = stack.encrypt_many(name, GCM, texts, aads=associated)
        assert stack.decrypt_many(name, GCM, sealed, aads=associated) == texts
        assert len({one.nonce for one in sealed}) == len(texts)
    with stack.allocate(200) as part:
        part.view[:3], part.view[100:105] = b"one", b"three"
        made = stack.encrypt_many_in_place(name, GCM, part, [(0, 3), (100, 5)], aads=[b"a", b"b"])
        for (start, end), aad, nonce, text in zip(
            ((0, 3), (100, 105)), (b"a", b"b"), made.nonces, (b"one", b"three"), strict=True
        ):
            tag = bytes(part.view[end : end + 16])
            assert stack.decrypt(name, GCM, bytes(part.view[start:end]), aad=aad, nonce=nonce, tag=tag) == text
    shared = buffers_of(stack)
    assert shared.allocator.available == shared.allocator.size


def test_what_an_older_version_encrypted_is_decrypted_in_place(stack: CryptoStack) -> None:
    name = slot(stack, "AES-256", P.ENCRYPT | P.DECRYPT | P.GENERATE)
    with stack.allocate(len(LARGE)) as part, stack.allocate(len(LARGE)) as other:
        part.view[:] = other.view[:] = LARGE
        older = stack.encrypt_in_place(name, GCM, part, len(LARGE))
        stack.rotate(name)
        newer = stack.encrypt_in_place(name, GCM, other, len(LARGE))
        assert (older.version, newer.version) == (1, 2)
        for where, made in ((other, newer), (part, older)):
            opened = stack.decrypt_in_place(name, GCM, where, len(LARGE), nonce=made.nonce, tag=made.tag)
            assert opened.version == made.version
            assert where.view == LARGE


def test_what_a_client_says_of_the_memory_is_not_believed(stack: CryptoStack) -> None:
    name = slot(stack, "AES-256", P.ENCRYPT | P.DECRYPT)
    size = used_buffers(stack, name).allocator.size
    connection = stack._connection(5)
    key = connection.slots[name]
    buffer = buffers_of(stack).range(buffers_of(stack).allocator.allocate(1), 1).buffer
    for offset, length in ((size, 1), (0, size + 1), (-1, 1), (2**63, 2**63), (1, 2**64 - 1), (0, -5)):
        bad = m.SharedRange(buffer, offset, length)
        for request in (
            m.SharedDigestRequest("SHA-256", bad),
            m.SharedEncryptRequest(key, GCM, bad, m.SharedRange(buffer, 0, 64)),
            m.SharedEncryptRequest(key, GCM, m.SharedRange(buffer, 0, 64), bad),
        ):
            with pytest.raises(HsmBridgeError) as refusal:
                ask(connection, request)
            assert refusal.value.status in (Status.INVALID_ARGUMENT, Status.MALFORMED_FRAME)
    assert stack.ping(b"alive") == b"alive"


def test_one_connection_does_not_reach_the_memory_of_another(hsmbridge_lab: Lab, stack: CryptoStack) -> None:
    name = slot(stack, "AES-256", P.ENCRYPT | P.DECRYPT)
    used_buffers(stack, name)
    mine = buffers_of(stack).range(buffers_of(stack).allocator.allocate(1), 1)
    other = Connection(hsmbridge_lab.socket, connect_timeout=5)
    try:
        ask(other, m.HelloRequest(1, 1, "test"))
        with pytest.raises(RequestError):
            ask(other, m.SharedDigestRequest("SHA-256", mine))
    finally:
        other.close()


def test_nothing_is_left_of_connections_that_ended(hsmbridge_lab: Lab) -> None:
    with hsmbridge_lab.stack() as stack:
        stack.ping()
        pid = stack.status().pid

        def held() -> tuple[int, int]:
            mapped = Path(f"/proc/{pid}/maps").read_text().count("hsmbridge-shared")
            return mapped, len(list(Path(f"/proc/{pid}/fd").iterdir()))

        before = held()
        for _ in range(20):
            connection = Connection(hsmbridge_lab.socket, connect_timeout=5)
            ask(connection, m.HelloRequest(1, 1, "test"))
            for _ in range(3):
                ask(connection, m.ShareMemoryRequest(1 << 20))
            connection.close()
        # Each ping is answered after the loop had its look at the ends of those connections.
        for _ in range(200):
            stack.ping()
            if held() == before:
                break
        assert held() == before
