"""The part of the store that holds certificates, trust stores and CRLs: read and changed whole, authenticated, durable.

Blocking and thread-safe, like `hsmbridge.storage.store`; a change is a function from record to record
(`hsmbridge.keys.certificates`) that runs inside one transaction. A record whose MAC does not fit is refused, and so
is one that goes back behind what this process has seen of it.
"""

from collections.abc import Callable

import sqlalchemy as sa

from hsmbridge.core.errors import LimitError, ResourceError, Status, StoreError
from hsmbridge.core.identifiers import QualifiedName
from hsmbridge.storage import schema
from hsmbridge.storage.authentication import RowAuthenticator, tampered
from hsmbridge.storage.certificate_records import (
    CertificateId,
    CertificateKind,
    CertificateListing,
    CertificateRecord,
)
from hsmbridge.storage.certificate_rows import CertificateRows
from hsmbridge.storage.changes import ChangeCounter
from hsmbridge.storage.database import Database
from hsmbridge.storage.revisions import Revisions

Decide = Callable[[CertificateRecord], CertificateRecord | None]
"""A change: the record as it is to be; the same object for no change; None to remove it."""

RECORDS_MAX = 8192
"""Certificates, trust stores and CRLs that one principal may have made and not removed."""

_table = schema.certificates


class CertificateStore:
    """Certificates, trust stores and CRLs of an open store."""

    def __init__(self, database: Database, authenticator: RowAuthenticator, changes: ChangeCounter) -> None:
        self._database = database
        self._authenticator = authenticator
        self._revisions = Revisions[CertificateRecord](
            database,
            changes,
            lambda connection: CertificateRows(connection, authenticator),
            _check_change,
            lambda record: tampered(str(record.name), record.kind.value),
        )

    def find(self, kind: CertificateKind, name: QualifiedName) -> CertificateRecord | None:
        """The record of that kind and name. Raises StoreError (STORE_TAMPERED, STORE_UNAVAILABLE)."""
        condition = (
            (_table.c.kind == kind.value) & (_table.c.namespace == name.namespace) & (_table.c.name == name.name)
        )
        return self._revisions.read(lambda: self._read(condition))

    def list_records(
        self, kind: CertificateKind | None = None, namespace: str = "", principal: str = ""
    ) -> CertificateListing:
        """Records by kind and name.

        Args:
            kind: only those, or None for all.
            namespace: only its records, or "" for all.
            principal: only records whose access list has it, or "" for all.
        """
        condition: sa.ColumnElement[bool] = sa.true()
        if kind is not None:
            condition &= _table.c.kind == kind.value
        if namespace:
            condition &= _table.c.namespace == namespace
        if principal:
            entries = schema.certificate_access
            theirs = sa.select(entries.c.certificate_id).where(entries.c.principal == principal)
            condition &= _table.c.id.in_(theirs)
        records: list[CertificateRecord] = []
        refused: list[tuple[str, str]] = []
        with self._database.reading() as connection:
            for found in CertificateRows(connection, self._authenticator).select(condition):
                if isinstance(found, CertificateRecord):
                    records.append(found)
                else:
                    refused.append(found)
        for record in tuple(records):
            if self._revisions.went_back(record):
                records.remove(record)
                self._list_again(record, records, refused)
        records.sort(key=lambda record: (record.kind, record.name))
        return CertificateListing(tuple(records), tuple(sorted(refused)))

    def insert(self, record: CertificateRecord) -> CertificateRecord:
        """Write a new record.

        Raises:
            ResourceError: RESOURCE_EXISTS where its name is taken.
            LimitError: TOO_MANY_RESOURCES where its creator has as many as one may.
            StoreError: STORE_UNAVAILABLE.
        """
        try:
            with self._database.writing() as connection:
                rows = CertificateRows(connection, self._authenticator)
                if rows.count(record.creator) >= RECORDS_MAX:
                    raise LimitError(
                        Status.TOO_MANY_RESOURCES,
                        f"You have {RECORDS_MAX} certificates, trust stores and CRLs, as many as one may; remove some.",
                    )
                rows.insert(record)
        except sa.exc.IntegrityError as taken:
            raise ResourceError(
                Status.RESOURCE_EXISTS,
                f"There is a {record.kind} {record.name} already; choose another name or remove it.",
            ) from taken
        self._revisions.committed(record)
        return record

    def change(self, certificate_id: CertificateId, decide: Decide) -> CertificateRecord | None:
        """Change a record in one transaction: as it is now, or None where there is none (any more).

        Raises what `decide` raises, and then nothing is changed.

        Raises:
            StoreError: STORE_TAMPERED, STORE_UNAVAILABLE.
        """
        return self._revisions.change(certificate_id, decide)

    def _read(self, condition: sa.ColumnElement[bool]) -> CertificateRecord | None:
        with self._database.reading() as connection:
            return CertificateRows(connection, self._authenticator).one(condition)

    def _list_again(
        self, found: CertificateRecord, records: list[CertificateRecord], refused: list[tuple[str, str]]
    ) -> None:
        try:
            newer = self.find(found.kind, found.name)
        except StoreError:
            refused.append((found.kind.value, str(found.name)))
        else:
            if newer is not None:
                records.append(newer)


def _check_change(before: CertificateRecord, after: CertificateRecord) -> None:
    """What no change may break, whatever asked for it."""
    for name in ("id", "kind", "name", "creator", "created"):
        if getattr(before, name) != getattr(after, name):
            raise StoreError(Status.INTERNAL, origin=f"a change of a {before.kind} would change its {name}")
    if after.generation <= before.generation:
        raise StoreError(Status.INTERNAL, origin=f"a change of a {before.kind} would not raise its generation")
