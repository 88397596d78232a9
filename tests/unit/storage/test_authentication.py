"""Whoever edits the tables without the master key is found out, and only the slot that was edited is refused."""

from functools import partial
from pathlib import Path

import pytest

from hsmbridge.core.errors import Status, StoreError
from hsmbridge.core.lifecycle import KeyVersionState
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.core.policy import Role
from hsmbridge.keys.slots import Slots
from hsmbridge.storage import schema
from hsmbridge.storage.records import SlotRecord
from hsmbridge.storage.store import Store
from tests.unit.storage.opened import BOB, behind_its_back, create, destroy, new_slot, open_at, rotate

SLOT_COLUMNS = [column.name for column in schema.slots.columns]
VERSION_COLUMNS = [column.name for column in schema.versions.columns]
ACCESS_COLUMNS = [column.name for column in schema.access.columns]


def others(value: object) -> list[object]:
    """Values that somebody might write in the place of one, of the right kind and of wrong ones."""
    if isinstance(value, bytes):
        flipped = bytes([value[0] ^ 1]) + value[1:] if value else b"x"
        return [flipped, value + b"\0", value.decode("latin-1"), 7]
    if isinstance(value, int):
        return [value + 1, -1, "many", float(value) + 0.5, b"1"]
    if isinstance(value, str):
        return [value + "x", value.upper() + "?", value.encode()]
    return ["token", 0]


def tampered(store: Store, record: SlotRecord) -> None:
    for read in (partial(store.get, record.id), partial(store.find, record.name)):
        with pytest.raises(StoreError) as refusal:
            read()
        assert refusal.value.status is Status.STORE_TAMPERED
        assert "changed outside of hsmbridge" in refusal.value.message


def untouched(store: Store, record: SlotRecord) -> None:
    assert store.find(record.name) == record


@pytest.mark.parametrize(
    ("table", "column"),
    [
        *(("slots", column) for column in SLOT_COLUMNS if column not in ("id", "namespace", "name")),
        *(("versions", column) for column in VERSION_COLUMNS if column != "slot_id"),
        *(("access", column) for column in ACCESS_COLUMNS if column != "slot_id"),
    ],
)
def test_an_edited_column_is_refused_and_the_other_slots_work(
    store: Store, slots: Slots, tmp_path: Path, table: str, column: str
) -> None:
    victim, other = create(slots), create(slots, new_slot("other"))
    key = "id" if table == "slots" else "slot_id"
    with behind_its_back(tmp_path) as connection:
        (value,) = connection.execute(f"SELECT {column} FROM {table} WHERE {key} = ?", (victim.id,)).fetchone()
    for changed in others(value):
        with behind_its_back(tmp_path) as connection:
            connection.execute(f"UPDATE {table} SET {column} = ? WHERE {key} = ?", (changed, victim.id))
        tampered(store, victim)
        untouched(store, other)
        with pytest.raises(StoreError):
            slots.revoke(victim.id)
        listing = store.list_slots(destroyed=True)
        assert [record.name for record in listing.records] == [other.name]
        assert len(listing.tampered) == 1
    with behind_its_back(tmp_path) as connection:
        connection.execute(f"UPDATE {table} SET {column} = ? WHERE {key} = ?", (value, victim.id))
    untouched(store, victim)


def test_a_slot_under_another_name_or_id_is_refused(store: Store, slots: Slots, tmp_path: Path) -> None:
    victim, other = create(slots), create(slots, new_slot("other"))
    for column, changed in (("namespace", "uid-1001"), ("name", "stolen"), ("id", b"\1" * 16)):
        with behind_its_back(tmp_path) as connection:
            (value,) = connection.execute(f"SELECT {column} FROM slots WHERE name = 'web'").fetchone()
            connection.execute(f"UPDATE slots SET {column} = ? WHERE name = 'web'", (changed,))
        listing = store.list_slots()
        assert [record.name for record in listing.records] == [other.name]
        assert len(listing.tampered) == 1
        with behind_its_back(tmp_path) as connection:
            connection.execute(f"UPDATE slots SET {column} = ? WHERE {column} = ?", (value, changed))
        untouched(store, victim)


def test_blobs_swapped_between_two_slots_are_refused_in_both(store: Store, slots: Slots, tmp_path: Path) -> None:
    one, two, third = create(slots), create(slots, new_slot("two")), create(slots, new_slot("third"))
    with behind_its_back(tmp_path) as connection:
        for record, blob in ((one, two.versions[0].reference), (two, one.versions[0].reference)):
            connection.execute("UPDATE versions SET reference = ? WHERE slot_id = ?", (blob, record.id))
    tampered(store, one)
    tampered(store, two)
    untouched(store, third)


def test_a_version_moved_to_another_slot_is_refused_in_both(store: Store, slots: Slots, tmp_path: Path) -> None:
    one, two, third = create(slots), create(slots, new_slot("two")), create(slots, new_slot("third"))
    with behind_its_back(tmp_path) as connection:
        connection.execute(
            "UPDATE versions SET slot_id = ?, number = 9, state = 'x' WHERE slot_id = ?", (two.id, one.id)
        )
    tampered(store, one)
    tampered(store, two)
    untouched(store, third)


def test_rows_taken_away_or_added_are_refused(store: Store, slots: Slots, tmp_path: Path) -> None:
    without_version, without_entry = rotate(slots, create(slots)), create(slots, new_slot("two"))
    slots.grant(without_entry.id, BOB, Role.USE, P.SIGN)
    with_entry, untouched_one = create(slots, new_slot("three")), create(slots, new_slot("four"))
    with behind_its_back(tmp_path) as connection:
        connection.execute("DELETE FROM versions WHERE slot_id = ? AND number = 1", (without_version.id,))
        connection.execute("DELETE FROM access WHERE slot_id = ? AND principal = ?", (without_entry.id, BOB))
        connection.execute("INSERT INTO access VALUES (?, ?, 'administer', 2047)", (with_entry.id, BOB))
    for record in (without_version, without_entry, with_entry):
        tampered(store, record)
    untouched(store, untouched_one)


def test_a_value_taken_away_is_refused(store: Store, slots: Slots, tmp_path: Path) -> None:
    victim = create(slots)
    with behind_its_back(tmp_path) as connection:
        connection.execute("UPDATE versions SET protection = NULL WHERE slot_id = ?", (victim.id,))
    tampered(store, victim)


def test_text_that_is_no_text_does_not_hide_the_other_slots(store: Store, slots: Slots, tmp_path: Path) -> None:
    victim, other = create(slots), create(slots, new_slot("other"))
    with behind_its_back(tmp_path) as connection:
        connection.execute("UPDATE slots SET creator = CAST(x'FFFE80' AS TEXT) WHERE id = ?", (victim.id,))
    tampered(store, victim)
    assert [record.name for record in store.list_slots().records] == [other.name]


def test_a_key_is_never_destroyed_because_somebody_wrote_so(store: Store, slots: Slots, tmp_path: Path) -> None:
    victims = [create(slots, new_slot(f"slot-{state}")) for state in ("creating", "abandoned", "destroying")]
    with behind_its_back(tmp_path) as connection:
        for victim, state in zip(victims, ("creating", "abandoned", "destroying"), strict=True):
            connection.execute("UPDATE versions SET state = ? WHERE slot_id = ?", (state, victim.id))
    assert slots.sweep() == []
    assert store.unfinished() == ([], sorted(str(victim.name) for victim in victims))


def snapshot(directory: Path, record: SlotRecord) -> dict[str, list[tuple[object, ...]]]:
    keys = {"slots": "id", "versions": "slot_id", "access": "slot_id"}
    with behind_its_back(directory) as connection:
        return {
            table: connection.execute(f"SELECT * FROM {table} WHERE {key} = ?", (record.id,)).fetchall()
            for table, key in keys.items()
        }


def put_back(directory: Path, record: SlotRecord, rows: dict[str, list[tuple[object, ...]]]) -> None:
    with behind_its_back(directory) as connection:
        connection.execute("DELETE FROM versions WHERE slot_id = ?", (record.id,))
        connection.execute("DELETE FROM access WHERE slot_id = ?", (record.id,))
        connection.execute("DELETE FROM slots WHERE id = ?", (record.id,))
        for table, found in rows.items():
            for row in found:
                connection.execute(f"INSERT INTO {table} VALUES ({','.join('?' * len(row))})", row)


def test_a_row_put_back_to_an_earlier_state_without_the_rest_is_refused(
    store: Store, slots: Slots, tmp_path: Path
) -> None:
    record = create(slots)
    before = snapshot(tmp_path, record)
    slots.revoke(record.id)
    with behind_its_back(tmp_path) as connection:
        connection.execute("DELETE FROM versions WHERE slot_id = ?", (record.id,))
        connection.execute(f"INSERT INTO versions VALUES ({','.join('?' * 15)})", before["versions"][0])
    tampered(store, record)


def test_a_whole_slot_put_back_is_refused_by_a_process_that_knew_better(
    store: Store, slots: Slots, tmp_path: Path
) -> None:
    record = create(slots)
    before = snapshot(tmp_path, record)
    slots.revoke(record.id)
    put_back(tmp_path, record, before)
    tampered(store, record)
    with pytest.raises(StoreError):
        slots.grant(record.id, BOB, Role.USE, P.SIGN)
    assert store.list_slots().tampered == (str(record.name),)


def test_a_whole_slot_put_back_is_not_seen_by_a_process_that_starts_afterwards(tmp_path: Path) -> None:
    """The limit of row MACs, told in the threat model: only a counter outside the store could see it."""
    store = open_at(tmp_path)
    record = create(Slots(store))
    before = snapshot(tmp_path, record)
    Slots(store).revoke(record.id)
    store.close()
    put_back(tmp_path, record, before)
    later = open_at(tmp_path)
    found = later.find(record.name)
    assert found is not None
    assert found.versions[0].state is KeyVersionState.ACTIVE
    later.close()


def test_a_destroyed_slots_record_cannot_be_brought_back_to_life(store: Store, slots: Slots, tmp_path: Path) -> None:
    record = destroy(slots, create(slots))
    with behind_its_back(tmp_path) as connection:
        connection.execute("UPDATE slots SET state = 'live' WHERE id = ?", (record.id,))
        connection.execute("UPDATE versions SET state = 'active' WHERE slot_id = ?", (record.id,))
    tampered(store, record)


@pytest.mark.parametrize("column", ["leased", "remembered", "greatest", "mac"])
def test_the_count_of_encryptions_cannot_be_turned_back(store: Store, tmp_path: Path, column: str) -> None:
    key_id = create(Slots(store)).versions[0].key_id
    store.lease_nonces(key_id, 5)
    with behind_its_back(tmp_path) as connection:
        (value,) = connection.execute(f"SELECT {column} FROM nonce_leases").fetchone()
    for changed in others(value):
        with behind_its_back(tmp_path) as connection:
            connection.execute(f"UPDATE nonce_leases SET {column} = ?", (changed,))
        for attempt in (
            lambda: store.lease_nonces(key_id, 5),
            lambda: store.record_nonce(key_id, b"n" * 12, 9),
            lambda: store.advance_nonce(key_id, b"n" * 12),
        ):
            with pytest.raises(StoreError) as refusal:
                attempt()
            assert refusal.value.status is Status.STORE_TAMPERED
