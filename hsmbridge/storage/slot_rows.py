"""Reading and writing whole slots within a transaction, authenticated both ways."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import sqlalchemy as sa

from hsmbridge.core.errors import StoreError
from hsmbridge.core.identifiers import QualifiedName
from hsmbridge.core.lifecycle import KeyVersionState
from hsmbridge.storage import schema
from hsmbridge.storage.authentication import MAC_COLUMN, Row, RowAuthenticator, Value, shown_name, tampered
from hsmbridge.storage.leases import forget_nonces
from hsmbridge.storage.records import SlotId, SlotRecord, VersionRecord
from hsmbridge.storage.rows import access_row, plain_row, record_from, slot_row, version_row

_slots, _versions, _access = schema.slots, schema.versions, schema.access

LIVE = sa.text("slots.state != 'destroyed'")
"""As the partial index on names says it, so that it is used."""

_BY_NAME = (_slots.c.namespace == sa.bindparam("namespace")) & (_slots.c.name == sa.bindparam("name")) & LIVE
_BY_ID = _slots.c.id == sa.bindparam("id")


class _Whole:
    """The three queries that load the slots of a condition, all of them always run: a slot that is not there
    takes the same way as one that is."""

    def __init__(self, condition: sa.ColumnElement[bool], *, lock: bool = False) -> None:
        ids = sa.select(_slots.c.id).where(condition).scalar_subquery()
        slots = sa.select(_slots).where(condition)
        self.slots = slots.with_for_update() if lock else slots
        self.versions = sa.select(_versions).where(_versions.c.slot_id.in_(ids))
        self.access = sa.select(_access).where(_access.c.slot_id.in_(ids))


_WHOLE_BY_NAME = _Whole(_BY_NAME)
_WHOLE_BY_ID = _Whole(_BY_ID)
_LOCKED_BY_ID = _Whole(_BY_ID, lock=True)
_REVISION = sa.select(_slots.c.id, _slots.c.revision).where(_BY_NAME)


class SlotRows:
    """Slots in the tables, as seen by one transaction."""

    def __init__(self, connection: sa.Connection, authenticator: RowAuthenticator) -> None:
        self._connection = connection
        self._authenticator = authenticator

    def find(self, name: QualifiedName) -> SlotRecord | None:
        """The slot of that name that is not destroyed. Raises StoreError (STORE_TAMPERED)."""
        return self._one(_WHOLE_BY_NAME, {"namespace": name.namespace, "name": name.name})

    def get(self, slot_id: SlotId) -> SlotRecord | None:
        """The slot of that id. Raises StoreError (STORE_TAMPERED)."""
        return self._one(_WHOLE_BY_ID, {"id": slot_id})

    def locked(self, record_id: bytes) -> SlotRecord | None:
        """The slot of that id, locked against other writers. Raises StoreError (STORE_TAMPERED)."""
        return self._one(_LOCKED_BY_ID, {"id": record_id})

    def revision_of(self, name: QualifiedName) -> tuple[SlotId, int] | None:
        """Id and revision of the slot of that name, not authenticated: good for telling that it changed."""
        parameters = {"namespace": name.namespace, "name": name.name}
        row = self._connection.execute(_REVISION, parameters).first()
        return None if row is None else (SlotId(row.id), row.revision)

    def select(self, condition: sa.ColumnElement[bool]) -> Iterator[SlotRecord | str]:
        """The slots of a condition; in the place of one that was tampered with, its name."""
        for slot, versions, access in self._rows(_Whole(condition), {}):
            try:
                yield self._verified(slot, versions, access)
            except StoreError:
                yield shown_name(slot)

    def insert(self, record: SlotRecord) -> None:
        """Write a new slot. Raises sqlalchemy IntegrityError where its name is taken."""
        slot, versions, access = _rows_of(record)
        self._connection.execute(sa.insert(_slots).values(**self._authenticated(slot, versions, access)))
        for row in versions:
            self._connection.execute(sa.insert(_versions).values(**row))
        for row in access:
            self._connection.execute(sa.insert(_access).values(**row))

    def update(self, before: SlotRecord, after: SlotRecord) -> None:
        """Write what changed of a slot."""
        slot, versions, access = _rows_of(after)
        changed = self._authenticated(slot, versions, access)
        self._connection.execute(sa.update(_slots).where(_slots.c.id == before.id).values(**changed))
        self._update_versions(before, after)
        self._update_access(before, after)

    def delete(self, record: SlotRecord) -> None:
        """Remove a slot with everything of it."""
        for version in record.versions:
            forget_nonces(self._connection, version.key_id)
        self._connection.execute(sa.delete(_versions).where(_versions.c.slot_id == record.id))
        self._connection.execute(sa.delete(_access).where(_access.c.slot_id == record.id))
        self._connection.execute(sa.delete(_slots).where(_slots.c.id == record.id))

    def _one(self, whole: _Whole, parameters: dict[str, Value]) -> SlotRecord | None:
        for slot, versions, access in self._rows(whole, parameters):
            return self._verified(slot, versions, access)
        return None

    def _rows(self, whole: _Whole, parameters: dict[str, Value]) -> Iterator[tuple[Row, Sequence[Row], Sequence[Row]]]:
        slots = self._connection.execute(whole.slots, parameters).mappings().all()
        versions = _grouped(self._connection.execute(whole.versions, parameters).mappings())
        access = _grouped(self._connection.execute(whole.access, parameters).mappings())
        for slot in slots:
            yield plain_row(slot), versions[slot["id"]], access[slot["id"]]

    def _verified(self, slot: Row, versions: Sequence[Row], access: Sequence[Row]) -> SlotRecord:
        self._authenticator.check_slot(slot, versions, access)
        try:
            return record_from(slot, versions, access)
        except ValueError:
            raise tampered(shown_name(slot)) from None

    def _authenticated(
        self, slot: dict[str, Value], versions: Sequence[Row], access: Sequence[Row]
    ) -> dict[str, Value]:
        return slot | {MAC_COLUMN: self._authenticator.slot_mac(slot, versions, access)}

    def _update_versions(self, before: SlotRecord, after: SlotRecord) -> None:
        for gone in before.versions:
            if after.by_key_id(gone.key_id) is None:
                self._connection.execute(sa.delete(_versions).where(_versions.c.key_id == gone.key_id))
        # The former active version steps down before the new one steps up: the index allows one at a time.
        for version in sorted(after.versions, key=_becomes_active):
            known = before.by_key_id(version.key_id)
            if known == version:
                continue
            row = version_row(after.id, version)
            if known is None:
                self._connection.execute(sa.insert(_versions).values(**row))
            else:
                self._connection.execute(sa.update(_versions).where(_versions.c.key_id == version.key_id).values(**row))
            if version.state is KeyVersionState.DESTROYED:
                forget_nonces(self._connection, version.key_id)

    def _update_access(self, before: SlotRecord, after: SlotRecord) -> None:
        for entry in before.access:
            if entry not in after.access:
                self._connection.execute(
                    sa.delete(_access).where(_access.c.slot_id == after.id, _access.c.principal == entry.principal)
                )
        for entry in after.access:
            if entry not in before.access:
                self._connection.execute(sa.insert(_access).values(**access_row(after.id, entry)))


def _becomes_active(version: VersionRecord) -> bool:
    return version.state is KeyVersionState.ACTIVE


def _rows_of(record: SlotRecord) -> tuple[dict[str, Value], list[dict[str, Value]], list[dict[str, Value]]]:
    versions = [version_row(record.id, version) for version in record.versions]
    return slot_row(record), versions, [access_row(record.id, entry) for entry in record.access]


def _grouped(rows: Iterable[sa.RowMapping]) -> defaultdict[Value, list[Row]]:
    groups: defaultdict[Value, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row["slot_id"]].append(plain_row(row))
    return groups
