"""Records that are changed whole and never go back: the part that slots and certificates have in common.

A record's revision stands under its MAC and only grows. What a process has seen of one is its floor: an older record
was put back by somebody, however right its MAC is.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Generic, Protocol, TypeVar

import sqlalchemy as sa

from hsmbridge.core.errors import HsmBridgeError
from hsmbridge.storage.certificate_records import CertificateRecord
from hsmbridge.storage.changes import ChangeCounter
from hsmbridge.storage.database import Database
from hsmbridge.storage.records import SlotRecord

R = TypeVar("R", SlotRecord, CertificateRecord)


class Rows(Protocol[R]):
    """The tables of such records, in one transaction."""

    def locked(self, record_id: bytes) -> R | None:
        """The record of that id, which nobody else changes meanwhile."""
        ...

    def update(self, before: R, after: R) -> None:
        """Write a record anew."""
        ...

    def delete(self, record: R) -> None:
        """Remove a record with everything of it."""
        ...


class Revisions(Generic[R]):
    """The records of one kind, as this process has seen them. May be used from any thread."""

    def __init__(
        self,
        database: Database,
        changes: ChangeCounter,
        rows: Callable[[sa.Connection], Rows[R]],
        check: Callable[[R, R], None],
        tampered: Callable[[R], HsmBridgeError],
    ) -> None:
        """Args: `check` raises for what no change may break; `tampered` is the refusal of a record that went back."""
        self._database = database
        self._changes = changes
        self._rows: Callable[[sa.Connection], Rows[R]] = rows
        self._check: Callable[[R, R], None] = check
        self._tampered: Callable[[R], HsmBridgeError] = tampered
        self._seen: dict[bytes, int] = {}

    def went_back(self, record: R) -> bool:
        """Whether it is older than one that this process has seen."""
        return record.revision < self._seen.get(record.id, 0)

    def remember(self, record: R) -> None:
        """It was seen."""
        self._seen[record.id] = max(record.revision, self._seen.get(record.id, 0))

    def read(self, read: Callable[[], R | None]) -> R | None:
        """What `read` finds, unless it went back. Raises StoreError (STORE_TAMPERED)."""
        record = read()
        if record is not None and self.went_back(record):
            # It may be older than one that another thread has just committed, but not when it is read again.
            record = read()
            if record is not None and self.went_back(record):
                raise self._tampered(record)
        if record is not None:
            self.remember(record)
        return record

    def committed(self, record: R) -> None:
        """It was written, or removed."""
        self.remember(record)
        self._changes.bump()

    def change(self, record_id: bytes, decide: Callable[[R], R | None]) -> R | None:
        """Change a record in one transaction: as it is now, or None where there is none (any more).

        Raises what `decide` raises, and then nothing is changed; StoreError (STORE_TAMPERED, STORE_UNAVAILABLE).
        """
        floor = self._seen.get(record_id, 0)
        with self._database.writing() as connection:
            rows = self._rows(connection)
            before = rows.locked(record_id)
            if before is None:
                return None
            if before.revision < floor:
                raise self._tampered(before)
            after = decide(before)
            if after is before:
                return before
            if after is None:
                rows.delete(before)
            else:
                after = replace(after, revision=before.revision + 1)
                self._check(before, after)
                rows.update(before, after)
        self.committed(after or before)
        return after
