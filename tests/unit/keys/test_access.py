"""THE check: first who, then what, all of it before a provider could be called."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest

from hsmbridge.core.algorithms import ALGORITHMS, Algorithm, algorithm
from hsmbridge.core.errors import AccessError, HsmBridgeError, Status, StoreError
from hsmbridge.core.identifiers import QualifiedName
from hsmbridge.core.lifecycle import USABLE, KeyVersionState
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.core.policy import Role
from hsmbridge.keys import access
from hsmbridge.keys.access import SlotEntry, SlotKeys, acquire, candidates
from hsmbridge.keys.slots import Slots
from hsmbridge.storage.changes import ChangeCounter, SharedCounters
from hsmbridge.storage.records import SlotRecord
from hsmbridge.storage.store import Store
from tests.unit.storage.opened import (
    ALICE,
    BOB,
    SIGNING,
    behind_its_back,
    create,
    destroy,
    name_of,
    new_slot,
    new_version,
    open_at,
    rotate,
)

ECDSA = algorithm("ECDSA-P256-SHA256")
CAROL = "uid:1002"


@pytest.fixture
def keys(store: Store) -> SlotKeys:
    return SlotKeys(store)


def current(keys: SlotKeys, name: str | QualifiedName = "web") -> SlotEntry:
    entry = keys.entry(name if isinstance(name, QualifiedName) else name_of(name))
    keys.refresh(entry)
    return entry


def refused(
    entry: SlotEntry, principal: str, permission: P, row: Algorithm | None = ECDSA, version: int = 0
) -> HsmBridgeError:
    with pytest.raises(HsmBridgeError) as one:
        acquire(entry, principal, permission, row, version)
    with pytest.raises(HsmBridgeError) as many:
        candidates(entry, principal, permission, row, version)
    assert (one.value.status, one.value.message) == (many.value.status, many.value.message)
    return one.value


def test_who_may_use_a_key_gets_what_its_provider_needs(slots: Slots, keys: SlotKeys) -> None:
    record = create(slots)
    version = record.versions[0]
    key = acquire(current(keys), ALICE, P.SIGN, ECDSA)
    assert (key.key_id, key.version, key.provider) == (version.key_id, 1, "software")
    assert (key.reference, key.public_key, key.permissions) == (version.reference, version.public_key, SIGNING)
    assert (key.slot, key.name, key.key_type.name) == (record, "uid-1000/web", "EC-P256")
    assert key.binding == record.binding(version)
    assert key.release() is None
    assert b"reference" not in repr(key).encode()


def test_a_slot_that_one_may_not_see_answers_as_one_that_is_not_there(slots: Slots, keys: SlotKeys) -> None:
    create(slots, new_slot("web"))
    there = refused(current(keys, "web"), BOB, P.SIGN)
    absent = refused(current(keys, "bew"), BOB, P.SIGN)
    assert there.status is absent.status is Status.RESOURCE_NOT_FOUND
    assert there.message == absent.message.replace("bew", "web")
    assert type(there) is type(absent)
    assert there.origin == absent.origin == ""
    for check in (access.visible, access.require_administrator, access.require_new_version):
        answers = []
        for name in ("web", "bew"):
            with pytest.raises(HsmBridgeError) as refusal:
                check(current(keys, name), BOB)
            answers.append(refusal.value.message.replace("bew", "web"))
        assert answers == [there.message] * 2


def test_every_refusal_of_what_is_hidden_from_who_may_not_see(slots: Slots, keys: SlotKeys) -> None:
    """A forbidden permission, a wrong algorithm, a version that is not there: all look like no slot at all."""
    create(slots, new_slot("web", algorithms=("ECDSA-P256-SHA256",)))
    texts = set()
    for permission, row, version in itertools.product(
        (P.SIGN, P.EXPORT), (ECDSA, algorithm("AES-256-GCM"), None), (0, 1, 99)
    ):
        texts.add(refused(current(keys), BOB, permission, row, version).message)
    assert len(texts) == 1


def test_a_slot_that_is_being_made_or_was_destroyed_is_not_there(slots: Slots, keys: SlotKeys) -> None:
    slots.create(new_slot("pending"), new_version())
    assert refused(current(keys, "pending"), ALICE, P.SIGN).status is Status.RESOURCE_NOT_FOUND
    destroy(slots, create(slots))
    assert refused(current(keys), ALICE, P.SIGN).status is Status.RESOURCE_NOT_FOUND


def test_an_entry_that_was_never_read_shows_nothing(slots: Slots, keys: SlotKeys) -> None:
    create(slots)
    entry = keys.entry(name_of("web"))
    assert not keys.entry_is_current(entry)
    assert refused(entry, ALICE, P.SIGN).status is Status.RESOURCE_NOT_FOUND


def test_a_permission_must_stand_in_ceiling_mask_and_version(slots: Slots, keys: SlotKeys) -> None:
    record = create(slots)
    slots.grant(record.id, BOB, Role.USE, P.VERIFY)
    slots.grant(record.id, CAROL, Role.ADMINISTER, P.NONE)
    entry = current(keys)
    assert acquire(entry, BOB, P.VERIFY, ECDSA).version == 1
    assert refused(entry, BOB, P.SIGN).status is Status.KEY_OPERATION_NOT_PERMITTED
    assert refused(entry, ALICE, P.DERIVE).status is Status.KEY_OPERATION_NOT_PERMITTED
    assert refused(entry, CAROL, P.VERIFY).status is Status.KEY_OPERATION_NOT_PERMITTED, "administering is not using"
    slots.restrict(record.id, P.SIGN, 1)
    assert refused(current(keys), ALICE, P.SIGN).status is Status.KEY_OPERATION_NOT_PERMITTED
    assert acquire(current(keys), ALICE, P.VERIFY, ECDSA).version == 1
    slots.restrict(record.id, P.VERIFY)
    assert refused(current(keys), BOB, P.VERIFY).status is Status.KEY_OPERATION_NOT_PERMITTED


def test_the_permission_is_asked_before_the_algorithm_and_that_before_the_state(slots: Slots, keys: SlotKeys) -> None:
    record = create(slots, new_slot(permissions=P.VERIFY | P.GENERATE, algorithms=("ECDSA-P256-SHA256",)))
    slots.revoke(record.id)
    entry = current(keys)
    gcm = algorithm("AES-256-GCM")
    assert refused(entry, ALICE, P.SIGN, gcm, 1).status is Status.KEY_OPERATION_NOT_PERMITTED
    assert refused(entry, ALICE, P.VERIFY, gcm, 1).status is Status.INVALID_ARGUMENT
    assert refused(entry, ALICE, P.VERIFY, algorithm("Ed25519"), 1).status is Status.KEY_TYPE_MISMATCH
    assert refused(entry, ALICE, P.VERIFY, ECDSA, 1).status is Status.KEY_STATE_FORBIDS
    assert refused(entry, ALICE, P.VERIFY, ECDSA, 0).status is Status.KEY_STATE_FORBIDS


def test_only_the_algorithms_of_the_slot_are_allowed(slots: Slots, keys: SlotKeys) -> None:
    create(slots, new_slot("rsa", "RSA-2048", P.SIGN | P.VERIFY, ("RSA-PSS-SHA256",)))
    entry = current(keys, "rsa")
    assert acquire(entry, ALICE, P.SIGN, algorithm("RSA-PSS-SHA256")).version == 1
    refusal = refused(entry, ALICE, P.SIGN, algorithm("RSA-PKCS1-SHA256"))
    assert refusal.status is Status.ALGORITHM_NOT_ALLOWED
    assert "RSA-PSS-SHA256" in refusal.message


def test_a_legacy_algorithm_makes_nothing_new(slots: Slots, keys: SlotKeys) -> None:
    create(slots, new_slot("rsa", "RSA-2048", P.ENCRYPT | P.DECRYPT))
    create(slots, new_slot("kek", "RSA-2048", P.WRAP | P.UNWRAP))
    create(slots, new_slot("named", "RSA-2048", P.ENCRYPT | P.DECRYPT, ("RSA-PKCS1", "RSA-OAEP-SHA256")))
    legacy = algorithm("RSA-PKCS1")
    assert acquire(current(keys, "named"), ALICE, P.DECRYPT, legacy).version == 1
    assert refused(current(keys, "rsa"), ALICE, P.DECRYPT, legacy).status is Status.ALGORITHM_NOT_ALLOWED
    for name in ("rsa", "named"):
        assert refused(current(keys, name), ALICE, P.ENCRYPT, legacy).status is Status.ALGORITHM_NOT_ALLOWED
    for permission in (P.WRAP, P.UNWRAP):
        assert refused(current(keys, "kek"), ALICE, permission, legacy).status is Status.ALGORITHM_NOT_ALLOWED


def test_what_goes_by_name_only_signs_where_the_slot_names_it_and_verifies_everywhere(
    slots: Slots, keys: SlotKeys
) -> None:
    sha1 = algorithm("RSA-PKCS1-SHA1")
    create(slots, new_slot("open", "RSA-2048", P.SIGN | P.VERIFY))
    create(slots, new_slot("named", "RSA-2048", P.SIGN | P.VERIFY, algorithms=("RSA-PKCS1-SHA1",)))
    assert acquire(current(keys, "open"), ALICE, P.VERIFY, sha1).version == 1
    refusal = refused(current(keys, "open"), ALICE, P.SIGN, sha1)
    assert refusal.status is Status.ALGORITHM_NOT_ALLOWED
    assert "by name" in refusal.message
    assert acquire(current(keys, "named"), ALICE, P.SIGN, sha1).version == 1


@pytest.mark.parametrize(
    ("key_type", "permission", "name"),
    [
        ("AES-256", P.WRAP, "AES-256-KW"),
        ("AES-256", P.UNWRAP, "AES-256-GCM"),
        ("RSA-2048", P.WRAP, "RSA-OAEP-SHA256"),
        ("EC-P256", P.DERIVE, "ECDH-P256"),
        ("SECRET-256", P.DERIVE, "HKDF-SHA256"),
        ("SECRET-256", P.SIGN, "HMAC-SHA256"),
        ("ML-KEM-768", P.DECAPSULATE, "ML-KEM-768"),
    ],
)
def test_each_kind_of_algorithm_serves_its_permissions(
    slots: Slots, keys: SlotKeys, key_type: str, permission: P, name: str
) -> None:
    create(slots, new_slot("x", key_type, permission))
    assert acquire(current(keys, "x"), ALICE, permission, algorithm(name)).version == 1


def test_an_algorithm_of_another_kind_is_refused_for_every_permission(slots: Slots, keys: SlotKeys) -> None:
    create(slots, new_slot("x", "AES-256", P.ENCRYPT | P.DECRYPT | P.SIGN))
    entry = current(keys, "x")
    for permission, name in ((P.SIGN, "AES-256-GCM"), (P.ENCRYPT, "AES-CMAC"), (P.DECRYPT, "AES-256-KW")):
        assert refused(entry, ALICE, permission, algorithm(name)).status is Status.INVALID_ARGUMENT


def versions_of(slots: Slots) -> SlotRecord:
    """Versions 1 rotated, 2 revoked, 3 destroyed, 4 rotated, 5 active, 6 creating."""
    record = create(slots)
    for _ in range(4):
        record = rotate(slots, record)
    slots.revoke(record.id, 2)
    begun = slots.begin_destroy(record.id, 3)
    slots.finish_destroy(record.id, begun.versions[2].key_id)
    return slots.begin_version(record.id, new_version())


def test_what_a_version_serves_is_what_its_state_serves(slots: Slots, keys: SlotKeys) -> None:
    record = versions_of(slots)
    entry = current(keys)
    for version in record.versions:
        for permission in (P.SIGN, P.VERIFY):
            if permission in USABLE[version.state]:
                assert acquire(entry, ALICE, permission, ECDSA, version.number).version == version.number
            else:
                never_there = version.state is KeyVersionState.CREATING
                status = Status.RESOURCE_NOT_FOUND if never_there else Status.KEY_STATE_FORBIDS
                assert refused(entry, ALICE, permission, ECDSA, version.number).status is status
    assert refused(entry, ALICE, P.SIGN, ECDSA, 99).status is Status.RESOURCE_NOT_FOUND


def test_old_signatures_are_tried_with_the_active_version_then_the_newest_rotated(slots: Slots, keys: SlotKeys) -> None:
    record = versions_of(slots)
    assert [key.version for key in candidates(current(keys), ALICE, P.VERIFY, ECDSA)] == [5, 4, 1]
    assert [key.version for key in candidates(current(keys), ALICE, P.SIGN, ECDSA)] == [5]
    slots.restrict(record.id, P.VERIFY, 4)
    assert [key.version for key in candidates(current(keys), ALICE, P.VERIFY, ECDSA)] == [5, 1]
    slots.revoke(record.id, 5)
    assert [key.version for key in candidates(current(keys), ALICE, P.VERIFY, ECDSA)] == [1]
    assert refused(current(keys), ALICE, P.SIGN).status is Status.KEY_STATE_FORBIDS


def test_a_slot_that_is_being_destroyed_serves_nothing(slots: Slots, keys: SlotKeys) -> None:
    record = create(slots)
    slots.begin_destroy(record.id)
    for permission in (P.SIGN, P.VERIFY):
        assert refused(current(keys), ALICE, permission).status is Status.KEY_STATE_FORBIDS


def test_an_empty_slot_says_that_it_has_no_active_version(slots: Slots, keys: SlotKeys) -> None:
    slots.create(new_slot(), None)
    refusal = refused(current(keys), ALICE, P.SIGN)
    assert refusal.status is Status.KEY_STATE_FORBIDS
    assert "rotate it" in refusal.message


def test_administering_needs_the_role(slots: Slots, keys: SlotKeys) -> None:
    record = create(slots)
    slots.grant(record.id, BOB, Role.USE, SIGNING)
    entry = current(keys)
    assert access.require_administrator(entry, ALICE).id == record.id
    assert access.visible(entry, BOB).id == record.id
    with pytest.raises(AccessError) as refusal:
        access.require_administrator(entry, BOB)
    assert refusal.value.status is Status.ACCESS_DENIED


def test_a_new_version_needs_the_permission_to_generate(slots: Slots, keys: SlotKeys) -> None:
    record = create(slots)
    slots.grant(record.id, BOB, Role.USE, P.GENERATE)
    slots.grant(record.id, CAROL, Role.ADMINISTER, P.SIGN)
    entry = current(keys)
    assert access.require_new_version(entry, ALICE).id == access.require_new_version(entry, BOB).id == record.id
    with pytest.raises(HsmBridgeError) as refusal:
        access.require_new_version(entry, CAROL)
    assert refusal.value.status is Status.KEY_OPERATION_NOT_PERMITTED


def test_who_administers_may_fill_a_slot_for_the_first_time(slots: Slots, keys: SlotKeys) -> None:
    record = slots.create(new_slot(permissions=P.SIGN), None)
    slots.grant(record.id, BOB, Role.USE, P.SIGN)
    assert access.require_new_version(current(keys), ALICE).id == record.id
    with pytest.raises(HsmBridgeError) as refusal:
        access.require_new_version(current(keys), BOB)
    assert refusal.value.status is Status.KEY_OPERATION_NOT_PERMITTED
    rotate(slots, record)
    with pytest.raises(HsmBridgeError) as refusal:
        access.require_new_version(current(keys), ALICE)
    assert refusal.value.status is Status.KEY_OPERATION_NOT_PERMITTED


# The cache


def test_what_was_granted_once_is_granted_again_until_the_slot_changes(slots: Slots, keys: SlotKeys) -> None:
    record = create(slots)
    entry = current(keys)
    first = acquire(entry, ALICE, P.SIGN, ECDSA)
    assert keys.entry_is_current(entry)
    assert acquire(entry, ALICE, P.SIGN, ECDSA) is first
    slots.revoke(record.id)
    assert not keys.entry_is_current(entry)
    keys.refresh(entry)
    assert keys.entry_is_current(entry)
    assert refused(entry, ALICE, P.SIGN).status is Status.KEY_STATE_FORBIDS


def test_access_taken_away_is_gone_after_the_next_refresh(slots: Slots, keys: SlotKeys) -> None:
    record = create(slots)
    slots.grant(record.id, BOB, Role.USE, P.SIGN)
    entry = current(keys)
    acquire(entry, BOB, P.SIGN, ECDSA)
    slots.ungrant(record.id, BOB)
    assert not keys.entry_is_current(entry)
    keys.refresh(entry)
    assert refused(entry, BOB, P.SIGN).status is Status.RESOURCE_NOT_FOUND


def test_a_change_of_another_slot_costs_one_comparison_and_keeps_the_record(slots: Slots, keys: SlotKeys) -> None:
    create(slots)
    entry = current(keys)
    first = acquire(entry, ALICE, P.SIGN, ECDSA)
    create(slots, new_slot("other"))
    assert not keys.entry_is_current(entry)
    keys.refresh(entry)
    assert keys.entry_is_current(entry)
    assert acquire(entry, ALICE, P.SIGN, ECDSA) is first


def test_a_slot_made_anew_under_an_old_name_is_the_new_one(slots: Slots, keys: SlotKeys) -> None:
    old = create(slots)
    entry = current(keys)
    destroy(slots, old)
    new = create(slots)
    keys.refresh(entry)
    assert acquire(entry, ALICE, P.SIGN, ECDSA).slot_id == new.id


def test_a_change_of_another_process_makes_an_entry_stale(tmp_path: Path) -> None:
    counters = SharedCounters.create(2, 1)
    ours = open_at(tmp_path, ChangeCounter(counters, 0))
    theirs = open_at(tmp_path, ChangeCounter(counters, 1))
    record = create(Slots(ours))
    keys = SlotKeys(ours)
    entry = current(keys)
    assert keys.entry_is_current(entry)
    Slots(theirs).revoke(record.id)
    assert not keys.entry_is_current(entry)
    keys.refresh(entry)
    assert refused(entry, ALICE, P.SIGN).status is Status.KEY_STATE_FORBIDS
    ours.close()
    theirs.close()


def test_an_unannounced_change_is_seen_when_the_entry_is_old(store: Store, slots: Slots, tmp_path: Path) -> None:
    record = create(slots)
    keys = SlotKeys(store, max_age=0.0)
    entry = current(keys)
    assert not keys.entry_is_current(entry), "its age is past, whatever the counter says"
    other = open_at(tmp_path)
    Slots(other).revoke(record.id)
    other.close()
    keys.refresh(entry)
    assert refused(entry, ALICE, P.SIGN).status is Status.KEY_STATE_FORBIDS


def test_the_cache_is_bounded_and_forgetting_is_harmless(store: Store, slots: Slots) -> None:
    create(slots)
    keys = SlotKeys(store, size=3)
    first = current(keys)
    for number in range(10):
        current(keys, f"absent-{number}")
    assert keys.entry(name_of("web")) is not first
    assert acquire(first, ALICE, P.SIGN, ECDSA).version == 1


def test_a_store_that_fails_leaves_the_entry_not_current(slots: Slots, store: Store, tmp_path: Path) -> None:
    create(slots)
    keys = SlotKeys(store)
    entry = current(keys)
    with behind_its_back(tmp_path) as connection:
        connection.execute("UPDATE slots SET permissions = 2047, revision = revision + 1")
    store.changes.bump()
    with pytest.raises(StoreError) as refusal:
        keys.refresh(entry)
    assert refusal.value.status is Status.STORE_TAMPERED
    assert not keys.entry_is_current(entry)


def test_every_row_of_the_table_is_for_some_permission_or_a_digest() -> None:
    for row in ALGORITHMS.values():
        assert (access._FITS[row.kind] == P.NONE) is (row.kind.value == "digest"), row.name


def test_a_key_type_of_a_newer_version_is_explained(slots: Slots, keys: SlotKeys) -> None:
    record = create(slots)
    entry = current(keys)
    entry.view.record = replace(record, key_type="FN-DSA-512")
    assert refused(entry, ALICE, P.SIGN).status is Status.UNKNOWN_KEY_TYPE
