"""Transactions on the store's database.

Reading ones see one consistent state. Writing ones run one at a time in a process and in the database, and are
durable when they end. Nothing here knows what is read or written.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from hsmbridge.storage import sqlite


class Database:
    """The store's database; may be used from any thread."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._writer = threading.Lock()

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A transaction that only reads. Raises StoreError (STORE_UNAVAILABLE)."""
        with sqlite.translated(), self._engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def writing(self, *, durable: bool = True) -> Iterator[sa.Connection]:
        """A transaction that is committed when the block ends and undone when it raises.

        Args:
            durable: the commit survives a loss of power; otherwise the end of the process, however it ends.

        Raises:
            StoreError: STORE_UNAVAILABLE.
        """
        with self._writer, sqlite.translated(), self._engine.connect() as plain:
            sqlite.set_durable(plain, durable)
            connection = plain.execution_options(**{sqlite.WRITING: True})
            with connection.begin():
                yield connection

    @contextmanager
    def outside_transaction(self) -> Iterator[sa.Connection]:
        """A connection for what the database does not do in a transaction."""
        with self._writer, sqlite.translated(), self._engine.connect() as connection:
            yield connection

    def close(self) -> None:
        """End all connections."""
        self._engine.dispose()
