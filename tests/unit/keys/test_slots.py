"""Slots in the store: what each step leaves behind, and what the sweep makes of steps that were never ended."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from hsmbridge.core.errors import KeyUseError, ResourceError, Status
from hsmbridge.core.lifecycle import KeyVersionState
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.core.policy import Role
from hsmbridge.keys.slots import Slots
from hsmbridge.storage.records import AccessEntry, SlotId, SlotState
from hsmbridge.storage.store import Store
from tests.unit.storage.opened import (
    ALICE,
    BOB,
    SIGNING,
    create,
    destroy,
    made_key,
    name_of,
    new_slot,
    new_version,
    open_at,
    rotate,
)

State = KeyVersionState


def test_a_slot_is_made_in_two_steps_and_its_creator_administers(store: Store, slots: Slots) -> None:
    first = new_version()
    begun = slots.create(new_slot(), first)
    assert begun.state is SlotState.PENDING
    assert begun.versions[0].owner == store.incarnation
    active = slots.activate(begun.id, first.key_id, made_key())
    assert active.state is SlotState.LIVE
    assert active.access == (AccessEntry(ALICE, Role.ADMINISTER, SIGNING),)
    assert store.find(active.name) == active


def test_a_create_that_failed_leaves_nothing(store: Store, slots: Slots) -> None:
    first = new_version()
    begun = slots.create(new_slot(), first)
    assert slots.abandon(begun.id, first.key_id)
    with pytest.raises(ResourceError):
        slots.create(new_slot(), None)
    slots.remove_abandoned(begun.id, first.key_id)
    slots.remove_abandoned(begun.id, first.key_id)
    assert store.find(begun.name) is None
    assert store.get(begun.id) is None
    create(slots)


def test_a_rotate_that_failed_leaves_the_slot_as_it_was(store: Store, slots: Slots) -> None:
    record = create(slots)
    new = new_version()
    slots.begin_version(record.id, new)
    assert slots.abandon(record.id, new.key_id)
    slots.remove_abandoned(record.id, new.key_id)
    found = store.find(record.name)
    assert found is not None
    assert (found.versions, found.generation) == (record.versions, record.generation)


def test_what_became_active_after_all_is_not_abandoned(store: Store, slots: Slots) -> None:
    """An activation whose commit failed in an unknown way may have taken place: nobody may destroy the key then."""
    record = create(slots)
    key_id = record.versions[0].key_id
    assert not slots.abandon(record.id, key_id)
    slots.remove_abandoned(record.id, key_id)
    assert store.find(record.name) == record
    assert not slots.abandon(SlotId(b"x" * 16), key_id)


def test_a_fallback_to_another_provider_keeps_the_slot(store: Store, slots: Slots) -> None:
    first, second = new_version(provider="tpm"), new_version(provider="software")
    begun = slots.create(new_slot(), first)
    again = slots.begin_version(begun.id, second, instead_of=first.key_id)
    assert [version.state for version in again.versions] == [State.ABANDONED, State.CREATING]
    slots.remove_abandoned(begun.id, first.key_id)
    assert slots.activate(begun.id, second.key_id, made_key()).state is SlotState.LIVE


def test_a_slot_destroyed_while_a_version_is_made_refuses_the_version(store: Store, slots: Slots) -> None:
    record = create(slots)
    new = new_version()
    slots.begin_version(record.id, new)
    destroyed = destroy(slots, record)
    assert destroyed.state is SlotState.DESTROYED
    with pytest.raises(KeyUseError) as refusal:
        slots.activate(record.id, new.key_id, made_key())
    assert refusal.value.status is Status.KEY_STATE_FORBIDS
    assert slots.abandon(record.id, new.key_id)
    slots.remove_abandoned(record.id, new.key_id)
    assert slots.sweep() == []


def test_destroying_may_be_ended_later_by_anybody(tmp_path: Path) -> None:
    first = open_at(tmp_path)
    slots = Slots(first)
    record = rotate(slots, create(slots))
    begun = slots.begin_destroy(record.id)
    slots.finish_destroy(record.id, begun.versions[0].key_id)
    first.close()
    second = open_at(tmp_path)
    (item,) = Slots(second).sweep()
    assert (item.version.number, item.version.state) == (2, State.DESTROYING)
    assert item.version.reference == b"reference of " + item.version.key_id
    with pytest.raises(ResourceError):
        Slots(second).create(new_slot(), None)
    done = Slots(second).finish_destroy(item.slot.id, item.version.key_id)
    assert done.state is SlotState.DESTROYED
    assert Slots(second).sweep() == []
    second.close()


def test_the_sweep_leaves_alone_what_living_processes_make(tmp_path: Path) -> None:
    first, second = open_at(tmp_path), open_at(tmp_path)
    new = new_version()
    begun = Slots(first).create(new_slot(), new)
    assert Slots(second).sweep() == []
    assert Slots(first).sweep() == []
    assert Slots(first).activate(begun.id, new.key_id, made_key()).active is not None
    first.close()
    second.close()


def test_the_sweep_gives_up_what_a_dead_process_began(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from tests.unit.storage.opened import *\n"
        "slots = Slots(open_at(Path(sys.argv[1])))\n"
        "record = create(slots)\n"
        "slots.begin_version(record.id, new_version())\n"
        "slots.create(new_slot('pending'), new_version())\n"
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], timeout=60, check=False)
    store = open_at(tmp_path)
    slots = Slots(store)
    swept = slots.sweep()
    assert [(str(item.slot.name), item.version.number, item.version.state) for item in swept] == [
        ("uid-1000/pending", 1, State.ABANDONED),
        ("uid-1000/web", 2, State.ABANDONED),
    ]
    assert slots.sweep() == swept, "until they are removed they come again"
    for item in swept:
        slots.remove_abandoned(item.slot.id, item.version.key_id)
    assert slots.sweep() == []
    assert store.find(name_of("pending")) is None
    found = store.find(name_of("web"))
    assert found is not None
    assert [version.state for version in found.versions] == [State.ACTIVE]
    store.close()


def test_a_version_of_a_dead_process_does_not_block_a_new_one(tmp_path: Path) -> None:
    dead = open_at(tmp_path)
    record = create(Slots(dead))
    Slots(dead).begin_version(record.id, new_version())
    dead.close()
    store = open_at(tmp_path)
    rotated = rotate(Slots(store), record)
    assert [version.state for version in rotated.versions] == [State.ROTATED, State.ABANDONED, State.ACTIVE]
    store.close()


def test_everything_that_callers_notice_raises_the_generation(slots: Slots) -> None:
    record = create(slots)
    changes = (
        partial(rotate, slots, record),
        partial(slots.grant, record.id, BOB, Role.USE, P.SIGN),
        partial(slots.ungrant, record.id, BOB),
        partial(slots.restrict, record.id, P.GENERATE),
        partial(slots.revoke, record.id, 1),
        partial(slots.begin_destroy, record.id, 1),
        partial(slots.begin_destroy, record.id),
    )
    generations = [change().generation for change in changes]
    assert generations == list(range(record.generation + 1, record.generation + 8))


def test_a_slot_that_is_gone_is_not_found(slots: Slots) -> None:
    absent = SlotId(b"x" * 16)
    for attempt in (
        partial(slots.begin_version, absent, new_version()),
        partial(slots.revoke, absent),
        partial(slots.begin_destroy, absent),
        partial(slots.grant, absent, BOB, Role.USE, P.SIGN),
    ):
        with pytest.raises(ResourceError) as refusal:
            attempt()
        assert refusal.value.status is Status.RESOURCE_NOT_FOUND
