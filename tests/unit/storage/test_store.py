"""The store: what is written is read again, changes are whole, and several processes agree."""

import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from hsmbridge.core.errors import KeyUseError, ResourceError, Status, StoreError
from hsmbridge.core.identifiers import KeyId, QualifiedName
from hsmbridge.core.lifecycle import KeyVersionState
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.core.policy import NoncePolicy, Role
from hsmbridge.keys.slots import Slots
from hsmbridge.storage.records import SlotId, SlotRecord, SlotState
from hsmbridge.storage.store import Store
from tests.unit.storage.opened import (
    ALICE,
    BOB,
    create,
    destroy,
    made_key,
    name_of,
    new_slot,
    new_version,
    open_at,
    rotate,
)


def test_everything_that_is_written_is_read_again(tmp_path: Path) -> None:
    store = open_at(tmp_path)
    slots = Slots(store)
    plan = replace(
        new_slot("full", "RSA-2048", P.SIGN | P.DECRYPT, ("RSA-PSS-SHA256", "RSA-OAEP-SHA256"), NoncePolicy.CALLER),
        fallback=True,
        sign_and_decrypt=True,
        derive_to_software=True,
        imported_wrapping_key=True,
    )
    first = replace(new_version(plan.permissions), fell_back_from="tpm")
    begun = slots.create(plan, first)
    assert store.find(plan.name) == begun
    record = slots.activate(begun.id, first.key_id, made_key(b"\0\xff" * 3000))
    record = slots.grant(record.id, BOB, Role.USE, P.SIGN)
    record = rotate(slots, record)
    store.close()
    again = open_at(tmp_path)
    found = again.find(plan.name)
    assert found == record
    assert found is not None
    assert found.versions[0].reference == b"\0\xff" * 3000
    assert found.versions[0].token == "serial-1"
    assert found.versions[0].fell_back_from == "tpm"
    assert [entry.principal for entry in found.access] == [ALICE, BOB]
    again.close()


def test_a_name_is_taken_until_its_slot_is_destroyed(store: Store, slots: Slots) -> None:
    first = create(slots)
    with pytest.raises(ResourceError) as refusal:
        create(slots)
    assert refusal.value.status is Status.RESOURCE_EXISTS
    assert "uid-1000/web" in refusal.value.message
    destroy(slots, first)
    assert store.find(first.name) is None
    second = create(slots)
    assert second.id != first.id
    kept = store.get(first.id)
    assert kept is not None
    assert kept.state is SlotState.DESTROYED
    assert [version.state for version in kept.versions] == [KeyVersionState.DESTROYED]
    assert kept.versions[0].reference == b""
    assert kept.versions[0].public_key != b"", "what was signed before can still be verified elsewhere"


def test_slots_are_listed_by_namespace_and_by_who_may_see_them(store: Store, slots: Slots) -> None:
    create(slots, new_slot("b"))
    shared = create(slots, new_slot("a"))
    create(slots, replace(new_slot("c"), name=QualifiedName("web", "c")))
    gone = destroy(slots, create(slots, new_slot("gone")))
    slots.grant(shared.id, BOB, Role.USE, P.SIGN)

    def names(namespace: str = "", principal: str = "", *, destroyed: bool = False) -> list[str]:
        return [str(record.name) for record in store.list_slots(namespace, principal, destroyed=destroyed).records]

    assert names() == ["uid-1000/a", "uid-1000/b", "web/c"]
    assert names("web") == ["web/c"]
    assert names(principal=BOB) == ["uid-1000/a"]
    assert names("web", BOB) == []
    assert str(gone.name) in names(destroyed=True)


def test_a_slot_that_is_not_there_is_none(store: Store) -> None:
    assert store.find(name_of("absent")) is None
    assert store.get(SlotId(b"x" * 16)) is None
    assert store.revision_of(name_of("absent")) is None
    assert store.change(SlotId(b"x" * 16), lambda record: record) is None


def test_a_change_that_raises_changes_nothing(store: Store, slots: Slots) -> None:
    record = create(slots)
    revoked = slots.revoke(record.id, 1)
    with pytest.raises(KeyUseError):
        slots.revoke(record.id, 1)
    assert store.find(record.name) == revoked


def test_the_store_refuses_changes_that_no_decision_may_make(store: Store, slots: Slots) -> None:
    record = create(slots)
    version = record.versions[0]
    illegal = {
        "a permission added": lambda slot: replace(slot, permissions=slot.permissions | P.DERIVE),
        "another key type": lambda slot: replace(slot, key_type="AES-256"),
        "back to the start": lambda slot: replace(
            slot, versions=(replace(version, state=KeyVersionState.CREATING, owner="x"),)
        ),
        "a version lost": lambda slot: replace(slot, versions=()),
        "a version that begins active": lambda slot: replace(
            slot, versions=(*slot.versions, replace(version, key_id=KeyId(b"k" * 16), number=2))
        ),
        "nobody administers": lambda slot: replace(slot, access=()),
        "younger than it was": lambda slot: replace(slot, generation=0),
        "a slot undone": lambda slot: replace(slot, state=SlotState.PENDING),
        "a mask above the ceiling": lambda slot: replace(
            slot, access=(replace(slot.access[0], permissions=slot.permissions | P.WRAP),)
        ),
    }
    for what, decide in illegal.items():
        with pytest.raises(StoreError) as refusal:
            store.change(record.id, decide)
        assert refusal.value.status is Status.INTERNAL, what
    assert store.find(record.name) == record


def test_what_is_not_finished_is_found_with_who_does_it(store: Store, slots: Slots) -> None:
    record = create(slots)
    slots.begin_version(record.id, new_version())
    slots.begin_destroy(record.id, 1)
    found, refused = store.unfinished()
    assert refused == []
    assert [(item.version.number, item.version.state, item.version.owner) for item in found] == [
        (1, KeyVersionState.DESTROYING, ""),
        (2, KeyVersionState.CREATING, store.incarnation),
    ]
    assert store.owner_is_alive(store.incarnation)


def test_every_key_id_of_a_provider_is_known_even_of_destroyed_keys(store: Store, slots: Slots) -> None:
    first, second = create(slots, new_slot("a")), create(slots, new_slot("b"))
    destroy(slots, first)
    assert store.key_ids("software") == {first.versions[0].key_id, second.versions[0].key_id}
    assert store.key_ids("tpm") == set()


def _attempt(
    store: Store, name: str, record: SlotRecord | None, barrier: threading.Barrier, results: list[str]
) -> None:
    barrier.wait(timeout=10)
    try:
        if record is None:
            create(Slots(store), new_slot(name))
        else:
            rotate(Slots(store), record)
    except (ResourceError, KeyUseError) as refusal:
        results.append(refusal.status.name)
    else:
        results.append("done")


def race(store_a: Store, store_b: Store, act: str, rounds: int = 12) -> list[list[str]]:
    """What became of the same thing done at once through two stores, each round with a slot of its own."""
    outcomes: list[list[str]] = []
    for number in range(rounds):
        name = f"slot-{number}"
        record = None if act == "create" else create(Slots(store_a), new_slot(name))
        barrier = threading.Barrier(2)
        results: list[str] = []

        threads = [
            threading.Thread(target=_attempt, args=(store, name, record, barrier, results))
            for store in (store_a, store_b)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=30)
        outcomes.append(sorted(results))
    return outcomes


def test_of_two_creates_of_one_name_exactly_one_wins(tmp_path: Path) -> None:
    first, second = open_at(tmp_path), open_at(tmp_path)
    for outcome in race(first, second, "create"):
        assert outcome == ["RESOURCE_EXISTS", "done"]
    first.close()
    second.close()


def test_of_two_rotates_at_once_both_succeed_in_turn_or_one_is_told_to_wait(tmp_path: Path) -> None:
    first, second = open_at(tmp_path), open_at(tmp_path)
    for number, outcome in enumerate(race(first, second, "rotate")):
        assert outcome in (["done", "done"], ["KEY_STATE_FORBIDS", "done"])
        record = first.find(name_of(f"slot-{number}"))
        assert record is not None
        assert record.active is not None
        assert len(list(record.in_state(KeyVersionState.ACTIVE))) == 1
        assert len(record.versions) == 1 + outcome.count("done")
        assert record.active.number == len(record.versions)
    first.close()
    second.close()


def test_two_processes_that_create_the_same_names_share_them_out(tmp_path: Path) -> None:
    open_at(tmp_path).close()
    program = (
        "import sys; from pathlib import Path; from hsmbridge.core.errors import ResourceError\n"
        "from tests.unit.storage.opened import *\n"
        "store = open_at(Path(sys.argv[1])); print('ready', flush=True); sys.stdin.readline()\n"
        "for number in range(20):\n"
        "    try: create(Slots(store), new_slot(f'slot-{number}'))\n"
        "    except ResourceError: continue\n"
        "    print(number)\n"
        "store.close()"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    won = [int(line) for process in processes for line in process.communicate(timeout=60)[0].split()]
    assert sorted(won) == list(range(20))
    store = open_at(tmp_path)
    assert len(store.list_slots().records) == 20
    store.close()


def test_many_threads_may_use_one_store(store: Store, slots: Slots) -> None:
    record = create(slots)
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            mine = create(slots, new_slot(f"slot-{number}"))
            for _ in range(5):
                mine = rotate(slots, mine)
                slots.grant(record.id, f"uid:{2000 + number}", Role.USE, P.SIGN)
                found = store.find(record.name)
                assert found is not None
                store.list_slots()
        except BaseException as failure:  # noqa: BLE001 - a thread's outermost boundary
            failures.append(failure)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert failures == []
    assert len(store.list_slots().records) == 7
