"""A process that makes, rotates, revokes and destroys slots until it is killed.

Its provider is a directory: a key is a file, written in two steps as a token writes an object, and a reference is
the digest of the whole file. Before each act it says what it is about to do, and after it has been told that it is
durable, that it is done: one message each, in one write.
"""

import hashlib
import os
import random
import secrets
from multiprocessing.connection import Connection
from pathlib import Path

from hsmbridge.core.calls import MadeKey
from hsmbridge.core.identifiers import KeyId
from hsmbridge.core.policy import Protection
from hsmbridge.keys.slots import Slots
from hsmbridge.storage.records import SlotRecord
from tests.unit.storage.opened import new_slot, new_version, open_at


class Directory:
    """Keys as files."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def generate(self, key_id: KeyId) -> MadeKey:
        """Make a key, half of it first."""
        material = secrets.token_bytes(64)
        with (self._path / key_id.hex()).open("xb") as file:
            for half in (material[:32], material[32:]):
                file.write(half)
                file.flush()
                os.fsync(file.fileno())
        return MadeKey(hashlib.sha256(material).digest(), b"", Protection.TOKEN)

    def destroy(self, key_id: KeyId) -> None:
        """Remove a key, whole, half or not there."""
        (self._path / key_id.hex()).unlink(missing_ok=True)

    def holds(self, key_id: KeyId, reference: bytes) -> bool:
        """Whether the key is there and whole."""
        path = self._path / key_id.hex()
        return path.exists() and hashlib.sha256(path.read_bytes()).digest() == reference

    def key_ids(self) -> set[KeyId]:
        """Everything that is there."""
        return {KeyId(bytes.fromhex(path.name)) for path in self._path.iterdir()}


def create(slots: Slots, provider: Directory, name: str) -> SlotRecord:
    """A slot with its first key."""
    first = new_version()
    begun = slots.create(new_slot(name), first)
    return slots.activate(begun.id, first.key_id, provider.generate(first.key_id))


def rotate(slots: Slots, provider: Directory, record: SlotRecord) -> SlotRecord:
    """A new active key."""
    new = new_version()
    slots.begin_version(record.id, new)
    return slots.activate(record.id, new.key_id, provider.generate(new.key_id))


def destroy(slots: Slots, provider: Directory, record: SlotRecord) -> SlotRecord:
    """No slot and no keys any more."""
    begun = slots.begin_destroy(record.id)
    for version in begun.versions:
        provider.destroy(version.key_id)
        begun = slots.finish_destroy(record.id, version.key_id)
    return begun


def work(directory: Path, prefix: str, says: Connection) -> None:
    """Work until killed."""
    slots = Slots(open_at(directory))
    provider = Directory(directory / "token")
    records: dict[str, SlotRecord] = {}
    says.send(("ready", "", ""))
    number = 0
    while True:
        act = random.choice(("create", "rotate", "rotate", "revoke", "destroy"))
        able = [name for name, record in records.items() if act != "revoke" or record.active is not None]
        if act == "create" or not able:
            act, name, number = "create", f"{prefix}-{number}", number + 1
        else:
            name = random.choice(able)
        says.send(("begin", act, name))
        if act == "create":
            records[name] = create(slots, provider, name)
        elif act == "rotate":
            records[name] = rotate(slots, provider, records[name])
        elif act == "revoke":
            records[name] = slots.revoke(records[name].id)
        else:
            destroy(slots, provider, records.pop(name))
        says.send(("done", act, name))
