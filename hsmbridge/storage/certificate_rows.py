"""Reading and writing certificates, trust stores and CRLs within a transaction, authenticated both ways."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import sqlalchemy as sa

from hsmbridge.core.errors import Status, StoreError
from hsmbridge.core.identifiers import KEY_ID_LENGTH, KeyId, QualifiedName
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.core.policy import Role
from hsmbridge.storage import schema
from hsmbridge.storage.authentication import MAC_COLUMN, Row, RowAuthenticator, Value, shown_name
from hsmbridge.storage.certificate_records import (
    CERTIFICATE_ID_LENGTH,
    CertificateId,
    CertificateKind,
    CertificateRecord,
)
from hsmbridge.storage.records import SLOT_ID_LENGTH, AccessEntry, SlotId
from hsmbridge.storage.rows import exact_bytes, microseconds, of_kind, plain_row, seconds

_certificates = schema.certificates
_items = schema.certificate_items
_access = schema.certificate_access


class CertificateRows:
    """The tables, as seen by one transaction."""

    def __init__(self, connection: sa.Connection, authenticator: RowAuthenticator) -> None:
        self._connection = connection
        self._authenticator = authenticator

    def one(self, condition: sa.ColumnElement[bool], *, lock: bool = False) -> CertificateRecord | None:
        """The record of a condition, locked against other writers if asked. Raises StoreError (STORE_TAMPERED)."""
        for row, items, access in self._rows(condition, lock=lock):
            return self._verified(row, items, access)
        return None

    def locked(self, record_id: bytes) -> CertificateRecord | None:
        """The record of that id, locked against other writers. Raises StoreError (STORE_TAMPERED)."""
        return self.one(_certificates.c.id == record_id, lock=True)

    def select(self, condition: sa.ColumnElement[bool]) -> Iterator[CertificateRecord | tuple[str, str]]:
        """The records of a condition; in the place of one that was tampered with, its kind and name."""
        for row, items, access in self._rows(condition):
            try:
                yield self._verified(row, items, access)
            except StoreError:
                yield str(row["kind"])[:16], shown_name(row)

    def count(self, creator: str) -> int:
        """How many records a principal has made."""
        counted = sa.select(sa.func.count()).select_from(_certificates).where(_certificates.c.creator == creator)
        return int(self._connection.execute(counted).scalar_one())

    def insert(self, record: CertificateRecord) -> None:
        """Write a new record. Raises sqlalchemy IntegrityError where its name is taken."""
        row, items, access = self._rows_of(record)
        self._connection.execute(sa.insert(_certificates).values(**row))
        self._insert_parts(items, access)

    def update(self, before: CertificateRecord, after: CertificateRecord) -> None:
        """Write a record anew."""
        row, items, access = self._rows_of(after)
        self._connection.execute(sa.update(_certificates).where(_certificates.c.id == before.id).values(**row))
        self._delete_parts(before.id)
        self._insert_parts(items, access)

    def delete(self, record: CertificateRecord) -> None:
        """Remove a record with everything of it."""
        self._delete_parts(record.id)
        self._connection.execute(sa.delete(_certificates).where(_certificates.c.id == record.id))

    def _insert_parts(self, items: Sequence[Row], access: Sequence[Row]) -> None:
        for row in items:
            self._connection.execute(sa.insert(_items).values(**row))
        for row in access:
            self._connection.execute(sa.insert(_access).values(**row))

    def _delete_parts(self, certificate_id: CertificateId) -> None:
        for table in (_items, _access):
            self._connection.execute(sa.delete(table).where(table.c.certificate_id == certificate_id))

    def _rows(
        self, condition: sa.ColumnElement[bool], *, lock: bool = False
    ) -> Iterator[tuple[Row, Sequence[Row], Sequence[Row]]]:
        # All three queries always run: a record that is not there takes the same way as one that is.
        ids = sa.select(_certificates.c.id).where(condition).scalar_subquery()
        whole = sa.select(_certificates).where(condition)
        rows = self._connection.execute(whole.with_for_update() if lock else whole).mappings().all()
        items = self._parts(_items, ids)
        access = self._parts(_access, ids)
        for row in rows:
            yield plain_row(row), items[row["id"]], access[row["id"]]

    def _parts(self, table: sa.Table, ids: sa.ScalarSelect[bytes]) -> defaultdict[Value, list[Row]]:
        found: Iterable[sa.RowMapping] = self._connection.execute(
            sa.select(table).where(table.c.certificate_id.in_(ids))
        ).mappings()
        groups: defaultdict[Value, list[Row]] = defaultdict(list)
        for row in found:
            groups[row["certificate_id"]].append(plain_row(row))
        return groups

    def _verified(self, row: Row, items: Sequence[Row], access: Sequence[Row]) -> CertificateRecord:
        self._authenticator.check_certificate(row, items, access)
        try:
            return _record_from(row, items, access)
        except ValueError:
            raise StoreError(Status.STORE_TAMPERED) from None

    def _rows_of(self, record: CertificateRecord) -> tuple[dict[str, Value], list[Row], list[Row]]:
        row: dict[str, Value] = {
            "id": record.id,
            "kind": record.kind.value,
            "namespace": record.name.namespace,
            "name": record.name.name,
            "slot_id": record.slot_id,
            "key_id": record.key_id,
            "creator": record.creator,
            "generation": record.generation,
            "revision": record.revision,
            "created": microseconds(record.created),
            "changed": microseconds(record.changed),
        }
        items: list[Row] = [
            {"certificate_id": record.id, "position": position, "der": der} for position, der in enumerate(record.items)
        ]
        access: list[Row] = [
            {"certificate_id": record.id, "principal": entry.principal, "role": entry.role.value}
            for entry in record.access
        ]
        row[MAC_COLUMN] = self._authenticator.certificate_mac(row, items, access)
        return row, items, access


def _record_from(row: Row, items: Sequence[Row], access: Sequence[Row]) -> CertificateRecord:
    slot_id, key_id = of_kind(bytes, row["slot_id"]), of_kind(bytes, row["key_id"])
    ordered = sorted(items, key=lambda item: of_kind(int, item["position"]))
    entries = (
        AccessEntry(of_kind(str, entry["principal"]), Role(of_kind(str, entry["role"])), P.NONE) for entry in access
    )
    return CertificateRecord(
        id=CertificateId(exact_bytes(row["id"], CERTIFICATE_ID_LENGTH)),
        kind=CertificateKind(of_kind(str, row["kind"])),
        name=QualifiedName(of_kind(str, row["namespace"]), of_kind(str, row["name"])),
        items=tuple(of_kind(bytes, item["der"]) for item in ordered),
        creator=of_kind(str, row["creator"]),
        generation=of_kind(int, row["generation"]),
        revision=of_kind(int, row["revision"]),
        created=seconds(row["created"]),
        changed=seconds(row["changed"]),
        access=tuple(sorted(entries, key=lambda entry: entry.principal)),
        slot_id=SlotId(exact_bytes(slot_id, SLOT_ID_LENGTH) if slot_id else b""),
        key_id=KeyId(exact_bytes(key_id, KEY_ID_LENGTH) if key_id else b""),
    )
