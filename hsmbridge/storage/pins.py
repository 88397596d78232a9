"""The part of the store that holds PINs of PKCS#11 applications: read and changed whole, authenticated, durable.

Blocking and thread-safe, like `hsmbridge.storage.store`; a change is a function from record to record
(`hsmbridge.keys.pins`) that runs inside one transaction. What is kept of a PIN is its digest.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace

import sqlalchemy as sa

from hsmbridge.core.errors import Status, StoreError
from hsmbridge.core.policy import PinOwner
from hsmbridge.core.secrets import Secret
from hsmbridge.storage import schema
from hsmbridge.storage.authentication import MAC_COLUMN, Row, RowAuthenticator, Value, pins_tampered
from hsmbridge.storage.database import Database
from hsmbridge.storage.rows import microseconds, of_kind, plain_row, seconds


@dataclass(frozen=True, slots=True)
class PinRecord:
    """One PIN.

    Attributes:
        digest: see `hsmbridge.keys.pins`; b"" where none is set.
        wrong: how often another was given since it was last given right.
        until: before this time (seconds since 1970) none is looked at, where too many were wrong.
    """

    digest: bytes = field(default=b"", repr=False)
    wrong: int = 0
    until: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenPins:
    """What one principal has on one token.

    Attributes:
        label: that the principal gave the token.
        initialized: since when it is initialised, in seconds since 1970; 0.0 where it is not.
        so, user: the two PINs.
        revision: raised by every change; 0 of what is not stored yet.
    """

    principal: str
    token: str
    label: str = ""
    initialized: float = 0.0
    so: PinRecord = PinRecord()
    user: PinRecord = PinRecord()
    revision: int = 0

    def pin(self, owner: PinOwner) -> PinRecord:
        """The one of the two."""
        return self.so if owner is PinOwner.SO else self.user

    def with_pin(self, owner: PinOwner, pin: PinRecord) -> "TokenPins":
        """The same with another PIN."""
        return replace(self, so=pin) if owner is PinOwner.SO else replace(self, user=pin)


Decide = Callable[[TokenPins], TokenPins]
"""A change: the record as it is to be; the same object for no change."""

_table = schema.pins
_TELLING = ("initialized", "so_wrong", "user_wrong")
"""Columns that are all 0 where nothing is kept."""


class PinStore:
    """The PINs of an open store.

    Attributes:
        key: what they are hashed under.
    """

    def __init__(self, database: Database, authenticator: RowAuthenticator, key: Secret) -> None:
        self._database = database
        self._authenticator = authenticator
        self._seen: dict[tuple[str, str], int] = {}
        self.key = key

    def get(self, principal: str, token: str) -> TokenPins:
        """What a principal has on a token; an empty record where it has nothing. Raises StoreError."""
        with self._database.reading() as connection:
            return self._load(connection, principal, token, lock=False)

    def list_all(self, principal: str = "") -> tuple[list[TokenPins], list[tuple[str, str]]]:
        """The records of a principal, or with "" of all; and principal and token of those that were tampered with."""
        condition = _table.c.principal == principal if principal else sa.true()
        ordered = sa.select(_table).where(condition).order_by(_table.c.principal, _table.c.token)
        with self._database.reading() as connection:
            rows = [plain_row(row) for row in connection.execute(ordered).mappings()]
        found: list[TokenPins] = []
        refused: list[tuple[str, str]] = []
        for row in rows:
            try:
                found.append(self._verified(row))
            except StoreError:
                refused.append((str(row["principal"])[:64], str(row["token"])[:64]))
        return found, refused

    def change(self, principal: str, token: str, decide: Decide, *, durable: bool = True) -> TokenPins:
        """Change a record in one transaction: as it is now. Raises what `decide` raises, and then nothing is changed.

        Args:
            durable: the change survives a loss of power, not only the end of the process.

        Raises:
            StoreError: STORE_TAMPERED, STORE_UNAVAILABLE.
        """
        known = (principal, token)
        floor = self._seen.get(known, 0)
        with self._database.writing(durable=durable) as connection:
            before = self._load(connection, principal, token, lock=True)
            if before.revision < floor:
                raise pins_tampered(principal, token)
            after = decide(before)
            if after is before:
                return before
            after = replace(after, revision=before.revision + 1)
            self._write(connection, after, known=before.revision > 0)
        self._seen[known] = max(after.revision, self._seen.get(known, 0))
        return after

    def forget(self, principal: str, token: str) -> bool:
        """Drop what a principal has on a token, whether it fits its MAC or not: whether there was anything."""
        known = (principal, token)
        with self._database.writing() as connection:
            query = sa.select(_table).where(_of(principal, token)).with_for_update()
            found = connection.execute(query).mappings().one_or_none()
            if found is None:
                return False
            revision, anything = 0, True
            with suppress(StoreError):
                before = self._verified(plain_row(found))
                revision, anything = before.revision, any(found[column] for column in _TELLING)
            # It goes on at a revision above all that any process has seen, or that one would take it for an old one.
            # Where the row is an old one itself the clock has the number: nothing is changed a million times a second.
            revision = max(revision, self._seen.get(known, 0), microseconds(time.time())) + 1
            self._write(connection, TokenPins(principal=principal, token=token, revision=revision), known=True)
        return anything

    def _write(self, connection: sa.Connection, record: TokenPins, *, known: bool) -> None:
        row = _row(record)
        row[MAC_COLUMN] = self._authenticator.pins_mac(row)
        if known:
            connection.execute(sa.update(_table).where(_of(record.principal, record.token)).values(**row))
        else:
            connection.execute(sa.insert(_table).values(**row))

    def _load(self, connection: sa.Connection, principal: str, token: str, *, lock: bool) -> TokenPins:
        query = sa.select(_table).where(_of(principal, token))
        found = connection.execute(query.with_for_update() if lock else query).mappings().one_or_none()
        return TokenPins(principal=principal, token=token) if found is None else self._verified(plain_row(found))

    def _verified(self, row: Row) -> TokenPins:
        self._authenticator.check_pins(row)
        try:
            return _record(row)
        except ValueError:
            raise StoreError(Status.STORE_TAMPERED) from None


def _of(principal: str, token: str) -> sa.ColumnElement[bool]:
    return (_table.c.principal == principal) & (_table.c.token == token)


def _row(record: TokenPins) -> dict[str, Value]:
    row: dict[str, Value] = {
        "principal": record.principal,
        "token": record.token,
        "label": record.label,
        "initialized": microseconds(record.initialized),
        "revision": record.revision,
    }
    for owner in PinOwner:
        pin = record.pin(owner)
        row |= {f"{owner}_digest": pin.digest, f"{owner}_wrong": pin.wrong, f"{owner}_until": microseconds(pin.until)}
    return row


def _record(row: Row) -> TokenPins:
    so, user = (
        PinRecord(
            of_kind(bytes, row[f"{owner}_digest"]), of_kind(int, row[f"{owner}_wrong"]), seconds(row[f"{owner}_until"])
        )
        for owner in PinOwner
    )
    return TokenPins(
        principal=of_kind(str, row["principal"]),
        token=of_kind(str, row["token"]),
        label=of_kind(str, row["label"]),
        initialized=seconds(row["initialized"]),
        so=so,
        user=user,
        revision=of_kind(int, row["revision"]),
    )
