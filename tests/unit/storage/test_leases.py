"""Leases of encryptions and the nonces of callers: durable, bounded, never given twice."""

from pathlib import Path

import pytest

from hsmbridge.core.errors import KeyUseError, RequestError, Status
from hsmbridge.core.identifiers import KeyId, new_key_id
from hsmbridge.keys.slots import Slots
from hsmbridge.storage.leases import MOST_ENCRYPTIONS
from hsmbridge.storage.records import Durability
from hsmbridge.storage.store import Store
from tests.unit.storage.opened import behind_its_back, create, destroy, open_at

NONCE = b"a nonce of 12"[:12]


@pytest.fixture
def key_id() -> KeyId:
    return new_key_id()


def test_all_leases_together_stay_within_the_bound(store: Store, key_id: KeyId) -> None:
    assert store.lease_nonces(key_id, MOST_ENCRYPTIONS - 10) == MOST_ENCRYPTIONS - 10
    assert store.lease_nonces(key_id, 6) == 6
    assert store.lease_nonces(key_id, 65_536) == 4, "the last lease is what is left"
    with pytest.raises(KeyUseError) as refusal:
        store.lease_nonces(key_id, 1)
    assert refusal.value.status is Status.KEY_ROTATION_REQUIRED
    assert store.lease_nonces(new_key_id(), 1) == 1, "each key version has its own"


def test_leases_and_nonces_survive_a_restart(tmp_path: Path, key_id: KeyId) -> None:
    first = open_at(tmp_path)
    first.lease_nonces(key_id, MOST_ENCRYPTIONS - 2)
    first.record_nonce(key_id, NONCE, 10)
    first.close()
    second = open_at(tmp_path)
    with pytest.raises(KeyUseError) as refusal:
        second.record_nonce(key_id, NONCE, 10)
    assert refusal.value.status is Status.NONCE_REUSED
    assert second.lease_nonces(key_id, 100) == 1
    second.close()


def test_two_processes_never_get_the_same_lease(tmp_path: Path, key_id: KeyId) -> None:
    first, second = open_at(tmp_path), open_at(tmp_path)
    first.lease_nonces(key_id, MOST_ENCRYPTIONS - 3)
    granted = [store.lease_nonces(key_id, 2) for store in (first, second)]
    assert granted == [2, 1]
    first.close()
    second.close()


def test_a_callers_nonce_is_taken_once(store: Store, key_id: KeyId) -> None:
    store.record_nonce(key_id, NONCE, 10)
    with pytest.raises(KeyUseError) as refusal:
        store.record_nonce(key_id, NONCE, 10)
    assert refusal.value.status is Status.NONCE_REUSED
    store.record_nonce(new_key_id(), NONCE, 10)


def test_only_so_many_nonces_are_remembered(store: Store, key_id: KeyId) -> None:
    for number in range(3):
        store.record_nonce(key_id, number.to_bytes(12, "big"), 3)
    with pytest.raises(KeyUseError) as refusal:
        store.record_nonce(key_id, NONCE, 3)
    assert refusal.value.status is Status.KEY_ROTATION_REQUIRED
    with pytest.raises(KeyUseError) as refusal:
        store.record_nonce(key_id, bytes(12), 3)
    assert refusal.value.status is Status.NONCE_REUSED, "what was used is named as used, full or not"


def test_nonces_that_must_grow_do(store: Store, key_id: KeyId) -> None:
    store.advance_nonce(key_id, (255).to_bytes(12, "big"))
    store.advance_nonce(key_id, (256).to_bytes(12, "big"))
    for again in (256, 255, 0):
        with pytest.raises(KeyUseError) as refusal:
            store.advance_nonce(key_id, again.to_bytes(12, "big"))
        assert refusal.value.status is Status.NONCE_REUSED
    with pytest.raises(RequestError) as bad:
        store.advance_nonce(key_id, (257).to_bytes(16, "big"))
    assert bad.value.status is Status.INVALID_ARGUMENT


def test_callers_nonces_count_as_encryptions(store: Store, key_id: KeyId) -> None:
    store.lease_nonces(key_id, MOST_ENCRYPTIONS - 1)
    store.advance_nonce(key_id, NONCE)
    with pytest.raises(KeyUseError) as refusal:
        store.advance_nonce(key_id, b"z" * 12)
    assert refusal.value.status is Status.KEY_ROTATION_REQUIRED
    with pytest.raises(KeyUseError) as refusal:
        store.record_nonce(key_id, NONCE, 10)
    assert refusal.value.status is Status.KEY_ROTATION_REQUIRED


def test_what_is_kept_of_a_destroyed_key_is_dropped(store: Store, slots: Slots, tmp_path: Path) -> None:
    record = create(slots)
    store.record_nonce(record.versions[0].key_id, NONCE, 10)
    destroy(slots, record)
    with behind_its_back(tmp_path) as connection:
        for table in ("nonce_leases", "caller_nonces"):
            assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)


@pytest.mark.parametrize("durability", Durability)
def test_slot_changes_wait_for_the_disk_whatever_is_chosen_for_nonces(tmp_path: Path, durability: Durability) -> None:
    seen: list[int] = []
    store = open_at(tmp_path, durability=durability)
    with store._database.writing(durable=store._durable_nonces) as connection:
        seen.append(connection.exec_driver_sql("PRAGMA synchronous").scalar_one())
    with store._database.writing() as connection:
        seen.append(connection.exec_driver_sql("PRAGMA synchronous").scalar_one())
    full, normal = 2, 1
    assert seen == [full if durability is Durability.POWER_LOSS else normal, full]
    store.close()
