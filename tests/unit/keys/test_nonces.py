"""Nonces: no pair of key version and nonce twice, in whatever process, thread or order."""

import threading
from contextlib import suppress
from pathlib import Path

import pytest

from hsmbridge.core.errors import ConnectionLost, HsmBridgeError, KeyUseError, LimitError, RequestError, Status
from hsmbridge.core.identifiers import KeyId, new_key_id
from hsmbridge.core.policy import NoncePolicy
from hsmbridge.core.room import Room
from hsmbridge.keys import nonces
from hsmbridge.keys.nonces import REMEMBERED_SIZE, CallerNonces, ChosenNonces, NonceSequence, ServiceNonces
from hsmbridge.storage.leases import MOST_ENCRYPTIONS
from hsmbridge.storage.store import Store
from tests.unit.storage.opened import open_at

GCM = "AES-256-GCM"


@pytest.fixture
def key_id() -> KeyId:
    return new_key_id()


def take(service: ServiceNonces, key_id: KeyId, count: int, size: int = 12) -> list[bytes]:
    """`count` nonces, leasing as the engine does."""
    taken = []
    for _ in range(count):
        nonce = service.next(key_id, size)
        while nonce is None:
            service.lease(key_id)
            nonce = service.next(key_id, size)
        taken.append(nonce)
    return taken


def test_a_lease_comes_before_the_first_nonce(store: Store, key_id: KeyId) -> None:
    service = ServiceNonces(store)
    assert service.next(key_id, 12) is None
    service.lease(key_id)
    assert service.next(key_id, 12) is not None


def test_nonces_are_an_epoch_and_a_counter_across_leases(store: Store, key_id: KeyId) -> None:
    taken = take(ServiceNonces(store), key_id, 3000)
    assert len({nonce[:8] for nonce in taken}) == 1
    assert [int.from_bytes(nonce[8:], "big") for nonce in taken] == list(range(3000))


def test_many_nonces_at_once_are_the_next_ones_or_none_at_all(store: Store, key_id: KeyId) -> None:
    service = ServiceNonces(store)
    assert service.take(key_id, 1, 12) is None
    first = take(service, key_id, 1)
    many = service.take(key_id, 500, 12)
    assert many is not None
    assert [int.from_bytes(nonce[8:], "big") for nonce in first + many] == list(range(501))
    assert service.take(key_id, 1024, 12) is None, "more than are paid for"
    assert take(service, key_id, 1)[0] == first[0][:8] + (501).to_bytes(4, "big"), "and none of them was spent"
    vectors = service.take(key_id, 3, 16)
    assert vectors is not None
    assert len({*vectors}) == 3 == sum(len(vector) == 16 for vector in vectors)


def test_each_key_version_process_and_restart_has_an_epoch_of_its_own(tmp_path: Path, key_id: KeyId) -> None:
    first, second = open_at(tmp_path), open_at(tmp_path)
    epochs = set()
    for store in (first, second, first):
        service = ServiceNonces(store)
        for key in (key_id, new_key_id()):
            epochs.add(take(service, key, 1)[0][:8])
    assert len(epochs) == 6
    first.close()
    second.close()


def test_initialisation_vectors_are_random_and_paid_for(store: Store, key_id: KeyId) -> None:
    service = ServiceNonces(store)
    vectors = take(service, key_id, 100, size=16)
    assert {len(vector) for vector in vectors} == {16}
    assert len({vector[:8] for vector in vectors}) == 100
    assert take(service, key_id, 1)[0][8:] == (100).to_bytes(4, "big"), "they count like any other"


def test_no_nonce_twice_from_many_threads(store: Store, key_id: KeyId) -> None:
    service = ServiceNonces(store)
    taken: list[bytes] = []

    def work() -> None:
        taken.extend(take(service, key_id, 2000))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(taken) == len(set(taken)) == 8000


def test_leases_begin_small_and_grow(store: Store, key_id: KeyId) -> None:
    service = ServiceNonces(store)
    take(service, key_id, 1)
    assert store.lease_nonces(key_id, MOST_ENCRYPTIONS) == MOST_ENCRYPTIONS - 1024
    other = new_key_id()
    take(service, other, 1024 + 4096 + 1)
    assert store.lease_nonces(other, MOST_ENCRYPTIONS) == MOST_ENCRYPTIONS - (1024 + 4096 + 16384)


def test_a_key_version_ends_at_two_to_the_32_over_all_processes(tmp_path: Path, key_id: KeyId) -> None:
    first, second = open_at(tmp_path), open_at(tmp_path)
    first.lease_nonces(key_id, MOST_ENCRYPTIONS - 1500)
    services = ServiceNonces(first), ServiceNonces(second)
    assert len(take(services[0], key_id, 1024)) == 1024
    assert len(take(services[1], key_id, 476)) == 476, "near the bound a lease is what is left"
    for service in services:
        with pytest.raises(KeyUseError) as refusal:
            take(service, key_id, 1)
        assert refusal.value.status is Status.KEY_ROTATION_REQUIRED
    first.close()
    second.close()


def test_a_key_that_was_forgotten_begins_a_new_epoch(store: Store, key_id: KeyId) -> None:
    service = ServiceNonces(store)
    before = take(service, key_id, 1)[0]
    service.forget(key_id)
    service.forget(key_id)
    assert service.next(key_id, 12) is None
    assert take(service, key_id, 1)[0][:8] != before[:8]


def test_memory_is_bounded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nonces, "_KEPT", 3)
    service = ServiceNonces(store)
    keys = [new_key_id() for _ in range(6)]
    for key in keys:
        take(service, key, 1)
    assert [service.next(key, 12) is None for key in keys] == [True] * 3 + [False] * 3


def test_the_counter_never_overflows() -> None:
    sequence = NonceSequence.whole()
    sequence.pay(5)
    sequence._counter = MOST_ENCRYPTIONS - 1
    last = sequence.next(12)
    assert last is not None
    assert last[8:] == b"\xff" * 4
    assert sequence.next(12) is None
    sequence.pay(100)
    assert sequence.next(12) is None
    assert sequence.next(16) is None


@pytest.mark.parametrize(("policy", "third"), [(NoncePolicy.CALLER, True), (NoncePolicy.MONOTONIC, False)])
def test_a_callers_nonce_is_taken_once(store: Store, key_id: KeyId, policy: NoncePolicy, third: bool) -> None:
    caller = CallerNonces(store, limit=10)
    caller.use(key_id, policy, (2).to_bytes(12, "big"))
    with pytest.raises(KeyUseError) as refusal:
        caller.use(key_id, policy, (2).to_bytes(12, "big"))
    assert refusal.value.status is Status.NONCE_REUSED
    if third:
        caller.use(key_id, policy, (1).to_bytes(12, "big"))
    else:
        with pytest.raises(KeyUseError):
            caller.use(key_id, policy, (1).to_bytes(12, "big"))


def test_remembering_has_a_limit(store: Store, key_id: KeyId) -> None:
    caller = CallerNonces(store, limit=1)
    caller.use(key_id, NoncePolicy.CALLER, b"a" * 12)
    with pytest.raises(KeyUseError) as refusal:
        caller.use(key_id, NoncePolicy.CALLER, b"b" * 12)
    assert refusal.value.status is Status.KEY_ROTATION_REQUIRED


def test_a_caller_never_chooses_where_the_service_does(store: Store, key_id: KeyId) -> None:
    with pytest.raises(HsmBridgeError) as refusal:
        CallerNonces(store).use(key_id, NoncePolicy.SERVICE, b"a" * 12)
    assert refusal.value.status is Status.INTERNAL


# Those that a caller chooses for an ephemeral key


@pytest.fixture
def room() -> Room:
    return Room(100 * REMEMBERED_SIZE, "no room")


@pytest.mark.parametrize(("policy", "smaller_is_taken"), [(NoncePolicy.CALLER, True), (NoncePolicy.MONOTONIC, False)])
def test_a_nonce_chosen_for_an_ephemeral_key_is_taken_once(
    room: Room, policy: NoncePolicy, smaller_is_taken: bool
) -> None:
    chosen = ChosenNonces(policy, room)
    chosen.use(GCM, (2).to_bytes(12, "big"))
    with pytest.raises(KeyUseError) as refusal:
        chosen.use(GCM, (2).to_bytes(12, "big"))
    assert refusal.value.status is Status.NONCE_REUSED
    if smaller_is_taken:
        chosen.use(GCM, (1).to_bytes(12, "big"))
    else:
        with pytest.raises(KeyUseError):
            chosen.use(GCM, (1).to_bytes(12, "big"))
        with pytest.raises(RequestError):
            chosen.use(GCM, (3).to_bytes(16, "big"))
    chosen.use(GCM, (3).to_bytes(12, "big"))


def test_of_two_threads_with_one_nonce_one_gets_it() -> None:
    class Meeting(Room):
        """Where two that both believe that the nonce is new would meet."""

        def take(self, count: int) -> bool:
            with suppress(threading.BrokenBarrierError):
                both.wait(timeout=0.5)
            return super().take(count)

    both = threading.Barrier(2)
    chosen = ChosenNonces(NoncePolicy.CALLER, Meeting(10_000, "no room"))
    refusals: list[Status] = []

    def work() -> None:
        try:
            chosen.use(GCM, b"n" * 12)
        except KeyUseError as refusal:
            refusals.append(refusal.status)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)
    assert refusals == [Status.NONCE_REUSED]


def test_nonces_of_a_caller_are_of_one_algorithm(room: Room) -> None:
    chosen = ChosenNonces(NoncePolicy.CALLER, room)
    chosen.use(GCM, b"n" * 12)
    with pytest.raises(KeyUseError) as refusal:
        chosen.use("AES-256-CTR", b"n" * 12 + b"\0\0\0\2")  # the keystream of that very encryption
    assert refusal.value.status is Status.ALGORITHM_NOT_ALLOWED
    assert GCM in refusal.value.message
    chosen.use(GCM, b"m" * 12)


def test_one_that_was_refused_does_not_say_which_algorithm(room: Room) -> None:
    chosen = ChosenNonces(NoncePolicy.CALLER, Room(0, "no room"))
    with pytest.raises(LimitError):
        chosen.use(GCM, b"n" * 12)
    chosen._room = room
    chosen.use("AES-256-CTR", b"n" * 16)


def test_remembering_with_an_ephemeral_key_has_a_limit(room: Room) -> None:
    chosen = ChosenNonces(NoncePolicy.CALLER, room, limit=1)
    chosen.use(GCM, b"a" * 12)
    with pytest.raises(KeyUseError) as refusal:
        chosen.use(GCM, b"b" * 12)
    assert refusal.value.status is Status.KEY_ROTATION_REQUIRED
    with pytest.raises(KeyUseError) as refusal:
        chosen.use(GCM, b"a" * 12)
    assert refusal.value.status is Status.NONCE_REUSED, "which is the worse of the two"


def test_what_is_remembered_takes_room_until_the_key_is_gone() -> None:
    room = Room(2 * REMEMBERED_SIZE, "no room")
    first, second = ChosenNonces(NoncePolicy.CALLER, room), ChosenNonces(NoncePolicy.CALLER, room)
    first.use(GCM, b"a" * 12)
    second.use(GCM, b"a" * 12)
    with pytest.raises(LimitError) as refusal:
        second.use(GCM, b"b" * 12)
    assert refusal.value.status is Status.TOO_MANY_RESOURCES
    first.forget()
    second.use(GCM, b"b" * 12)
    second.forget()
    assert room.empty
    with pytest.raises(ConnectionLost):
        second.use(GCM, b"a" * 12)  # by an operation that outlived the connection
    assert room.empty


def test_nonces_that_grow_take_no_room(room: Room) -> None:
    chosen = ChosenNonces(NoncePolicy.MONOTONIC, room)
    for number in range(200):
        chosen.use(GCM, number.to_bytes(12, "big"))
    assert room.empty


def test_an_ephemeral_key_ends_at_two_to_the_32_chosen_nonces(room: Room) -> None:
    chosen = ChosenNonces(NoncePolicy.MONOTONIC, room)
    chosen._count = MOST_ENCRYPTIONS - 1
    chosen.use(GCM, b"a" * 12)
    with pytest.raises(KeyUseError) as refusal:
        chosen.use(GCM, b"b" * 12)
    assert refusal.value.status is Status.KEY_ROTATION_REQUIRED
