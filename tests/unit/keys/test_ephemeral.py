"""Ephemeral keys: counted as the contract's table says, freed at zero, gone with the connection."""

import threading

import pytest

from hsmbridge.core.algorithms import algorithm
from hsmbridge.core.errors import ConnectionLost, HsmBridgeError, LimitError, ResourceError, Status
from hsmbridge.core.identifiers import CryptoResourceId, ResourceKind, new_key_id
from hsmbridge.core.key_types import key_type
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.core.policy import NoncePolicy, Protection
from hsmbridge.core.room import Room
from hsmbridge.keys.access import SlotEntry
from hsmbridge.keys.ephemeral import EphemeralKey, EphemeralKeys
from hsmbridge.keys.resources import ConnectionResources
from hsmbridge.storage.records import Origin
from tests.unit.storage.opened import name_of

GCM = algorithm("AES-256-GCM")


def new_key(permissions: P = P.ENCRYPT | P.DECRYPT, nonce_policy: NoncePolicy = NoncePolicy.SERVICE) -> EphemeralKey:
    return EphemeralKey(
        key_id=new_key_id(),
        provider="software",
        key_type=key_type("AES-256"),
        permissions=permissions,
        origin=Origin.GENERATED,
        reference=b"a reference",
        public_key=b"",
        protection=Protection.MEMORY,
        nonce_policy=nonce_policy,
    )


@pytest.fixture
def keys() -> EphemeralKeys:
    return EphemeralKeys(limit=3)


def add(keys: EphemeralKeys, key: EphemeralKey | None = None) -> CryptoResourceId:
    keys.reserve()
    return keys.add(key or new_key())


def not_found(keys: EphemeralKeys, resource: CryptoResourceId) -> None:
    for attempt in (
        lambda: keys.acquire(resource, P.ENCRYPT, GCM),
        lambda: keys.get(resource),
        lambda: keys.release(resource),
    ):
        with pytest.raises(ResourceError) as refusal:
            attempt()
        assert refusal.value.status is Status.RESOURCE_NOT_FOUND


def test_a_key_is_freed_when_its_guard_is_released(keys: EphemeralKeys) -> None:
    key = new_key()
    resource = add(keys, key)
    assert keys.get(resource) is key
    assert keys.release(resource) is key
    not_found(keys, resource)


def test_a_key_in_use_outlives_its_guard_until_the_last_use_ends(keys: EphemeralKeys) -> None:
    key = new_key()
    resource = add(keys, key)
    first, second = keys.acquire(resource, P.ENCRYPT, GCM), keys.acquire(resource, P.DECRYPT, GCM)
    assert first.release() is None
    assert keys.release(resource) is None
    not_found(keys, resource)
    assert second.release() is key


def test_the_guard_may_be_the_last_to_let_go(keys: EphemeralKeys) -> None:
    key = new_key()
    resource = add(keys, key)
    assert keys.acquire(resource, P.ENCRYPT, GCM).release() is None
    assert keys.release(resource) is key


def test_letting_go_twice_counts_once(keys: EphemeralKeys) -> None:
    resource = add(keys)
    first, second = keys.acquire(resource, P.ENCRYPT, GCM), keys.acquire(resource, P.ENCRYPT, GCM)
    keys.release(resource)
    assert first.release() is None
    assert first.release() is None
    assert second.release() is not None


def test_an_acquired_key_has_what_its_provider_needs(keys: EphemeralKeys) -> None:
    key = new_key()
    acquired = keys.acquire(add(keys, key), P.ENCRYPT, GCM)
    assert (acquired.key_id, acquired.provider, acquired.reference) == (key.key_id, "software", b"a reference")
    assert (acquired.slot, acquired.slot_id, acquired.version) == (None, b"", 0)
    assert acquired.permissions == P.ENCRYPT | P.DECRYPT
    assert "reference" not in repr(acquired)


def test_the_nonces_of_a_key_are_one_sequence_whoever_acquires_it(keys: EphemeralKeys) -> None:
    resource = add(keys)
    taken = []
    for _ in range(3):
        nonces = keys.acquire(resource, P.ENCRYPT, GCM).nonces
        assert nonces is not None
        taken.append(nonces.next(12))
    assert len(set(taken)) == 3
    assert len({nonce[:8] for nonce in taken if nonce is not None}) == 1


@pytest.mark.parametrize(
    ("permission", "row", "status"),
    [
        (P.SIGN, "HMAC-SHA256", Status.KEY_OPERATION_NOT_PERMITTED),
        (P.ENCRYPT, "HMAC-SHA256", Status.INVALID_ARGUMENT),
        (P.ENCRYPT, "AES-128-GCM", Status.KEY_TYPE_MISMATCH),
    ],
)
def test_the_check_is_the_same_as_for_slots_and_a_refusal_holds_nothing(
    keys: EphemeralKeys, permission: P, row: str, status: Status
) -> None:
    resource = add(keys)
    with pytest.raises(HsmBridgeError) as refusal:
        keys.acquire(resource, permission, algorithm(row))
    assert refusal.value.status is status
    assert keys.release(resource) is not None


def test_copying_a_key_needs_no_permission(keys: EphemeralKeys) -> None:
    assert keys.acquire(add(keys, new_key(P.NONE)), P.NONE, None).version == 0


def test_a_connection_has_so_many_keys_and_no_more(keys: EphemeralKeys) -> None:
    resources = [add(keys) for _ in range(2)]
    keys.reserve()
    with pytest.raises(LimitError) as refusal:
        keys.reserve()
    assert refusal.value.status is Status.TOO_MANY_RESOURCES
    keys.cancel()
    keys.reserve()
    keys.cancel()
    keys.release(resources[0])
    add(keys)
    add(keys)
    with pytest.raises(LimitError):
        keys.reserve()


def test_keys_in_use_count_against_the_limit_even_without_a_guard(keys: EphemeralKeys) -> None:
    resources = [add(keys) for _ in range(3)]
    held = keys.acquire(resources[0], P.ENCRYPT, GCM)
    keys.release(resources[0])
    with pytest.raises(LimitError):
        keys.reserve()
    held.release()
    keys.reserve()


def test_the_end_of_a_connection_frees_everything_at_once(keys: EphemeralKeys) -> None:
    guarded, held = new_key(), new_key()
    guarded_id, held_id = add(keys, guarded), add(keys, held)
    use = keys.acquire(held_id, P.ENCRYPT, GCM)
    keys.release(held_id)
    keys.reserve()
    assert {key.key_id for key in keys.close()} == {guarded.key_id, held.key_id}
    assert use.release() is None, "it was handed back already"
    not_found(keys, guarded_id)
    with pytest.raises(ConnectionLost):
        keys.add(new_key())
    assert keys.close() == []


def test_no_key_is_begun_when_its_connection_has_ended(keys: EphemeralKeys) -> None:
    keys.close()
    with pytest.raises(ConnectionLost):
        keys.reserve()


def test_no_key_is_handed_back_twice_whatever_the_threads_do() -> None:
    keys = EphemeralKeys(limit=200)
    resources = [add(keys) for _ in range(100)]
    freed: list[EphemeralKey] = []
    barrier = threading.Barrier(4)

    def work() -> None:
        barrier.wait(timeout=10)
        for resource in resources:
            try:
                held = keys.acquire(resource, P.ENCRYPT, GCM)
            except ResourceError:
                continue
            try:
                guard = keys.release(resource)
            except ResourceError:
                guard = None
            freed.extend(key for key in (guard, held.release()) if key is not None)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(freed) == len({key.key_id for key in freed}) == 100
    assert keys.close() == []


@pytest.mark.parametrize("end", ["released", "closed"])
def test_the_nonces_chosen_for_a_key_are_forgotten_with_it(end: str) -> None:
    data = Room(10_000, "no room")
    keys = EphemeralKeys(limit=3, data=data)
    resource = add(keys, new_key(nonce_policy=NoncePolicy.CALLER))
    held = keys.acquire(resource, P.ENCRYPT, GCM)
    assert held.nonce_policy is NoncePolicy.CALLER
    assert held.nonces is None
    assert held.chosen is not None
    held.chosen.use(GCM.name, b"n" * 12)
    assert not data.empty
    if end == "released":
        keys.release(resource)
        assert not data.empty, "it is held still"
        held.release()
    else:
        keys.close()
    assert data.empty


# Ids


def test_ids_are_stable_on_a_connection_and_mean_nothing_on_another() -> None:
    entry, other = SlotEntry(name_of("web")), SlotEntry(name_of("other"))
    first, second = ConnectionResources(), ConnectionResources()
    resource = first.slot_id(entry)
    assert resource.kind is ResourceKind.KEY_SLOT
    assert first.slot_id(entry) == resource
    assert first.slot_id(other) != resource
    assert first.slot(resource) is entry
    assert second.slot_id(entry) != resource
    with pytest.raises(ResourceError) as refusal:
        second.slot(resource)
    assert refusal.value.status is Status.RESOURCE_NOT_FOUND


def test_ids_are_random_64_bit_numbers() -> None:
    resources = ConnectionResources()
    numbers = [resources.slot_id(SlotEntry(name_of(f"slot-{number}"))).number for number in range(200)]
    assert len(set(numbers)) == 200
    assert max(numbers) > 1 << 60
    assert all(0 <= number < 1 << 64 for number in numbers)
    assert sorted(numbers) != numbers


def test_an_id_of_another_kind_is_not_found() -> None:
    resources = ConnectionResources()
    slot = resources.slot_id(SlotEntry(name_of("web")))
    key = add(resources.ephemeral)
    for kind in set(ResourceKind) - {ResourceKind.KEY_SLOT}:
        with pytest.raises(ResourceError):
            resources.slot(CryptoResourceId(slot.number, kind))
    not_found(resources.ephemeral, CryptoResourceId(key.number, ResourceKind.KEY_SLOT))


def test_a_closed_connection_knows_no_ids() -> None:
    resources = ConnectionResources()
    slot = resources.slot_id(SlotEntry(name_of("web")))
    key = new_key()
    add(resources.ephemeral, key)
    assert resources.close() == [key]
    with pytest.raises(ResourceError):
        resources.slot(slot)


def test_a_connection_resolves_so_many_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hsmbridge.keys.resources.SLOTS_MAX", 2)
    resources = ConnectionResources()
    entries = [SlotEntry(name_of(f"slot-{number}")) for number in range(3)]
    known = [resources.slot_id(entry) for entry in entries[:2]]
    with pytest.raises(LimitError) as refusal:
        resources.slot_id(entries[2])
    assert refusal.value.status is Status.TOO_MANY_RESOURCES
    assert [resources.slot_id(entry) for entry in entries[:2]] == known
