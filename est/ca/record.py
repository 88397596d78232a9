"""The record of a CA in SQLite: every certificate, what was revoked, what waits for approval.

A certificate is written here before it is handed out; what is not here was not issued.
"""

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from est import refusals

CHALLENGE_LIFE = 600
"""Seconds within which a challenge is to be answered."""

MAX_WAITING = 100
"""Requests of one requester that wait at a time: each takes room, and somebody has to look at it."""

FORGOTTEN = 30 * 86400.0
"""Seconds after which a request that nobody approved is forgotten; a client that still wants it asks again."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS certificate (
    serial TEXT PRIMARY KEY, der BLOB NOT NULL, subject TEXT NOT NULL, profile TEXT NOT NULL, requester TEXT NOT NULL,
    issued_at REAL NOT NULL, not_after REAL NOT NULL, revoked_at REAL, reason TEXT
) STRICT;
CREATE TABLE IF NOT EXISTS waiting (
    id TEXT PRIMARY KEY, subject TEXT NOT NULL, requester TEXT NOT NULL, asked_at REAL NOT NULL,
    approved INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE IF NOT EXISTS waiting_request (
    id TEXT PRIMARY KEY, der BLOB NOT NULL, requester TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS challenge (id TEXT PRIMARY KEY, secret BLOB NOT NULL, made_at REAL NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;
"""


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate in the record; times in seconds since 1970."""

    serial: str
    der: bytes
    subject: str
    profile: str
    requester: str
    issued_at: float
    not_after: float
    revoked_at: float | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class Waiting:
    """A request that waits for approval."""

    id: str
    subject: str
    requester: str
    asked_at: float
    approved: bool


class Record:
    """The record; safe for threads."""

    def __init__(self, path: Path | str) -> None:
        self._lock = threading.Lock()
        self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=FULL")
        self._database.execute("PRAGMA busy_timeout=5000")
        self._database.executescript(_SCHEMA)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._database.close()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")

    def add(self, issued: Issued) -> None:
        """Record a certificate."""
        row = (issued.serial, issued.der, issued.subject, issued.profile, issued.requester)
        with self._writing() as database:
            database.execute(
                "INSERT INTO certificate (serial, der, subject, profile, requester, issued_at, not_after)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (*row, issued.issued_at, issued.not_after),
            )

    def find(self, serial: str) -> Issued | None:
        """A certificate by its serial number in hex."""
        with self._lock:
            row = self._database.execute("SELECT * FROM certificate WHERE serial = ?", (serial,)).fetchone()
        return Issued(*row) if row else None

    def certificates(self) -> tuple[Issued, ...]:
        """All certificates, the oldest first."""
        with self._lock:
            rows = self._database.execute("SELECT * FROM certificate ORDER BY issued_at").fetchall()
        return tuple(Issued(*row) for row in rows)

    def revoke(self, serial: str, reason: str) -> None:
        """Mark a certificate as revoked.

        Raises:
            ResourceError: there is none with that number.
        """
        with self._writing() as database:
            done = database.execute(
                "UPDATE certificate SET revoked_at = coalesce(revoked_at, ?), reason = coalesce(reason, ?)"
                " WHERE serial = ?",
                (time.time(), reason, serial),
            )
            if done.rowcount != 1:
                raise refusals.absent(f"This CA issued no certificate with the serial number {serial}.")

    def next_number(self, name: str) -> int:
        """1, 2, 3 ... for one name."""
        with self._writing() as database:
            row = database.execute(
                "INSERT INTO counter VALUES (?, 1) ON CONFLICT (name) DO UPDATE SET value = value + 1 RETURNING value",
                (name,),
            ).fetchone()
        return int(row[0])

    def wait(self, id_: str, subject: str, requester: str) -> bool:
        """Note a request, and whether it is approved; older ones that nobody approved are forgotten.

        Raises:
            LimitError: this requester has as many waiting as one may.
        """
        now = time.time()
        with self._writing() as database:
            for table in ("waiting_request", "waiting"):
                database.execute(
                    f"DELETE FROM {table} WHERE id IN (SELECT id FROM waiting WHERE asked_at < ? AND NOT approved)",  # noqa: S608 - two names
                    (now - FORGOTTEN,),
                )
            row = database.execute("SELECT approved FROM waiting WHERE id = ?", (id_,)).fetchone()
            if row is not None:
                return bool(row[0])
            held = database.execute("SELECT count(*) FROM waiting WHERE requester = ?", (requester,)).fetchone()
            if held[0] >= MAX_WAITING:
                raise refusals.too_many(f"{MAX_WAITING} requests of yours wait for approval; more are not taken.")
            database.execute(
                "INSERT INTO waiting (id, subject, requester, asked_at) VALUES (?, ?, ?, ?)",
                (id_, subject, requester, now),
            )
        return False

    def waiting(self) -> tuple[Waiting, ...]:
        """The requests that wait."""
        with self._lock:
            rows = self._database.execute("SELECT * FROM waiting ORDER BY asked_at").fetchall()
        return tuple(Waiting(str(a), str(b), str(c), float(d), bool(e)) for a, b, c, d, e in rows)

    def approve(self, id_: str) -> None:
        """Let a waiting request pass.

        Raises:
            ResourceError: there is none of that id.
        """
        with self._writing() as database:
            if database.execute("UPDATE waiting SET approved = 1 WHERE id = ?", (id_,)).rowcount != 1:
                raise refusals.absent("No request of this id is waiting.")

    def done_waiting(self, id_: str) -> None:
        """Forget a request that was carried out."""
        with self._writing() as database:
            database.execute("DELETE FROM waiting WHERE id = ?", (id_,))
            database.execute("DELETE FROM waiting_request WHERE id = ?", (id_,))

    def keep_request(self, id_: str, der: bytes, requester: str) -> None:
        """Keep a waiting request itself, for those who ask by its id for what became of it."""
        with self._writing() as database:
            database.execute(
                "INSERT INTO waiting_request VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE SET der = excluded.der,"
                " requester = excluded.requester",
                (id_, der, requester),
            )

    def kept_request(self, id_: str) -> tuple[bytes, str] | None:
        """A waiting request and who sent it."""
        with self._lock:
            row = self._database.execute("SELECT der, requester FROM waiting_request WHERE id = ?", (id_,)).fetchone()
        return (bytes(row[0]), str(row[1])) if row else None

    def keep_challenge(self, id_: str, secret: bytes) -> None:
        """Keep the secret of a challenge until its answer comes; older ones whose answer never came are forgotten."""
        now = time.time()
        with self._writing() as database:
            database.execute("DELETE FROM challenge WHERE made_at < ?", (now - CHALLENGE_LIFE,))
            database.execute("INSERT OR REPLACE INTO challenge VALUES (?, ?, ?)", (id_, secret, now))

    def take_challenge(self, id_: str) -> bytes:
        """The secret of a challenge, which serves once; b"" if there is none, or it is too old."""
        with self._writing() as database:
            row = database.execute("DELETE FROM challenge WHERE id = ? RETURNING secret, made_at", (id_,)).fetchone()
        return bytes(row[0]) if row and row[1] >= time.time() - CHALLENGE_LIFE else b""
