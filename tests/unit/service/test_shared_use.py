"""Shared memory: what the client says of it is not believed, and what it changes meanwhile changes nothing."""

import contextlib
import fcntl
import hashlib
import hmac
import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from hsmbridge.core import calls
from hsmbridge.core import messages as m
from hsmbridge.core.algorithms import Algorithm
from hsmbridge.core.errors import HsmBridgeError, LimitError, RequestError, Status
from hsmbridge.core.params import ImportKeyParams, SignatureParameters
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.providers.software import SoftwareProvider
from hsmbridge.service.shared_memory import SharedMemory
from tests.conformance.backends import AesGcmSeal
from tests.unit.service.served import Served, served
from tests.unit.storage.opened import BOB

SIZE = 4096
GCM = "AES-256-GCM"


class Meddler(SoftwareProvider):
    """Software during whose calls somebody writes to the shared memory."""

    def __init__(self) -> None:
        super().__init__(AesGcmSeal(AESGCM.generate_key(128)))
        self.memory: SharedMemory | None = None

    def meddle(self) -> None:
        if self.memory is not None:
            self.memory.put(m.SharedRange(self.memory.buffer, 0, SIZE), b"\xee" * SIZE)

    def sign(self, handle: int, algorithm: Algorithm, message: bytes, parameters: SignatureParameters) -> bytes:
        self.meddle()
        return super().sign(handle, algorithm, message, parameters)

    def decrypt(
        self, handle: int, algorithm: Algorithm, nonce: bytes, ciphertext: bytes, aad: bytes, tag: bytes
    ) -> bytes:
        self.meddle()
        return super().decrypt(handle, algorithm, nonce, ciphertext, aad, tag)


@pytest.fixture
def memory(service: Served) -> SharedMemory:
    made, descriptor = SharedMemory.make(SIZE, SIZE)
    os.close(descriptor)
    service.session().memory = made
    service.slot("aes", "AES-256", P.ENCRYPT | P.DECRYPT)
    return made


def at(memory: SharedMemory, offset: int, length: int) -> m.SharedRange:
    return m.SharedRange(memory.buffer, offset, length)


def refused(service: Served, request: object, status: Status = Status.INVALID_ARGUMENT) -> None:
    with pytest.raises(HsmBridgeError) as refusal:
        service.ask(request, m.Empty)  # type: ignore[arg-type]
    assert refusal.value.status is status


# The memory itself


def test_its_size_is_sealed() -> None:
    _, descriptor = SharedMemory.make(SIZE, SIZE)
    for size in (0, SIZE - 1, SIZE + 1):
        with pytest.raises(PermissionError):
            os.ftruncate(descriptor, size)
    with pytest.raises(PermissionError):
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    os.close(descriptor)


@pytest.mark.parametrize(("size", "kind"), [(0, RequestError), (-1, RequestError), (SIZE + 1, LimitError)])
def test_how_much_is_bounded(size: int, kind: type[HsmBridgeError]) -> None:
    with pytest.raises(kind):
        SharedMemory.make(size, SIZE)


_numbers = st.integers(-(2**63), 2**64) | st.integers(-2, SIZE + 2)


@settings(max_examples=300)
@given(_numbers, _numbers)
def test_a_range_is_inside_or_refused(offset: int, length: int) -> None:
    memory, descriptor = SharedMemory.make(SIZE, SIZE)
    os.close(descriptor)
    inside = 0 <= offset <= SIZE and length >= 0 and offset + length <= SIZE
    try:
        assert len(memory.view(at(memory, offset, length))) == length
        assert inside
    except RequestError:
        assert not inside
    with pytest.raises(RequestError):
        memory.view(m.SharedRange(memory.buffer ^ 1, 0, 1))


def test_the_mapping_goes_with_its_last_view() -> None:
    def mapped() -> int:
        return Path("/proc/self/maps").read_text().count("hsmbridge-shared")

    before = mapped()
    memory, descriptor = SharedMemory.make(SIZE, SIZE)
    os.close(descriptor)
    view = memory.view(at(memory, 0, 10))
    del memory
    assert mapped() == before + 1
    view.release()
    del view
    assert mapped() == before


# Operations


def test_what_goes_in_comes_out(service: Served, memory: SharedMemory) -> None:
    text = b"Dear daemon, " * 20
    memory.put(at(memory, 64, SIZE - 64), text)
    source, target = at(memory, 64, len(text)), at(memory, 64, len(text))
    digest = service.ask(m.SharedDigestRequest("SHA-256", source), m.DigestReply)
    assert digest.digest == hashlib.sha256(text).digest()
    key = service.id("aes")
    sealed = service.ask(m.SharedEncryptRequest(key, GCM, source, target, b"aad"), m.SharedEncryptReply)
    ciphertext = memory.copy(target)
    assert (sealed.length, ciphertext != text) == (len(text), True)
    plain = service.ask(m.DecryptRequest(key, GCM, ciphertext, b"aad", sealed.nonce, sealed.tag), m.DecryptReply)
    assert plain.plaintext == text
    opened = service.ask(
        m.SharedDecryptRequest(key, GCM, target, at(memory, 1024, 1000), b"aad", sealed.nonce, sealed.tag),
        m.SharedDecryptReply,
    )
    assert memory.copy(at(memory, 1024, opened.length)) == text
    memory.put(at(memory, 64 + len(text), 16), sealed.tag)
    both = at(memory, 64, len(text) + 16)
    opened = service.ask(
        m.SharedDecryptRequest(key, GCM, both, at(memory, 2048, 1000), b"aad", sealed.nonce), m.SharedDecryptReply
    )
    assert memory.copy(at(memory, 2048, opened.length)) == text


def test_a_block_cipher_pads_into_a_longer_target(service: Served, memory: SharedMemory) -> None:
    memory.put(at(memory, 0, 100), b"x" * 100)
    service.slot("cbc", "AES-256", P.ENCRYPT | P.DECRYPT, algorithms=("AES-256-CBC",))
    key = service.id("cbc")
    request = m.SharedEncryptRequest(key, "AES-256-CBC", at(memory, 0, 100), at(memory, 0, 112))
    sealed = service.ask(request, m.SharedEncryptReply)
    opened = service.ask(
        m.SharedDecryptRequest(key, "AES-256-CBC", at(memory, 0, sealed.length), at(memory, 0, 100), b"", sealed.nonce),
        m.SharedDecryptReply,
    )
    assert memory.copy(at(memory, 0, opened.length)) == b"x" * 100


def test_without_memory_there_is_nothing_to_name(service: Served) -> None:
    refused(service, m.SharedDigestRequest("SHA-256", m.SharedRange(0, 0, 1)))


def test_a_range_outside_is_refused_before_any_provider_is_called(service: Served, memory: SharedMemory) -> None:
    key = service.id("aes")
    good = at(memory, 0, 16)
    calls_before = len(service.calls)
    for bad in (at(memory, SIZE, 1), at(memory, 0, SIZE + 1), at(memory, -1, 2), at(memory, 2**63, 2**63),
                at(memory, SIZE - 1, 2**64 - SIZE + 1), m.SharedRange(memory.buffer ^ 1, 0, 1)):  # fmt: skip
        refused(service, m.SharedDigestRequest("SHA-256", bad))
        refused(service, m.SharedEncryptRequest(key, GCM, bad, good))
        refused(service, m.SharedEncryptRequest(key, GCM, good, bad))
        refused(service, m.SharedDecryptRequest(key, GCM, bad, good, b"", bytes(12), bytes(16)))
        refused(service, m.SharedDecryptRequest(key, GCM, good, bad, b"", bytes(12), bytes(16)))
    refused(service, m.SharedEncryptRequest(key, GCM, good, at(memory, 0, 15)))
    assert len(service.calls) == calls_before


def test_the_memory_of_one_connection_is_not_anothers(service: Served, memory: SharedMemory) -> None:
    theirs, descriptor = SharedMemory.make(SIZE, SIZE)
    os.close(descriptor)
    service.session(BOB).memory = theirs
    with pytest.raises(RequestError):
        service.ask(m.SharedDigestRequest("SHA-256", at(memory, 0, 1)), m.DigestReply, BOB)


def test_nothing_of_a_forged_message_reaches_the_target(service: Served, memory: SharedMemory) -> None:
    key = service.id("aes")
    memory.put(at(memory, 0, 100), b"p" * 100)
    whole = at(memory, 0, 100)
    sealed = service.ask(m.SharedEncryptRequest(key, GCM, whole, whole), m.SharedEncryptReply)
    target = at(memory, 500, 100)
    memory.put(target, b"untouched " * 10)
    forged = bytes([sealed.tag[0] ^ 1]) + sealed.tag[1:]
    request = m.SharedDecryptRequest(key, GCM, whole, target, b"", sealed.nonce, forged)
    refused(service, request, Status.DECRYPTION_FAILED)
    assert memory.copy(target) == b"untouched " * 10


def test_permissions_hold_as_ever(service: Served, memory: SharedMemory) -> None:
    service.slot("only", "AES-256", P.ENCRYPT)
    key, part = service.id("only"), at(memory, 0, 16)
    request = m.SharedDecryptRequest(key, GCM, part, part, b"", bytes(12), bytes(16))
    refused(service, request, Status.KEY_OPERATION_NOT_PERMITTED)
    assert not any(isinstance(call, calls.DecryptCall) for _, call in service.calls)


def test_a_change_meanwhile_does_not_change_what_was_authenticated(tmp_path: Path) -> None:
    with served(tmp_path) as service:
        service.providers["plain"] = meddler = Meddler()
        secret = bytes(range(32))
        memory, descriptor = SharedMemory.make(SIZE, SIZE)
        os.close(descriptor)
        service.session().memory = memory
        message = b"pay 10 to Alice"
        memory.put(at(memory, 0, SIZE), message)
        made = service.ask(m.ImportRequest(_import_params(), secret, provider="plain"), m.KeyReply).resource
        assert made is not None
        meddler.memory = memory
        reply = service.ask(m.SharedMacRequest(made, "HMAC-SHA256", at(memory, 0, len(message))), m.MacReply)
        assert memory.copy(at(memory, 0, 4)) == b"\xee" * 4, "somebody did write"
        assert hmac.compare_digest(reply.mac, hmac.digest(secret, message, "sha256"))


@pytest.mark.parametrize("behind", [False, True])
def test_a_change_meanwhile_does_not_change_what_is_decrypted(tmp_path: Path, behind: bool) -> None:
    with served(tmp_path) as service:
        service.providers["plain"] = meddler = Meddler()
        service.slot("aes", "AES-256", P.ENCRYPT | P.DECRYPT, "plain")
        key = service.id("aes")
        memory, descriptor = SharedMemory.make(SIZE, SIZE)
        os.close(descriptor)
        service.session().memory = memory
        sealed = service.ask(m.EncryptRequest(key, GCM, b"a secret"), m.EncryptReply)
        memory.put(at(memory, 0, 24), sealed.ciphertext + sealed.tag)
        meddler.memory = memory
        source, apart = (at(memory, 0, 24), b"") if behind else (at(memory, 0, 8), sealed.tag)
        opened = service.ask(
            m.SharedDecryptRequest(key, GCM, source, at(memory, 32, 8), b"", sealed.nonce, apart), m.SharedDecryptReply
        )
        assert memory.copy(at(memory, 32, opened.length)) == b"a secret"


def _import_params() -> ImportKeyParams:
    return ImportKeyParams(key_type="HMAC-SHA256", permissions=int(P.SIGN | P.VERIFY), format="raw")


def test_any_ranges_never_crash_the_service(service: Served, memory: SharedMemory) -> None:
    key = service.id("aes")

    @settings(max_examples=100, deadline=None)
    @given(_numbers, _numbers, _numbers, _numbers, st.sampled_from([0, 15, 16, 17]))
    def ask(offset: int, length: int, target: int, room: int, tag: int) -> None:
        source, into = at(memory, offset, length), at(memory, target, room)
        with contextlib.suppress(HsmBridgeError):
            service.ask(m.SharedEncryptRequest(key, GCM, source, into), m.SharedEncryptReply)
        forged = m.SharedDecryptRequest(key, GCM, source, into, b"", bytes(12), bytes(tag))
        with pytest.raises(HsmBridgeError):
            service.ask(forged, m.SharedDecryptReply)

    ask()


def test_a_tag_behind_its_ciphertext_and_one_apart_are_the_same(service: Served, memory: SharedMemory) -> None:
    key = service.id("aes")

    @settings(max_examples=100, deadline=None)
    @given(st.binary(max_size=1000), st.binary(max_size=20), st.integers(0, 1100), st.integers(0, 1100), st.booleans())
    def both(text: bytes, aad: bytes, source: int, room: int, forged: bool) -> None:
        made = service.ask(m.EncryptRequest(key, GCM, text, aad), m.EncryptReply)
        tag = bytes(16) if forged else made.tag
        answers = []
        for behind in (False, True):
            memory.put(at(memory, 0, SIZE), bytes(SIZE))
            memory.put(at(memory, source, len(text) + 16), made.ciphertext + tag)
            where, apart = at(memory, source, len(text) + 16 * behind), b"" if behind else tag
            request = m.SharedDecryptRequest(key, GCM, where, at(memory, 1500, room), aad, made.nonce, apart)
            try:
                answer: object = service.ask(request, m.SharedDecryptReply)
            except HsmBridgeError as refusal:
                answer = refusal.status
            answers.append((answer, memory.copy(at(memory, 0, SIZE))))
        assert answers[0] == answers[1]

    both()
