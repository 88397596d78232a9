"""Certificates, trust stores and CRLs in the store: whole, authenticated, and there after a migration."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config

from hsmbridge.core.errors import LimitError, ResourceError, Status, StoreError
from hsmbridge.core.policy import Role
from hsmbridge.keys.certificates import bound, holding, new_record, unbound, with_access
from hsmbridge.keys.slots import Slots
from hsmbridge.storage import certificates, schema, sqlite
from hsmbridge.storage.certificate_records import CertificateKind, CertificateRecord
from hsmbridge.storage.store import Store
from tests.unit.storage.opened import ALICE, BOB, behind_its_back, create, database, name_of, open_at

KIND = CertificateKind.CERTIFICATE
TABLES = {
    "certificates": schema.certificates,
    "certificate_items": schema.certificate_items,
    "certificate_access": schema.certificate_access,
}


def put(store: Store, name: str = "web", kind: CertificateKind = KIND, creator: str = ALICE) -> CertificateRecord:
    return store.certificates.insert(new_record(kind, name_of(name), (b"first", b"second"), creator))


def changed(store: Store, record: CertificateRecord, **to: object) -> CertificateRecord:
    def decide(before: CertificateRecord) -> CertificateRecord:
        return replace(before, **to)  # type: ignore[arg-type]

    after = store.certificates.change(record.id, decide)
    assert after is not None
    return after


def refused(act: Callable[[], object]) -> Status:
    with pytest.raises(StoreError) as refusal:
        act()
    return refusal.value.status


def test_everything_that_is_written_is_read_again(tmp_path: Path) -> None:
    store = open_at(tmp_path)
    slot = create(Slots(store))
    record = put(store)
    written: CertificateRecord | None = record
    for decide in (
        lambda one: holding(one, (b"\0\xff" * 9000, b"", b"third")),
        lambda one: bound(one, slot.id, slot.versions[0].key_id),
        lambda one: with_access(one, BOB, Role.USE),
    ):
        written = store.certificates.change(record.id, decide)
    store.close()
    again = open_at(tmp_path)
    found = again.certificates.find(KIND, record.name)
    assert found == written
    assert found is not None
    assert (found.generation, found.revision, found.items[1]) == (4, 4, b"")
    assert [entry.principal for entry in found.access] == [ALICE, BOB]
    back = again.certificates.change(record.id, unbound)
    assert back is not None
    assert back.slot_id == b""
    again.close()


def test_each_kind_has_names_of_its_own(store: Store) -> None:
    records = [put(store, kind=kind) for kind in CertificateKind]
    with pytest.raises(ResourceError) as taken:
        put(store)
    assert taken.value.status is Status.RESOURCE_EXISTS
    for record in records:
        assert store.certificates.find(record.kind, record.name) == record
    assert set(store.certificates.list_records().records) == set(records)
    assert store.certificates.list_records(KIND).records == (records[0],)


def test_records_are_listed_by_namespace_and_by_who_may_see_them(store: Store) -> None:
    mine, theirs = put(store, "mine"), put(store, "theirs", creator=BOB)
    assert store.certificates.list_records(principal=ALICE).records == (mine,)
    assert store.certificates.list_records(principal=BOB).records == (theirs,)
    assert store.certificates.list_records(namespace="uid-9").records == ()


def test_what_is_removed_frees_its_name_and_leaves_no_row(store: Store, tmp_path: Path) -> None:
    record = put(store)
    assert store.certificates.change(record.id, lambda _: None) is None
    assert store.certificates.find(KIND, record.name) is None
    assert store.certificates.change(record.id, lambda one: one) is None
    with behind_its_back(tmp_path) as connection:
        for table in TABLES:
            assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)
    assert put(store).id != record.id


def test_a_principal_may_have_so_many_and_no_more(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificates, "RECORDS_MAX", 2)
    for name in ("a", "b"):
        put(store, name)
    with pytest.raises(LimitError) as refusal:
        put(store, "c")
    assert refusal.value.status is Status.TOO_MANY_RESOURCES
    put(store, "c", creator=BOB)


def test_a_change_keeps_what_a_record_is_and_raises_its_generation(store: Store) -> None:
    record = put(store)
    for to in ({"kind": CertificateKind.CRL, "generation": 2}, {"creator": BOB, "generation": 2}, {"items": ()}):
        assert refused(lambda to=to: changed(store, record, **to)) is Status.INTERNAL  # type: ignore[misc]
    assert store.certificates.find(KIND, record.name) == record


# Somebody edits the tables


def others(value: object) -> list[object]:
    if isinstance(value, bytes):
        return [value + b"\0", bytes([value[0] ^ 1]) + value[1:] if value else b"x" * 16, "text"]
    return [value + 100, "many", -7] if isinstance(value, int) else [f"{value}x", b"bytes", "administer"]


@pytest.mark.parametrize(
    ("table", "column"),
    [
        (name, column.name)
        for name, table in TABLES.items()
        for column in table.columns
        if column.name not in ("id", "kind", "namespace", "name", "certificate_id")
    ],
)
def test_an_edited_column_is_refused_and_the_other_records_work(
    store: Store, tmp_path: Path, table: str, column: str
) -> None:
    victim, other = put(store), put(store, "other")
    store.certificates.change(victim.id, lambda one: with_access(one, BOB, Role.USE))
    key = "id" if table == "certificates" else "certificate_id"
    with behind_its_back(tmp_path) as connection:
        rows = connection.execute(f"SELECT rowid, {column} FROM {table} WHERE {key} = ?", (victim.id,)).fetchall()
    for rowid, value in rows[:1]:
        for another in others(value):
            if another == value:
                continue
            with behind_its_back(tmp_path) as connection:
                connection.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (another, rowid))
            assert refused(lambda: store.certificates.find(KIND, victim.name)) is Status.STORE_TAMPERED
            assert refused(lambda: changed(store, victim, generation=9)) is Status.STORE_TAMPERED
            assert store.certificates.find(KIND, other.name) == other
            listing = store.certificates.list_records()
            assert (listing.records, listing.tampered) == ((other,), (("certificate", str(victim.name)),))
            with behind_its_back(tmp_path) as connection:
                connection.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (value, rowid))


@pytest.mark.parametrize(
    "edit",
    [
        "INSERT INTO certificate_items VALUES (:victim, 9, x'00')",
        "DELETE FROM certificate_items WHERE certificate_id = :victim AND position = 1",
        "UPDATE certificate_items SET position = 5 - position WHERE certificate_id = :victim",
        "INSERT INTO certificate_access VALUES (:victim, 'uid:7', 'administer')",
        "DELETE FROM certificate_access WHERE certificate_id = :victim",
        "UPDATE certificates SET kind = 'trust-store' WHERE id = :victim",
        "UPDATE certificates SET name = 'else' WHERE id = :victim",
        "UPDATE certificates SET mac = (SELECT mac FROM certificates WHERE id = :other) WHERE id = :victim",
    ],
)
def test_rows_added_taken_away_or_moved_are_refused(store: Store, tmp_path: Path, edit: str) -> None:
    victim, other = put(store), put(store, "other")
    with behind_its_back(tmp_path) as connection:
        connection.execute(
            edit, {"victim": victim.id, "other": other.id} if ":other" in edit else {"victim": victim.id}
        )
    listing = store.certificates.list_records()
    assert listing.records == (other,)
    assert len(listing.tampered) == 1


def test_a_record_put_back_to_an_older_state_is_refused_while_the_process_lives(store: Store, tmp_path: Path) -> None:
    record = put(store)
    with behind_its_back(tmp_path) as connection:
        before = {table: connection.execute(f"SELECT * FROM {table}").fetchall() for table in TABLES}
    store.certificates.change(record.id, lambda one: holding(one, (b"third",)))
    with behind_its_back(tmp_path) as connection:
        for table in reversed(TABLES):
            connection.execute(f"DELETE FROM {table}")
        for table, rows in before.items():
            for row in rows:
                connection.execute(f"INSERT INTO {table} VALUES ({','.join('?' * len(row))})", row)
    assert refused(lambda: store.certificates.find(KIND, record.name)) is Status.STORE_TAMPERED
    assert store.certificates.list_records().tampered == (("certificate", str(record.name)),)


def test_a_store_of_certificates_without_its_master_key_is_not_given_a_new_one(tmp_path: Path) -> None:
    store = open_at(tmp_path)
    put(store)
    store.close()
    with behind_its_back(tmp_path) as connection:
        connection.execute("DELETE FROM store")
    assert refused(lambda: open_at(tmp_path)) is Status.STORE_TAMPERED


def test_a_store_of_the_first_schema_is_migrated_and_takes_certificates(tmp_path: Path) -> None:
    config = Config()
    config.set_main_option("script_location", "hsmbridge.storage:migrations")
    config.set_main_option("path_separator", "os")
    engine = sqlite.open_engine(database(tmp_path))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
    engine.dispose()
    migrated = open_at(tmp_path)
    slot = create(Slots(migrated))
    record = put(migrated)
    assert migrated.find(slot.name) == slot
    assert migrated.certificates.find(KIND, record.name) == record
    migrated.close()


def test_the_change_counter_tells_of_every_change(store: Store) -> None:
    stamps = [store.changes.stamp()]
    record = put(store)
    stamps.append(store.changes.stamp())
    store.certificates.change(record.id, lambda one: with_access(one, BOB, Role.USE))
    stamps.append(store.changes.stamp())
    assert len(set(stamps)) == 3
