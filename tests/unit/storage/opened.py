"""Stores and slots to test with: short ways to what the tests are not about."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from hsmbridge.core.calls import MadeKey
from hsmbridge.core.identifiers import QualifiedName
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.core.policy import NoncePolicy, Protection
from hsmbridge.keys.slots import Slots
from hsmbridge.storage.changes import ChangeCounter
from hsmbridge.storage.opening import open_store
from hsmbridge.storage.protectors import KeyFileProtector
from hsmbridge.storage.records import Durability, NewSlot, NewVersion, SlotRecord
from hsmbridge.storage.store import Store

ALICE = "uid:1000"
BOB = "uid:1001"
SIGNING = P.SIGN | P.VERIFY | P.GENERATE


def database(directory: Path) -> Path:
    """Where the store of a directory lies."""
    return directory / "slots.db"


def open_at(
    directory: Path, changes: ChangeCounter | None = None, durability: Durability = Durability.POWER_LOSS
) -> Store:
    """The store of a directory, under a key file beside it."""
    protector = KeyFileProtector(directory / "store.key")
    return open_store(f"sqlite:///{database(directory)}", protector, durability=durability, changes=changes)


def name_of(name: str) -> QualifiedName:
    """A name in Alice's namespace."""
    return QualifiedName("uid-1000", name)


def new_slot(
    name: str = "web",
    key_type: str = "EC-P256",
    permissions: P = SIGNING,
    algorithms: tuple[str, ...] = (),
    nonce_policy: NoncePolicy = NoncePolicy.SERVICE,
    providers: tuple[str, ...] = ("software", "tpm"),
    *,
    sign_and_decrypt: bool = False,
    imported_wrapping_key: bool = False,
) -> NewSlot:
    """A slot that Alice is about to create."""
    return NewSlot(
        name=name_of(name),
        key_type=key_type,
        providers=providers,
        permissions=permissions,
        creator=ALICE,
        algorithms=algorithms,
        nonce_policy=nonce_policy,
        sign_and_decrypt=sign_and_decrypt,
        imported_wrapping_key=imported_wrapping_key,
    )


def new_version(permissions: P = SIGNING, provider: str = "software") -> NewVersion:
    """A version that is about to be made."""
    return NewVersion(provider=provider, permissions=permissions, token="serial-1")


def made_key(reference: bytes = b"where the key is") -> MadeKey:
    """What a provider says of a key that it made."""
    return MadeKey(reference, b"its public half", Protection.FILE)


def create(slots: Slots, new: NewSlot | None = None) -> SlotRecord:
    """A slot with its first version active."""
    new = new or new_slot()
    first = new_version(new.permissions)
    begun = slots.create(new, first)
    return slots.activate(begun.id, first.key_id, made_key(b"reference of " + first.key_id))


def rotate(slots: Slots, record: SlotRecord) -> SlotRecord:
    """The slot with a new active version."""
    new = new_version(record.permissions)
    slots.begin_version(record.id, new)
    return slots.activate(record.id, new.key_id, made_key(b"reference of " + new.key_id))


def destroy(slots: Slots, record: SlotRecord) -> SlotRecord:
    """The slot destroyed, with every version."""
    begun = slots.begin_destroy(record.id)
    for version in begun.versions:
        begun = slots.finish_destroy(record.id, version.key_id)
    return begun


@contextmanager
def behind_its_back(directory: Path) -> Iterator[sqlite3.Connection]:
    """The store's file as somebody has it who can write it and has no master key."""
    with closing(sqlite3.connect(database(directory), timeout=10)) as connection, connection:
        yield connection
