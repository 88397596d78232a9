"""The short way: quick where everything is as it was, and never a use that the long way would refuse."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from hsmbridge.core import calls
from hsmbridge.core import messages as m
from hsmbridge.core.algorithms import Algorithm
from hsmbridge.core.calls import Encrypted
from hsmbridge.core.errors import DecryptionFailed, HsmBridgeError, ProviderError, Status
from hsmbridge.core.identifiers import CryptoResourceId, ResourceKind, parse_slot_name
from hsmbridge.core.operations import OPERATION_FOR, OPERATIONS
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.core.policy import NoncePolicy, Role
from hsmbridge.keys.access import SlotEntry
from hsmbridge.keys.slots import Slots
from hsmbridge.providers.software import SoftwareProvider
from hsmbridge.service.key_access import KeyAccess
from hsmbridge.service.shared_memory import SharedMemory
from hsmbridge.service.short_way import PLANS_MAX, Prepared
from hsmbridge.storage.records import SlotId
from hsmbridge.storage.store import Store
from tests.conformance.backends import AesGcmSeal
from tests.unit.service.served import Served
from tests.unit.storage.opened import ALICE, BOB, open_at

SEAL = AesGcmSeal(AESGCM.generate_key(128))
GCM = "AES-256-GCM"


class Quiet(Served):
    """A service whose audit wants no records of good uses: only then is there a short way."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.providers["plain"] = SoftwareProvider(SEAL)

    def wants(self, operation: str, status: Status) -> bool:
        return status is not Status.OK

    def restart_provider(self) -> None:
        self.providers["plain"] = SoftwareProvider(SEAL)

    def at_once(self, request: msgspec.Struct, principal: str = ALICE) -> msgspec.Struct | None:
        """What the short way answers; None where it leaves the request to the long way."""
        answer = self.dispatcher.at_once(self.session(principal), request)
        assert not isinstance(answer, Prepared)
        return answer


@dataclass(frozen=True)
class Use:
    """One kind of request that has a short way. `request` makes it, after what it needs was made the long way."""

    name: str
    key_type: str
    permissions: P
    request: Callable[[Quiet, CryptoResourceId, str], msgspec.Struct]
    reply: type[msgspec.Struct]

    def __str__(self) -> str:
        return self.name


def _decryption(service: Quiet, key: CryptoResourceId, principal: str) -> msgspec.Struct:
    made = service.ask(m.EncryptRequest(key, GCM, b"plaintext"), m.EncryptReply, principal)
    return m.DecryptRequest(key, GCM, made.ciphertext, b"", made.nonce, made.tag)


def _memory(service: Quiet, principal: str) -> SharedMemory:
    session = service.session(principal)
    if session.memory is None:
        session.memory, descriptor = SharedMemory.make(4096, 4096)
        os.close(descriptor)
    return session.memory


def _shared_encryption(service: Quiet, key: CryptoResourceId, principal: str) -> msgspec.Struct:
    memory = _memory(service, principal)
    return m.SharedEncryptRequest(
        key, GCM, m.SharedRange(memory.buffer, 0, 100), m.SharedRange(memory.buffer, 200, 100)
    )


def _shared_encryptions(service: Quiet, key: CryptoResourceId, principal: str) -> msgspec.Struct:
    memory = _memory(service, principal)
    return m.SharedEncryptManyRequest(key, GCM, m.SharedRange(memory.buffer, 0, 400), (0, 200), (100, 184))


PLACES = cycle(range(1000, 4000, 64))
"""In the shared memory, for a ciphertext with its tag each."""


def _shared_decryption(service: Quiet, key: CryptoResourceId, principal: str) -> msgspec.Struct:
    memory = _memory(service, principal)
    made = service.ask(m.EncryptRequest(key, GCM, b"plaintext"), m.EncryptReply, principal)
    source = m.SharedRange(memory.buffer, next(PLACES), len(made.ciphertext))
    memory.put(source, made.ciphertext)
    target = m.SharedRange(memory.buffer, 100, 100)
    return m.SharedDecryptRequest(key, GCM, source, target, b"", made.nonce, made.tag)


SECRET = P.ENCRYPT | P.DECRYPT | P.GENERATE
SIGN, MAC = P.SIGN | P.GENERATE, P.SIGN | P.VERIFY | P.GENERATE
USES = (
    Use("sign", "EC-P256", SIGN, lambda s, k, p: m.SignRequest(k, "ECDSA-P256-SHA256", b"message"), m.SignReply),
    Use(
        "sign-many",
        "EC-P256",
        SIGN,
        lambda s, k, p: m.SignManyRequest(k, "ECDSA-P256-SHA256", (b"one", b"two")),
        m.SignManyReply,
    ),
    Use("mac", "HMAC-SHA256", MAC, lambda s, k, p: m.MacRequest(k, "HMAC-SHA256", b"message"), m.MacReply),
    Use("shared-encrypt", "AES-256", SECRET, _shared_encryption, m.SharedEncryptReply),
    Use("shared-encrypt-many", "AES-256", SECRET, _shared_encryptions, m.SharedEncryptManyReply),
    Use("shared-decrypt", "AES-256", SECRET, _shared_decryption, m.SharedDecryptReply),
    Use("encrypt", "AES-256", SECRET, lambda s, k, p: m.EncryptRequest(k, GCM, b"plaintext"), m.EncryptReply),
    Use("decrypt", "AES-256", SECRET, _decryption, m.DecryptReply),
)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Quiet]:
    made = Quiet(tmp_path)
    yield made
    made.store.close()


@pytest.fixture
def elsewhere(service: Quiet, tmp_path: Path) -> Iterator[Slots]:
    """Another daemon process on the same store, of which this one knows by the change counter alone."""
    store = open_at(tmp_path, service.store.changes)
    yield Slots(store)
    store.close()


def planned(service: Quiet, use: Use, principal: str = ALICE) -> msgspec.Struct:
    """A request that the short way answers by a plan that it has kept."""
    if principal == ALICE:
        service.slot("web", use.key_type, use.permissions, "plain")
    key = service.id("uid-1000/web", principal)
    request = use.request(service, key, principal)
    service.ask(request, use.reply, principal)
    for _ in range(3):
        before = len(service.calls)
        assert isinstance(service.at_once(request, principal), use.reply)
        assert len(service.calls) == before + 1
    assert service.session(principal).plans
    return request


def refused(service: Quiet, request: msgspec.Struct, principal: str = ALICE) -> Status:
    """The status that a request is refused with, both ways, without a call to the provider."""
    before = len(service.calls)
    assert service.at_once(request, principal) is None
    with pytest.raises(HsmBridgeError) as refusal:
        service.ask(request, msgspec.Struct, principal)
    assert len(service.calls) == before
    assert service.audited[-1].status is refusal.value.status
    return refusal.value.status


def slot_id(store: Store) -> SlotId:
    record = store.find(parse_slot_name("uid-1000/web", ALICE))
    assert record is not None
    return record.id


each_use = pytest.mark.parametrize("use", USES, ids=str)


@each_use
def test_after_a_revocation_nothing_is_answered(service: Quiet, use: Use) -> None:
    request = planned(service, use)
    service.ask(m.SlotRevokeRequest("web"), m.SlotInfo)
    assert refused(service, request) is Status.KEY_STATE_FORBIDS


@each_use
def test_after_a_destruction_nothing_is_answered_nor_by_a_new_slot_of_that_name(service: Quiet, use: Use) -> None:
    request = planned(service, use)
    service.ask(m.SlotDestroyRequest("web"), m.Empty)
    assert refused(service, request) is Status.RESOURCE_NOT_FOUND
    service.slot("web", use.key_type, P.GENERATE, "plain")
    assert service.at_once(request) is None


@each_use
def test_after_an_ungrant_the_one_who_had_access_sees_no_slot_and_the_others_go_on(service: Quiet, use: Use) -> None:
    own = planned(service, use)
    service.ask(m.SlotGrantRequest("web", BOB, Role.USE, int(use.permissions)), m.SlotInfo)
    request = planned(service, use, BOB)
    service.ask(m.SlotUngrantRequest("web", BOB), m.SlotInfo)
    assert refused(service, request, BOB) is Status.RESOURCE_NOT_FOUND
    assert isinstance(service.at_once(own), use.reply)


@each_use
def test_a_grant_that_takes_a_permission_away_counts_at_once(service: Quiet, use: Use) -> None:
    planned(service, use)
    service.ask(m.SlotGrantRequest("web", BOB, Role.USE, int(use.permissions)), m.SlotInfo)
    request = planned(service, use, BOB)
    service.ask(m.SlotGrantRequest("web", BOB, Role.USE, int(P.GENERATE)), m.SlotInfo)
    assert refused(service, request, BOB) is Status.KEY_OPERATION_NOT_PERMITTED


@each_use
def test_after_a_rotation_the_new_version_serves(service: Quiet, use: Use) -> None:
    planned(service, use)
    service.ask(m.SlotRotateRequest("web"), m.SlotInfo)
    request = use.request(service, service.id("web"), ALICE)
    assert getattr(service.ask(request, use.reply), "version", None) == 2
    assert getattr(service.at_once(request), "version", None) == 2


def test_what_an_older_version_encrypted_is_decrypted_by_it_after_a_rotation(service: Quiet) -> None:
    request = planned(service, USES[-1])
    service.ask(m.SlotRotateRequest("web"), m.SlotInfo)
    # The new version cannot, so the short way leaves it alone.
    assert service.ask(request, m.DecryptReply).version == 1
    assert service.at_once(request) is None
    assert service.ask(request, m.DecryptReply) == m.DecryptReply(b"plaintext", 1)


@each_use
@pytest.mark.parametrize(
    ("change", "status"),
    [
        (lambda slots, id_: slots.revoke(id_, 0), Status.KEY_STATE_FORBIDS),
        (lambda slots, id_: slots.begin_destroy(id_, 0), Status.KEY_STATE_FORBIDS),
        (lambda slots, id_: slots.grant(id_, ALICE, Role.ADMINISTER, P.GENERATE), Status.KEY_OPERATION_NOT_PERMITTED),
    ],
    ids=["revoke", "destroy", "grant"],
)
def test_what_another_process_changes_counts_at_once(
    service: Quiet, elsewhere: Slots, use: Use, change: Callable[[Slots, SlotId], object], status: Status
) -> None:
    request = planned(service, use)
    change(elsewhere, slot_id(service.store))
    assert refused(service, request) is status


@each_use
def test_a_slot_read_anew_by_another_thread_while_the_plan_is_looked_at_is_not_used_by_the_old_plan(
    service: Quiet, elsewhere: Slots, use: Use, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = planned(service, use)
    elsewhere.revoke(slot_id(service.store), 0)
    as_ever = KeyAccess.is_current

    def with_another_thread(access: KeyAccess, entry: SlotEntry) -> bool:
        access._keys.refresh(entry)
        return as_ever(access, entry)

    monkeypatch.setattr(KeyAccess, "is_current", with_another_thread)
    before = len(service.calls)
    assert service.at_once(request) is None
    assert len(service.calls) == before


@each_use
def test_after_a_restart_of_the_provider_the_key_is_loaded_again(service: Quiet, use: Use) -> None:
    request = planned(service, use)
    service.restart_provider()
    assert service.at_once(request) is None
    assert isinstance(service.ask(request, use.reply), use.reply)
    assert isinstance(service.at_once(request), use.reply)


@each_use
def test_the_id_of_a_slot_is_no_id_of_a_key_and_means_nothing_on_another_connection(service: Quiet, use: Use) -> None:
    request = planned(service, use)
    id_ = service.id("web")
    another_kind = msgspec.structs.replace(request, key=CryptoResourceId(id_.number, ResourceKind.KEY))
    assert refused(service, another_kind) is Status.RESOURCE_NOT_FOUND
    assert refused(service, request, BOB) is Status.RESOURCE_NOT_FOUND


@each_use
def test_an_algorithm_that_does_not_fit_goes_the_long_way_to_its_refusal(service: Quiet, use: Use) -> None:
    request = planned(service, use)
    for algorithm in ("RSA-PSS-SHA256", "AES-256-CBC", "HMAC-SHA384", "no such algorithm"):
        assert refused(service, msgspec.structs.replace(request, algorithm=algorithm)) is not Status.OK


def test_a_failure_of_the_provider_is_left_to_the_long_way(service: Quiet) -> None:
    request = planned(service, USES[0])
    service.failures[calls.SignCall] = ProviderError(Status.PROVIDER_FAILED)
    assert service.at_once(request) is None
    assert isinstance(service.ask(request, m.SignReply), m.SignReply)


def test_a_ciphertext_that_was_tampered_with_is_refused(service: Quiet) -> None:
    request = planned(service, USES[-1])
    assert isinstance(request, m.DecryptRequest)
    forged = msgspec.structs.replace(request, tag=bytes(len(request.tag)))
    assert service.at_once(forged) is None
    with pytest.raises(HsmBridgeError) as refusal:
        service.ask(forged, m.DecryptReply)
    assert refusal.value.status is Status.DECRYPTION_FAILED


def test_no_nonce_is_used_twice_whichever_way_was_taken(service: Quiet) -> None:
    request = planned(service, USES[-2])
    nonces = set()
    for number in range(1500):
        answer = None if number % 3 == 0 else service.at_once(request)
        reply = service.ask(request, m.EncryptReply) if answer is None else answer
        assert isinstance(reply, m.EncryptReply)
        nonces.add(reply.nonce)
    assert len(nonces) == 1500


def test_nonces_of_the_caller_are_never_taken_on_the_short_way(service: Quiet) -> None:
    service.slot("web", "AES-256", SECRET, "plain", nonce_policy=NoncePolicy.CALLER)
    for number in range(3):
        request = m.EncryptRequest(service.id("web"), GCM, b"plaintext", b"", number.to_bytes(12, "big"))
        assert service.at_once(request) is None
        assert service.ask(request, m.EncryptReply).nonce == request.nonce
        assert refused(service, request) is Status.NONCE_REUSED


def test_a_session_keeps_a_bounded_number_of_plans(service: Quiet) -> None:
    request = planned(service, USES[0])
    plans = service.session().plans
    plan = next(iter(plans.values()))
    plans.update({(m.SignRequest, number, "other", 0): plan for number in range(PLANS_MAX)})
    service.ask(m.SlotRotateRequest("web"), m.SlotInfo)
    service.ask(request, m.SignReply)
    assert isinstance(service.at_once(request), m.SignReply)
    assert len(plans) <= PLANS_MAX


def test_where_every_use_is_audited_nothing_goes_the_short_way(tmp_path: Path) -> None:
    service = Served(tmp_path)
    service.slot("web", "EC-P256", SIGN, "plain")
    request = m.SignRequest(service.id("web"), "ECDSA-P256-SHA256", b"message")
    for _ in range(3):
        service.ask(request, m.SignReply)
        assert service.dispatcher.at_once(service.session(), request) is None
    assert [record.operation for record in service.audited[-3:]] == ["sign"] * 3
    service.store.close()


def test_what_has_a_short_way_is_tried_here(service: Quiet) -> None:
    # A new one has to be added to the table above.
    tried = {use.name for use in USES}
    known = {row.name for row in OPERATIONS.values() if row.request in service.dispatcher._short_way._answers}
    assert known == tried


def test_a_bad_range_of_shared_memory_is_refused_both_ways_and_spends_no_call(service: Quiet) -> None:
    service.slot("web", "AES-256", SECRET, "plain")
    key = service.id("web")
    service.ask(_shared_encryption(service, key, ALICE), m.SharedEncryptReply)
    buffer = _memory(service, ALICE).buffer
    good, bad = m.SharedRange(buffer, 0, 100), m.SharedRange(buffer, 4000, 100)
    for source, target in ((bad, good), (good, bad), (good, m.SharedRange(buffer, 0, 99))):
        encryption = m.SharedEncryptRequest(key, GCM, source, target)
        assert refused(service, encryption) is Status.INVALID_ARGUMENT
    decryption = m.SharedDecryptRequest(key, GCM, bad, good, b"", bytes(12), bytes(16))
    assert refused(service, decryption) is Status.INVALID_ARGUMENT


@pytest.mark.parametrize("longer", [-1, 0, 1])
def test_a_token_whose_ciphertext_has_another_length_harms_nobody(
    service: Quiet, monkeypatch: pytest.MonkeyPatch, longer: int
) -> None:
    service.slot("web", "AES-256", SECRET, "plain")
    key, memory = service.id("web"), _memory(service, ALICE)
    service.ask(_shared_encryption(service, key, ALICE), m.SharedEncryptReply)
    plain, real = service.providers["plain"], service.providers["plain"].encrypt

    def encrypt(handle: int, row: Algorithm, nonce: bytes, plaintext: bytes, aad: bytes) -> Encrypted:
        made = real(handle, row, nonce, plaintext, aad)
        return Encrypted(made.nonce, (made.ciphertext + b"more")[: len(plaintext) + longer], made.tag)

    monkeypatch.setattr(plain, "encrypt", encrypt)
    lane = service.dispatcher._short_way._lanes.lane("plain")
    monkeypatch.setattr(lane, "local", False)  # as a token in its own process
    monkeypatch.setattr(lane, "inline", lambda _: False)
    session, request = service.session(), _shared_encryption(service, key, ALICE)
    prepared = service.dispatcher.at_once(session, request)
    assert isinstance(prepared, Prepared)
    behind = m.SharedRange(memory.buffer, 300, 100)
    memory.put(behind, b"b" * 100)
    outcomes: list[tuple[msgspec.Struct | None, HsmBridgeError | None]] = []
    service.dispatcher.dispatch(
        session, OPERATION_FOR[type(request)], request, None, lambda *outcome: outcomes.append(outcome), prepared
    )
    ((reply, failure),) = outcomes
    if longer > 0:
        assert failure is not None
    else:
        assert isinstance(reply, m.SharedEncryptReply)
        assert reply.length == 100 + longer
    assert memory.copy(behind) == b"b" * 100


@pytest.mark.parametrize("target", [0, 1, 16, 100, 1999, 2000, 2001])
def test_a_ciphertext_may_lie_across_its_plaintext(service: Quiet, target: int) -> None:
    service.slot("web", "AES-256", SECRET, "plain")
    key, memory = service.id("web"), _memory(service, ALICE)
    service.ask(_shared_encryption(service, key, ALICE), m.SharedEncryptReply)
    text = bytes(range(200)) * 5
    for source in (0, 100, 1000):
        memory.put(m.SharedRange(memory.buffer, source, 1000), text)
        where = m.SharedRange(memory.buffer, target, 1016)
        encryption = m.SharedEncryptRequest(key, GCM, m.SharedRange(memory.buffer, source, 1000), where)
        made = service.at_once(encryption) or service.ask(encryption, m.SharedEncryptReply)
        assert isinstance(made, m.SharedEncryptReply)
        ciphertext = memory.copy(m.SharedRange(memory.buffer, target, 1000))
        opened = service.ask(m.DecryptRequest(key, GCM, ciphertext, b"", made.nonce, made.tag), m.DecryptReply)
        assert opened.plaintext == text


@pytest.mark.parametrize(
    ("offsets", "lengths", "aads"),
    [
        ((0,), (385,), ()),  # no room for its tag
        ((0,), (401,), ()),
        ((401,), (0,), ()),
        ((-20,), (4,), ()),
        ((100,), (-16,), ()),
        ((2**63,), (2**64 - 2**63,), ()),
        ((0, 100), (10,), ()),
        ((0, 100), (10, 10), (b"one",)),
        ((0, 100, 399), (10, 10, 10), ()),
    ],
)
def test_messages_that_are_not_inside_are_refused_both_ways_and_none_is_encrypted(
    service: Quiet, offsets: tuple[int, ...], lengths: tuple[int, ...], aads: tuple[bytes, ...]
) -> None:
    service.slot("web", "AES-256", SECRET, "plain")
    key, memory = service.id("web"), _memory(service, ALICE)
    service.ask(_shared_encryptions(service, key, ALICE), m.SharedEncryptManyReply)
    before = memory.copy(m.SharedRange(memory.buffer, 0, 4096))
    request = m.SharedEncryptManyRequest(key, GCM, m.SharedRange(memory.buffer, 0, 400), offsets, lengths, aads)
    assert refused(service, request) is Status.INVALID_ARGUMENT
    assert memory.copy(m.SharedRange(memory.buffer, 0, 4096)) == before


def test_many_messages_are_encrypted_in_both_ways_alike(service: Quiet) -> None:
    service.slot("web", "AES-256", SECRET, "plain")
    key, memory = service.id("web"), _memory(service, ALICE)
    texts, aads, nonces = (b"one", b"", b"three" * 30), (b"a", b"b", b"c"), set()
    offsets, lengths = (0, 100, 200), tuple(map(len, texts))
    request = m.SharedEncryptManyRequest(key, GCM, m.SharedRange(memory.buffer, 50, 500), offsets, lengths, aads)
    for at_once in (False, True):
        for offset, text in zip(offsets, texts, strict=True):
            memory.put(m.SharedRange(memory.buffer, 50 + offset, len(text)), text)
        reply = service.at_once(request) if at_once else service.ask(request, m.SharedEncryptManyReply)
        assert isinstance(reply, m.SharedEncryptManyReply)
        nonces |= {*reply.nonces}
        for offset, text, aad, nonce in zip(offsets, texts, aads, reply.nonces, strict=True):
            sealed = memory.copy(m.SharedRange(memory.buffer, 50 + offset, len(text) + 16))
            opened = m.DecryptRequest(key, GCM, sealed[:-16], aad, nonce, sealed[-16:])
            assert service.ask(opened, m.DecryptReply).plaintext == text
    assert len(nonces) == 6


def _tag_apart(service: Quiet) -> m.SharedDecryptRequest:
    """A request with a plan, which has the tag itself."""
    request = planned(service, next(use for use in USES if use.name == "shared-decrypt"))
    assert isinstance(request, m.SharedDecryptRequest)
    return request


def test_with_its_tag_apart_what_is_decrypted_is_what_was_verified(
    service: Quiet, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = _tag_apart(service)
    memory = _memory(service, ALICE)
    as_ever = SoftwareProvider.decrypt_into
    target = memory.view(request.target)
    seen: list[bytes] = []

    def meddled(provider: SoftwareProvider, *arguments: Any) -> int:
        memory.put(request.source, b"\xee" * request.source.length)
        target[:] = b"\xee" * len(target)
        written = as_ever(provider, *arguments)
        seen.append(bytes(target))
        return written

    monkeypatch.setattr(SoftwareProvider, "decrypt_into", meddled)
    reply = service.at_once(request)
    assert isinstance(reply, m.SharedDecryptReply)
    assert seen == [b"\xee" * len(target)], "the plaintext is nowhere before the tag is verified"
    assert memory.copy(request.target)[: reply.length] == b"plaintext"


def _tag_behind(service: Quiet) -> m.SharedDecryptRequest:
    """A request with a plan, whose tag lies behind its ciphertext."""
    request = _tag_apart(service)
    memory, source = _memory(service, ALICE), request.source
    memory.put(m.SharedRange(memory.buffer, source.offset + source.length, 16), request.tag)
    both = m.SharedRange(memory.buffer, source.offset, source.length + 16)
    return msgspec.structs.replace(request, source=both, tag=b"")


def test_a_tag_may_lie_behind_its_ciphertext(service: Quiet) -> None:
    request, memory = _tag_behind(service), _memory(service, ALICE)
    for target in (request.target, request.source, m.SharedRange(memory.buffer, request.source.offset + 5, 9)):
        sealed = memory.copy(request.source)
        moved = msgspec.structs.replace(request, target=target)
        reply = service.at_once(moved)
        assert isinstance(reply, m.SharedDecryptReply)
        assert (reply.length, memory.copy(target)[:9]) == (9, b"plaintext")
        memory.put(request.source, sealed)
        assert service.ask(moved, m.SharedDecryptReply) == reply
        assert memory.copy(target)[:9] == b"plaintext"
        memory.put(request.source, sealed)


def test_a_plaintext_that_its_target_has_no_room_for_is_refused_both_ways(service: Quiet) -> None:
    request = _tag_behind(service)
    short = msgspec.structs.replace(request, target=msgspec.structs.replace(request.target, length=8))
    assert refused(service, short) is Status.INVALID_ARGUMENT


def test_of_a_ciphertext_that_is_changed_before_it_is_read_nothing_is_seen(
    service: Quiet, monkeypatch: pytest.MonkeyPatch
) -> None:
    request, memory = _tag_behind(service), _memory(service, ALICE)
    memory.put(request.target, b"untouched " * 10)
    as_ever = SoftwareProvider.decrypt_into

    def meddled(provider: SoftwareProvider, *arguments: Any) -> int:
        memory.put(m.SharedRange(memory.buffer, request.source.offset, 1), b"\xee")
        return as_ever(provider, *arguments)

    monkeypatch.setattr(SoftwareProvider, "decrypt_into", meddled)
    assert service.at_once(request) is None
    assert memory.copy(request.target) == b"untouched " * 10


def test_what_was_verified_in_place_is_not_read_again(service: Quiet, monkeypatch: pytest.MonkeyPatch) -> None:
    request, memory = _tag_behind(service), _memory(service, ALICE)
    as_ever = SoftwareProvider.decrypt_into

    def meddled(provider: SoftwareProvider, *arguments: Any) -> int:
        written = as_ever(provider, *arguments)
        memory.put(request.source, b"\xee" * request.source.length)
        return written

    monkeypatch.setattr(SoftwareProvider, "decrypt_into", meddled)
    reply = service.at_once(request)
    assert isinstance(reply, m.SharedDecryptReply)
    assert memory.copy(request.target)[: reply.length] == b"plaintext"


def _nothing_is_seen(service: Quiet, forgeries: list[m.SharedDecryptRequest]) -> None:
    memory = _memory(service, ALICE)
    for forged in forgeries:
        memory.put(forged.target, b"untouched " * 10)
        assert service.at_once(forged) is None
        with pytest.raises(HsmBridgeError) as refusal:
            service.ask(forged, m.SharedDecryptReply)
        assert refusal.value.status is Status.DECRYPTION_FAILED
        assert memory.copy(forged.target) == b"untouched " * 10


def test_nothing_of_a_forgery_is_seen_on_the_short_way(service: Quiet) -> None:
    request = _tag_apart(service)
    tags = [bytes(size) for size in (1, 15, 16, 17, 32)]
    _nothing_is_seen(service, [msgspec.structs.replace(request, tag=tag) for tag in (request.tag[:-1], *tags)])


def test_nothing_of_a_forgery_with_its_tag_behind_it_is_seen(service: Quiet) -> None:
    memory, request = _memory(service, ALICE), _tag_behind(service)
    begin = request.source.offset
    ranges = [m.SharedRange(memory.buffer, begin, size) for size in (*range(25), 26)]
    _nothing_is_seen(service, [msgspec.structs.replace(request, source=source) for source in ranges])
    last = m.SharedRange(memory.buffer, begin + 24, 1)
    memory.put(last, bytes([memory.copy(last)[0] ^ 1]))
    _nothing_is_seen(service, [request])


DECRYPTIONS = pytest.mark.parametrize("use", [use for use in USES if "decrypt" in use.name], ids=str)


@DECRYPTIONS
def test_the_version_that_is_named_decrypts_and_no_other(service: Quiet, use: Use) -> None:
    older = planned(service, use)
    service.ask(m.SlotRotateRequest("web"), m.SlotInfo)
    newer = use.request(service, service.id("web"), ALICE)
    service.ask(newer, use.reply)
    assert service.at_once(newer) is not None, "where none is named there is a plan with the newer one"
    for version, request in ((1, older), (2, newer)):
        reply = service.ask(msgspec.structs.replace(request, version=version), use.reply)
        assert isinstance(reply, m.DecryptReply | m.SharedDecryptReply)
        assert reply.version == version
        assert service.at_once(msgspec.structs.replace(request, version=version)) == reply
        other = msgspec.structs.replace(request, version=3 - version)
        assert service.at_once(other) is None
        with pytest.raises(DecryptionFailed):
            service.ask(other, use.reply)
        assert refused(service, msgspec.structs.replace(request, version=3)) is Status.RESOURCE_NOT_FOUND


@DECRYPTIONS
def test_associated_data_count_on_the_short_way(service: Quiet, use: Use) -> None:
    request = planned(service, use)
    assert isinstance(request, m.DecryptRequest | m.SharedDecryptRequest)
    other = msgspec.structs.replace(request, aad=b"of something else")
    assert service.at_once(other) is None
    with pytest.raises(DecryptionFailed):
        service.ask(other, use.reply)
    made = service.ask(m.EncryptRequest(request.key, GCM, b"plaintext", b"aad"), m.EncryptReply)
    given = msgspec.structs.replace(request, aad=b"aad", nonce=made.nonce, tag=made.tag)
    if isinstance(given, m.SharedDecryptRequest):
        _memory(service, ALICE).put(given.source, made.ciphertext)
    else:
        given = msgspec.structs.replace(given, ciphertext=made.ciphertext)
    assert isinstance(service.at_once(given), use.reply)


def test_decryptions_under_way_together_have_memory_of_their_own(
    service: Quiet, monkeypatch: pytest.MonkeyPatch
) -> None:
    _tag_apart(service)
    key, memory = service.id("web"), _memory(service, ALICE)
    lane = service.dispatcher._short_way._lanes.lane("plain")
    monkeypatch.setattr(lane, "inline", lambda _: False)
    for turn in range(3):
        under_way = []
        for number in range(4):
            text = bytes([16 * turn + number]) * 100
            made = service.ask(m.EncryptRequest(key, GCM, text), m.EncryptReply)
            source, target = (m.SharedRange(memory.buffer, at + 200 * number, 100) for at in (0, 1000))
            memory.put(source, made.ciphertext)
            request = m.SharedDecryptRequest(key, GCM, source, target, b"", made.nonce, made.tag)
            prepared = service.dispatcher.at_once(service.session(), request)
            assert isinstance(prepared, Prepared)
            under_way.append((prepared, target, text))
        made_by_all = [lane.perform(prepared.call) for prepared, _, _ in under_way]
        for (prepared, target, text), written in zip(under_way, made_by_all, strict=True):
            prepared.reply(written)
            assert memory.copy(target) == text


@DECRYPTIONS
def test_a_named_version_serves_no_more_after_its_revocation(service: Quiet, use: Use) -> None:
    request = msgspec.structs.replace(planned(service, use), version=1)
    assert isinstance(service.at_once(request), use.reply)
    service.ask(m.SlotRevokeRequest("web"), m.SlotInfo)
    assert refused(service, request) is Status.KEY_STATE_FORBIDS
