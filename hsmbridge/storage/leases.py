"""What the store remembers of the nonces of a key version.

Encryptions are leased to processes in blocks, so that all of them together stay within 2^32 under one key version
(SP 800-38D section 8.3); a caller's own nonces are kept, or the greatest of them. Leases that a process did not use
up are lost, never given twice. Which nonce comes next is decided in `hsmbridge.keys.nonces`.
"""

import sqlalchemy as sa

from hsmbridge.core.errors import KeyUseError, RequestError, Status
from hsmbridge.core.identifiers import KeyId
from hsmbridge.storage import schema
from hsmbridge.storage.authentication import MAC_COLUMN, RowAuthenticator, Value
from hsmbridge.storage.rows import plain_row

MOST_ENCRYPTIONS = 1 << 32
"""Under one key version, over all processes and for ever."""

_NOTHING: dict[str, Value] = {"leased": 0, "remembered": 0, "greatest": b""}
_BY_KEY = sa.select(schema.nonce_leases).where(schema.nonce_leases.c.key_id == sa.bindparam("key_id")).with_for_update()


class NonceRecords:
    """The nonce tables, within a writing transaction of the caller's."""

    def __init__(self, connection: sa.Connection, authenticator: RowAuthenticator) -> None:
        self._connection = connection
        self._authenticator = authenticator

    def lease(self, key_id: KeyId, count: int) -> int:
        """Lease up to `count` encryptions: how many were granted. Raises KeyUseError (KEY_ROTATION_REQUIRED)."""
        row = self._load(key_id)
        leased = _number(row["leased"])
        granted = min(count, MOST_ENCRYPTIONS - leased)
        if granted <= 0:
            raise KeyUseError(Status.KEY_ROTATION_REQUIRED)
        self._save(row | {"leased": leased + granted})
        return granted

    def remember(self, key_id: KeyId, nonce: bytes, limit: int) -> None:
        """Keep a caller's nonce.

        Raises:
            KeyUseError: NONCE_REUSED, or KEY_ROTATION_REQUIRED where `limit` nonces are kept already.
        """
        row = self._load(key_id)
        leased, remembered = _number(row["leased"]), _number(row["remembered"])
        table = schema.caller_nonces
        known = sa.select(table.c.nonce).where(table.c.key_id == key_id, table.c.nonce == nonce)
        if self._connection.execute(known).first() is not None:
            raise KeyUseError(Status.NONCE_REUSED)
        if remembered >= limit or leased >= MOST_ENCRYPTIONS:
            raise KeyUseError(Status.KEY_ROTATION_REQUIRED)
        self._connection.execute(sa.insert(table).values(key_id=key_id, nonce=nonce))
        self._save(row | {"leased": leased + 1, "remembered": remembered + 1})

    def advance(self, key_id: KeyId, nonce: bytes) -> None:
        """Take a caller's nonce that is greater, as a big-endian number, than every one before.

        Raises:
            KeyUseError: NONCE_REUSED, or KEY_ROTATION_REQUIRED.
            RequestError: INVALID_ARGUMENT where its length is not that of the ones before.
        """
        row = self._load(key_id)
        leased, greatest = _number(row["leased"]), row["greatest"]
        if isinstance(greatest, bytes) and greatest:
            require_greater(nonce, greatest)
        if leased >= MOST_ENCRYPTIONS:
            raise KeyUseError(Status.KEY_ROTATION_REQUIRED)
        self._save(row | {"leased": leased + 1, "greatest": nonce})

    def _load(self, key_id: KeyId) -> dict[str, Value]:
        found = self._connection.execute(_BY_KEY, {"key_id": key_id}).mappings().one_or_none()
        if found is None:
            return {"key_id": key_id, **_NOTHING}
        row = plain_row(found)
        self._authenticator.check_nonces(row)
        return row

    def _save(self, row: dict[str, Value]) -> None:
        table = schema.nonce_leases
        known = row.get(MAC_COLUMN) is not None
        row = row | {MAC_COLUMN: self._authenticator.nonces_mac(row)}
        if known:
            self._connection.execute(sa.update(table).where(table.c.key_id == row["key_id"]).values(**row))
        else:
            self._connection.execute(sa.insert(table).values(**row))


def require_greater(nonce: bytes, last: bytes) -> None:
    """Refuse a nonce that is not greater, as a big-endian number, than the last one.

    Raises:
        KeyUseError: NONCE_REUSED.
        RequestError: INVALID_ARGUMENT where its length is another.
    """
    if len(nonce) != len(last):
        raise RequestError(
            Status.INVALID_ARGUMENT,
            f"The nonces of a key all have one length: here {len(last)} bytes, not {len(nonce)}.",
        )
    if nonce <= last:
        raise KeyUseError(
            Status.NONCE_REUSED, "This nonce is not greater than the last one of this key; count upwards."
        )


def forget_nonces(connection: sa.Connection, key_id: KeyId) -> None:
    """Drop what is kept of a key version that is gone."""
    for table in (schema.nonce_leases, schema.caller_nonces):
        connection.execute(sa.delete(table).where(table.c.key_id == key_id))


def _number(value: Value) -> int:
    if not isinstance(value, int):
        raise TypeError("a number was expected under a right MAC")
    return value
