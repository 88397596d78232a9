"""Counters in shared memory: one writer a row, seen by every process at once."""

import os
import subprocess
import sys

import pytest

from hsmbridge.keys.slots import Slots
from hsmbridge.storage.changes import STORE_CHANGES, ChangeCounter, SharedCounters
from hsmbridge.storage.store import Store
from tests.unit.storage.opened import create


def test_cells_are_apart_and_columns_add_up() -> None:
    counters = SharedCounters.create(rows=3, columns=4)
    counters.add(0, 2)
    counters.add(1, 2, 5)
    counters.set(2, 3, 7)
    assert [counters.get(row, 2) for row in range(3)] == [1, 5, 0]
    assert [counters.total(column) for column in range(4)] == [0, 0, 6, 7]
    counters.close()


def test_a_stamp_differs_after_any_process_changed_something() -> None:
    counters = SharedCounters.create(rows=2, columns=2)
    ours, theirs = ChangeCounter(counters, 0), ChangeCounter(counters, 1)
    before = ours.stamp()
    assert ours.stamp() == before
    theirs.bump()
    after = ours.stamp()
    assert after != before
    counters.add(0, 1)
    assert ours.stamp() == after, "another column is none of its business"


def test_a_change_in_another_process_is_seen_here() -> None:
    counters = SharedCounters.create(rows=2, columns=1)
    ours = ChangeCounter(counters, 0)
    before = ours.stamp()
    program = (
        "import sys; from hsmbridge.storage.changes import *\n"
        "assert 'sqlalchemy' not in sys.modules\n"
        "counters = SharedCounters.attach(int(sys.argv[1])); ChangeCounter(counters, 1).bump()\n"
        "print(counters.rows, counters.columns)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(counters.fd)],
        pass_fds=[counters.fd],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stdout == "2 1\n"
    assert ours.stamp() != before
    assert counters.get(1, STORE_CHANGES) == 1


def test_nobody_can_cut_the_counters_short() -> None:
    counters = SharedCounters.create(rows=1, columns=1)
    for size in (0, 1 << 20):
        with pytest.raises(PermissionError):
            os.ftruncate(counters.fd, size)


def test_a_file_that_holds_no_counters_is_refused() -> None:
    fd = os.memfd_create("something")
    with pytest.raises(ValueError, match="too short"):
        SharedCounters.attach(fd)
    os.write(fd, b"x" * 4096)
    with pytest.raises(ValueError, match="does not hold counters"):
        SharedCounters.attach(fd)
    os.close(fd)
    with pytest.raises(ValueError, match="at least one"):
        SharedCounters.create(0, 1)
    with pytest.raises(ValueError, match="row 1 of 1"):
        ChangeCounter(SharedCounters.create(1, 1), 1)


def test_the_store_tells_of_its_commits_and_not_of_what_changed_nothing(store: Store, slots: Slots) -> None:
    record = create(slots)
    version = record.versions[0]
    before = store.changes.stamp()
    store.find(record.name)
    slots.abandon(record.id, version.key_id)
    store.lease_nonces(version.key_id, 10)
    assert store.changes.stamp() == before
    slots.revoke(record.id)
    assert store.changes.stamp() != before
