"""Opening a store: made when it is not there, migrated when it is old, refused with a reason when it cannot be used."""

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from hsmbridge.core.errors import Status, StoreError
from hsmbridge.keys.slots import Slots
from hsmbridge.storage import owners, schema, sqlite
from hsmbridge.storage.opening import open_store
from hsmbridge.storage.protectors import KeyFileProtector
from tests.unit.storage.opened import behind_its_back, create, database, name_of, new_slot, open_at


def refused(directory: Path) -> StoreError:
    with pytest.raises(StoreError) as refusal:
        open_at(directory)
    return refusal.value


def test_a_store_is_made_where_there_is_none_and_found_again(tmp_path: Path) -> None:
    first = open_at(tmp_path)
    record = create(Slots(first))
    first.close()
    second = open_at(tmp_path)
    assert second.find(record.name) == record
    second.close()


def test_migrations_make_the_tables_that_the_code_works_with(tmp_path: Path) -> None:
    open_at(tmp_path).close()
    engine = sqlite.open_engine(database(tmp_path))
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), schema.metadata) == []
    engine.dispose()


def test_the_partial_indices_are_those_of_the_schema(tmp_path: Path) -> None:
    open_at(tmp_path).close()
    with behind_its_back(tmp_path) as connection:
        migrated = dict(connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql != ''"))
    with closing(sqlite3.connect(":memory:")) as connection:
        engine = sa.create_engine("sqlite://", creator=lambda: connection)
        schema.metadata.create_all(engine)
        designed = dict(connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql != ''"))
        engine.dispose()
    assert migrated == designed


def test_the_newest_migration_is_the_one_that_the_code_expects() -> None:
    config = Config()
    config.set_main_option("script_location", "hsmbridge.storage:migrations")
    config.set_main_option("path_separator", "os")
    assert ScriptDirectory.from_config(config).get_heads() == [schema.REVISION]


def test_opening_twice_migrates_once(tmp_path: Path) -> None:
    open_at(tmp_path).close()
    with behind_its_back(tmp_path) as connection:
        before = list(connection.execute("SELECT sql FROM sqlite_master"))
    open_at(tmp_path).close()
    with behind_its_back(tmp_path) as connection:
        assert list(connection.execute("SELECT sql FROM sqlite_master")) == before
        assert list(connection.execute("SELECT version_num FROM alembic_version")) == [(schema.REVISION,)]


def test_a_store_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    open_at(tmp_path).close()
    with behind_its_back(tmp_path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    refusal = refused(tmp_path)
    assert refusal.status is Status.STORE_VERSION
    assert "newer" in refusal.message
    with behind_its_back(tmp_path) as connection:
        assert list(connection.execute("SELECT version_num FROM alembic_version")) == [("9999",)]


def test_store_and_key_file_are_their_owners_alone(tmp_path: Path) -> None:
    store = open_at(tmp_path)
    for path in tmp_path.iterdir():
        assert path.stat().st_mode & 0o077 == 0, path.name
    store.close()


def test_a_missing_directory_is_named_as_the_trouble_and_not_made(tmp_path: Path) -> None:
    refusal = refused(tmp_path / "absent")
    assert refusal.status is Status.STORE_UNAVAILABLE
    assert "does not exist; create it" in refusal.message
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///relative.db", "postgresql://host/store", "no url"])
def test_a_url_that_is_no_absolute_sqlite_file_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(StoreError) as refusal:
        open_store(url, KeyFileProtector(tmp_path / "key"))
    assert refusal.value.status is Status.STORE_UNAVAILABLE
    assert "URL" in refusal.value.message


def test_a_directory_in_the_place_of_the_file_is_refused(tmp_path: Path) -> None:
    database(tmp_path).mkdir()
    assert "not a file" in refused(tmp_path).message


def without_write_access(directory: Path, act: Callable[[], object]) -> str:
    """What `act` raises in a process that may read the directory and not write it."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            act()
            os.write(writer, b"nothing")
        except StoreError as refusal:
            os.write(writer, f"{refusal.status.name}: {refusal.message}".encode())
        except BaseException as failure:  # noqa: BLE001 - the child's outermost boundary
            os.write(writer, repr(failure).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answers:
        said = answers.read()
    os.waitpid(child, 0)
    return said


@pytest.mark.parametrize("there_already", [False, True])
def test_a_read_only_directory_is_named_as_the_trouble(there_already: bool, short_directory: Path) -> None:
    if there_already:
        open_at(short_directory).close()
        database(short_directory).chmod(0o444)
    short_directory.chmod(0o555)
    said = without_write_access(short_directory, lambda: open_at(short_directory))
    assert said.startswith("STORE_UNAVAILABLE: The store's directory or file cannot be written; give")


def test_a_file_that_is_no_store_is_refused_and_left_alone(tmp_path: Path) -> None:
    database(tmp_path).write_bytes(b"a letter to my aunt, and not short at all" * 100)
    refusal = refused(tmp_path)
    assert refusal.status is Status.STORE_UNAVAILABLE
    assert "not a hsmbridge store" in refusal.message
    assert database(tmp_path).read_bytes().startswith(b"a letter")


def test_a_damaged_store_is_refused_with_advice(tmp_path: Path) -> None:
    store = open_at(tmp_path)
    slots = Slots(store)
    for number in range(40):
        create(slots, new_slot(f"slot-{number}"))
    store.close()
    with database(tmp_path).open("r+b") as file:
        for page in range(1, 12):
            file.seek(4096 * page)
            file.write(os.urandom(2048))

    def read_everything() -> None:
        opened = open_at(tmp_path)
        opened.list_slots()

    with pytest.raises(StoreError) as refusal:
        read_everything()
    assert refusal.value.status is Status.STORE_UNAVAILABLE
    assert "damaged" in refusal.value.message
    assert "restore" in refusal.value.message


def test_a_locked_store_is_waited_for_and_then_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT", 0.2)
    store = open_at(tmp_path)
    record = create(Slots(store))
    with closing(sqlite3.connect(database(tmp_path), isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreError) as refusal:
            Slots(store).revoke(record.id)
        assert refusal.value.status is Status.STORE_UNAVAILABLE
        assert "holds the store locked" in refusal.value.message
        assert store.find(record.name) == record, "readers never wait for a writer"
    Slots(store).revoke(record.id)
    store.close()


def test_a_store_that_somebody_is_opening_is_waited_for_and_then_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_at(tmp_path).close()
    monkeypatch.setattr(owners, "OPENING_TIMEOUT", 0.1)
    with owners.opening(tmp_path / "slots.db.owners"):
        assert "is opening the store" in refused(tmp_path).message
    open_at(tmp_path).close()


def test_a_store_whose_master_key_could_not_be_kept_is_not_there_half_made(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    with pytest.raises(StoreError) as refusal:
        open_store(f"sqlite:///{database(tmp_path)}", KeyFileProtector(keys / "store.key"))
    assert refusal.value.status is Status.MASTER_KEY_UNAVAILABLE
    with behind_its_back(tmp_path) as connection:
        assert connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
    keys.mkdir()
    open_store(f"sqlite:///{database(tmp_path)}", KeyFileProtector(keys / "store.key")).close()


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    store = open_at(tmp_path)
    slots = Slots(store)
    record = create(slots)
    store._database._engine.dispose()

    def limit(connection: sqlite3.Connection, _entry: object) -> None:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")

    sa.event.listen(store._database._engine, "connect", limit)

    def fill() -> None:
        for number in range(200):
            create(slots, new_slot(f"slot-{number}"))

    with pytest.raises(StoreError) as refusal:
        fill()
    assert refusal.value.status is Status.STORE_UNAVAILABLE
    assert "full" in refusal.value.message
    assert store.find(record.name) == record
    store.close()


def test_the_stores_own_row_cannot_be_taken_away_unnoticed(tmp_path: Path) -> None:
    store = open_at(tmp_path)
    create(Slots(store))
    store.close()
    with behind_its_back(tmp_path) as connection:
        connection.execute("DELETE FROM store")
    assert refused(tmp_path).status is Status.STORE_TAMPERED


def test_the_check_of_a_healthy_store_passes_and_of_a_vanished_one_does_not(tmp_path: Path) -> None:
    store = open_at(tmp_path)
    store.check()
    with behind_its_back(tmp_path) as connection:
        connection.execute("DROP TABLE store")
    with pytest.raises(StoreError) as refusal:
        store.check()
    assert refusal.value.status is Status.STORE_UNAVAILABLE
    store.close()


def test_processes_that_open_a_new_store_at_once_agree_on_one_master_key(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from tests.unit.storage.opened import *\n"
        "store = open_at(Path(sys.argv[1])); print('ready', flush=True); sys.stdin.readline()\n"
        "record = create(Slots(store), new_slot(sys.argv[2])); store.close()"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path), f"slot-{number}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(3)
    ]
    for process in processes:
        output, _ = process.communicate("go\n", timeout=60)
        assert output == "ready\n"
        assert process.returncode == 0
    store = open_at(tmp_path)
    listing = store.list_slots()
    assert [record.name for record in listing.records] == [name_of(f"slot-{number}") for number in range(3)]
    assert listing.tampered == ()
    store.close()


def test_a_copied_store_opens_with_its_key_file_and_not_without(tmp_path: Path) -> None:
    home, copy = tmp_path / "home", tmp_path / "copy"
    home.mkdir()
    store = open_at(home)
    record = create(Slots(store))
    store.close()
    copy.mkdir()
    shutil.copy(database(home), database(copy))
    assert refused(copy).status is Status.MASTER_KEY_UNAVAILABLE
    shutil.copy(home / "store.key", copy / "store.key")
    restored = open_at(copy)
    assert restored.find(record.name) == record
    restored.close()
