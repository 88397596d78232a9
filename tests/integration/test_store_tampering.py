"""A store that was changed with sqlite3: the slot in question is not obeyed, the others are, and doctor tells of it."""

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from hsmbridge.client import CryptoStack, KeyOperationPermission
from hsmbridge.core.errors import HsmBridgeError, Status
from hsmbridge.lab.lab import Lab
from hsmbridge.lab.options import LabOptions

ALGORITHM = "ECDSA-P256-SHA256"
PERMISSIONS = KeyOperationPermission.SIGN | KeyOperationPermission.GENERATE
HSMBRIDGE = str(Path(sys.executable).with_name("hsmbridge"))

# What an intruder would like to change: more permissions, another's access, a revoked key in use, another key.
CHANGES = {
    "permissions": "UPDATE slots SET permissions = permissions | 16777215 WHERE name = :name",
    "algorithms": "UPDATE slots SET algorithms = '' WHERE name = :name",
    "key type": "UPDATE slots SET key_type = 'EC-P384' WHERE name = :name",
    "name": "UPDATE slots SET name = 'renamed' WHERE name = :name",
    "state of a version": "UPDATE versions SET state = 'rotated' WHERE slot_id = :id AND number = 1",
    "key of a version": "UPDATE versions SET reference = (SELECT reference FROM versions WHERE slot_id != :id LIMIT 1)"
    " WHERE slot_id = :id AND number = 2",
    "provider of a version": "UPDATE versions SET provider = 'softhsm' WHERE slot_id = :id AND number = 2",
    "version removed": "DELETE FROM versions WHERE slot_id = :id AND number = 1",
    "access added": "INSERT INTO access VALUES (:id, 'uid:65534', 'administer', 16777215)",
    "access changed": "UPDATE access SET permissions = 16777215 WHERE slot_id = :id",
    "seal": "UPDATE slots SET mac = zeroblob(length(mac)) WHERE name = :name",
    "older revision": "UPDATE slots SET revision = revision - 1 WHERE name = :name",
}


MORE_AND_NEWER = "UPDATE slots SET permissions = 16777215, revision = revision + 1 WHERE name = :name"
SLOTS = {change: f"slot-{number}" for number, change in enumerate(CHANGES)}
FOUND_AS = {**SLOTS, "name": "renamed"}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """A daemon that was started on a store with a changed slot of each kind, and with one that is as it was."""
    with Lab.start(LabOptions(workers=2, tpm=False)) as lab:
        with lab.stack() as stack:
            make(stack, "untouched")
            for name in SLOTS.values():
                make(stack, name)
        for change, statement in CHANGES.items():
            execute(database(lab), statement, SLOTS[change])
        lab.restart_daemon()
        yield lab


def database(lab: Lab) -> Path:
    return lab.directory / "state" / "store.sqlite"


def execute(path: Path, statement: str, name: str) -> None:
    with closing(sqlite3.connect(path, timeout=20)) as store, store:
        store.execute("PRAGMA foreign_keys = OFF")
        (id_,) = store.execute("SELECT id FROM slots WHERE name = ?", (name,)).fetchone()
        changed = store.execute(statement, {"id": id_, "name": name}).rowcount
        assert changed == 1, statement


def make(stack: CryptoStack, name: str) -> str:
    """A slot with a revoked and an active version."""
    stack.create_slot(name, "EC-P256", PERMISSIONS, providers=["software"], algorithms=[ALGORITHM])
    stack.revoke(name)
    stack.rotate(name)
    assert stack.sign(name, ALGORITHM, b"message").version == 2
    return name


def errors_told(lab: Lab) -> dict[str, str]:
    with lab.stack() as stack:
        return {finding.subject: finding.message for finding in stack.doctor() if finding.severity == "error"}


@pytest.mark.parametrize("change", CHANGES)
def test_a_slot_that_was_changed_in_the_database_is_not_obeyed(lab: Lab, change: str) -> None:
    name = FOUND_AS[change]
    with lab.stack() as stack:
        acts: tuple[Callable[[], object], ...] = (
            lambda: stack.sign(name, ALGORITHM, b"message"),
            lambda: stack.show_slot(name),
            lambda: stack.rotate(name),
            lambda: stack.revoke(name),
            lambda: stack.grant(name, "uid:1", KeyOperationPermission.SIGN),
            lambda: stack.destroy(name),
        )
        for act in acts:
            with pytest.raises(HsmBridgeError) as refused:
                act()
            assert refused.value.status is Status.STORE_TAMPERED
        assert name not in [slot.name.rpartition("/")[2] for slot in stack.list_slots()]


def test_the_other_slots_serve_and_can_be_changed(lab: Lab) -> None:
    with lab.stack() as stack:
        assert stack.sign("untouched", ALGORITHM, b"message").version == 2
        stack.rotate("untouched")
        assert stack.sign("untouched", ALGORITHM, b"message").version == 3
        assert stack.sign(make(stack, "made-later"), ALGORITHM, b"message").version == 2
        assert "untouched" in [slot.name.rpartition("/")[2] for slot in stack.list_slots()]


def test_doctor_names_every_changed_slot_and_no_other(lab: Lab) -> None:
    told = errors_told(lab)
    assert set(told) == {f"slot uid-{os.getuid()}/{name}" for name in FOUND_AS.values()}
    assert all("changed outside" in message for message in told.values())


def test_a_daemon_that_has_the_slot_in_memory_sees_the_change_when_it_looks_again(lab: Lab) -> None:
    with lab.stack() as stack:
        name, other = make(stack, "live"), make(stack, "beside")
        execute(
            database(lab), "UPDATE slots SET permissions = 16777215, revision = revision + 1 WHERE name = :name", name
        )
        stack.rotate(other)
        with pytest.raises(HsmBridgeError) as refused:
            stack.sign(name, ALGORITHM, b"message")
        assert refused.value.status is Status.STORE_TAMPERED
        assert stack.sign(other, ALGORITHM, b"message").version == 3


def test_the_commands_name_it(lab: Lab) -> None:
    name = SLOTS["seal"]

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, **lab.environment}
        return subprocess.run(
            (HSMBRIDGE, *words), env=environment, capture_output=True, text=True, timeout=60, check=False
        )

    shown = run("slot", "show", name)
    assert shown.returncode != 0
    assert "changed" in shown.stderr
    assert name in run("doctor").stdout


def test_a_slot_put_back_from_a_backup_serves_again(lab: Lab) -> None:
    with lab.stack() as stack:
        name = make(stack, "restored")
    lab.stop_daemon()
    path = database(lab)
    backup = path.with_suffix(".backup")
    shutil.copy(path, backup)
    execute(path, CHANGES["permissions"], name)
    lab.start_daemon()
    with lab.stack() as stack, pytest.raises(HsmBridgeError) as refused:
        stack.sign(name, ALGORITHM, b"message")
    assert refused.value.status is Status.STORE_TAMPERED
    lab.stop_daemon()
    backup.replace(path)
    lab.start_daemon()
    with lab.stack() as stack:
        assert stack.sign(name, ALGORITHM, b"message").version == 2
