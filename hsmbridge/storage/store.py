"""The store: slots read and changed whole, authenticated, durable.

Blocking and thread-safe. It knows no caller and no provider, and decides nothing: a change is a function from
record to record (`hsmbridge.keys.versions`, `hsmbridge.keys.grants`) that it runs inside one transaction.
What is returned was on disk first. `hsmbridge.storage.opening.open_store` makes one.

A slot whose MAC does not fit is refused, and so is one that goes back behind what this process has seen of it
(its revision stands under the MAC and only grows). A slot put back whole while no process runs is not detected.
"""

from collections.abc import Callable

import sqlalchemy as sa

from hsmbridge.core.errors import ResourceError, Status, StoreError
from hsmbridge.core.identifiers import KeyId, QualifiedName
from hsmbridge.core.protocols import MaterialSeal
from hsmbridge.storage import schema
from hsmbridge.storage.authentication import tampered
from hsmbridge.storage.certificates import CertificateStore
from hsmbridge.storage.changes import ChangeCounter
from hsmbridge.storage.database import Database
from hsmbridge.storage.invariants import check_change, check_record
from hsmbridge.storage.leases import NonceRecords
from hsmbridge.storage.master import MasterKey
from hsmbridge.storage.owners import Owners
from hsmbridge.storage.pins import PinStore
from hsmbridge.storage.records import Durability, SlotId, SlotListing, SlotRecord, Unfinished
from hsmbridge.storage.revisions import Revisions
from hsmbridge.storage.slot_rows import LIVE, SlotRows

Decide = Callable[[SlotRecord], SlotRecord | None]
"""A change: the record as it is to be; the same object for no change; None to remove the slot with its record."""

_UNFINISHED = sa.text("state IN ('creating', 'abandoned', 'destroying')")


class Store:
    """An open store."""

    def __init__(
        self,
        database: Database,
        master: MasterKey,
        owners: Owners,
        changes: ChangeCounter,
        *,
        durability: Durability = Durability.POWER_LOSS,
        protector_name: str = "",
        url_shown: str = "",
    ) -> None:
        self._database = database
        self._authenticator = master.authenticator()
        self._owners = owners
        self._durable_nonces = durability is Durability.POWER_LOSS
        self._slots = Revisions[SlotRecord](
            database,
            changes,
            lambda connection: SlotRows(connection, self._authenticator),
            check_change,
            lambda record: tampered(str(record.name)),
        )
        self.changes = changes
        self.certificates = CertificateStore(database, self._authenticator, changes)
        self.pins = PinStore(database, self._authenticator, master.pin_key())
        self.material_seal: MaterialSeal = master.material_seal()
        self.protector_name = protector_name
        self.url_shown = url_shown

    @property
    def incarnation(self) -> str:
        """The name under which this process owns the versions that it makes."""
        return self._owners.incarnation

    def owner_is_alive(self, owner: str) -> bool:
        """Whether the process of that incarnation still lives."""
        return self._owners.is_alive(owner)

    # Reading

    def find(self, name: QualifiedName) -> SlotRecord | None:
        """The slot of that name, unless it is destroyed.

        Raises:
            StoreError: STORE_TAMPERED, STORE_UNAVAILABLE.
        """
        return self._read(lambda rows: rows.find(name))

    def get(self, slot_id: SlotId) -> SlotRecord | None:
        """The slot of that id, in whatever state. Raises StoreError."""
        return self._read(lambda rows: rows.get(slot_id))

    def revision_of(self, name: QualifiedName) -> tuple[SlotId, int] | None:
        """Id and revision of the slot of that name: cheaper than `find`, and enough to see that nothing changed."""
        with self._database.reading() as connection:
            return SlotRows(connection, self._authenticator).revision_of(name)

    def list_slots(self, namespace: str = "", principal: str = "", *, destroyed: bool = False) -> SlotListing:
        """Slots by name.

        Args:
            namespace: only its slots, or "" for all.
            principal: only slots whose access list has it, or "" for all.
            destroyed: those that are destroyed as well.
        """
        condition: sa.ColumnElement[bool] = sa.true() if destroyed else sa.and_(LIVE)
        if namespace:
            condition &= schema.slots.c.namespace == namespace
        if principal:
            theirs = sa.select(schema.access.c.slot_id).where(schema.access.c.principal == principal)
            condition &= schema.slots.c.id.in_(theirs)
        return self._list(condition)

    def unfinished(self) -> tuple[list[Unfinished], list[str]]:
        """Versions being made or destroyed, and the slots with such versions that were tampered with.

        What a tampered record says is never acted on: a sweep must not destroy a key because somebody wrote so.
        """
        ids = sa.select(schema.versions.c.slot_id).where(_UNFINISHED)
        listing = self._list(schema.slots.c.id.in_(ids))
        found = [
            Unfinished(record, version)
            for record in listing.records
            for version in record.versions
            if version.state.value in ("creating", "abandoned", "destroying")
        ]
        return found, list(listing.tampered)

    def key_ids(self, provider: str) -> set[KeyId]:
        """Every key id that the store has of a provider, destroyed ones too: what is there beyond it is an orphan."""
        query = sa.select(schema.versions.c.key_id).where(schema.versions.c.provider == provider)
        with self._database.reading() as connection:
            return {KeyId(key_id) for key_id in connection.execute(query).scalars()}

    def check(self) -> None:
        """Whether the store can be read and written now. Raises StoreError."""
        with self._database.writing(durable=False) as connection:
            connection.execute(sa.select(schema.store.c.id)).first()

    # Changing

    def insert(self, record: SlotRecord) -> SlotRecord:
        """Write a new slot.

        Raises:
            ResourceError: RESOURCE_EXISTS where its name is taken.
            StoreError: STORE_UNAVAILABLE.
        """
        check_record(record)
        try:
            with self._database.writing() as connection:
                SlotRows(connection, self._authenticator).insert(record)
        except sa.exc.IntegrityError as taken:
            raise ResourceError(
                Status.RESOURCE_EXISTS, f"There is a slot {record.name} already; choose another name or destroy it."
            ) from taken
        self._slots.committed(record)
        return record

    def change(self, slot_id: SlotId, decide: Decide) -> SlotRecord | None:
        """Change a slot in one transaction: the record as it is now, or None where there is none (any more).

        Raises what `decide` raises, and then nothing is changed.

        Raises:
            StoreError: STORE_TAMPERED, STORE_UNAVAILABLE.
        """
        return self._slots.change(slot_id, decide)

    # Nonces

    def lease_nonces(self, key_id: KeyId, count: int) -> int:
        """Lease up to `count` encryptions to this process: how many were granted.

        Raises:
            KeyUseError: KEY_ROTATION_REQUIRED.
            StoreError: STORE_TAMPERED, STORE_UNAVAILABLE.
        """
        with self._database.writing(durable=self._durable_nonces) as connection:
            return NonceRecords(connection, self._authenticator).lease(key_id, count)

    def record_nonce(self, key_id: KeyId, nonce: bytes, limit: int) -> None:
        """Keep a caller's nonce for good. Raises KeyUseError (NONCE_REUSED, KEY_ROTATION_REQUIRED)."""
        with self._database.writing(durable=self._durable_nonces) as connection:
            NonceRecords(connection, self._authenticator).remember(key_id, nonce, limit)

    def advance_nonce(self, key_id: KeyId, nonce: bytes) -> None:
        """Take a caller's nonce that is greater than all before. Raises as `record_nonce`."""
        with self._database.writing(durable=self._durable_nonces) as connection:
            NonceRecords(connection, self._authenticator).advance(key_id, nonce)

    def close(self) -> None:
        """End all connections and stop being an owner."""
        self._database.close()
        self._owners.close()

    def _read(self, read: Callable[[SlotRows], SlotRecord | None]) -> SlotRecord | None:
        return self._slots.read(lambda: self._read_once(read))

    def _read_once(self, read: Callable[[SlotRows], SlotRecord | None]) -> SlotRecord | None:
        with self._database.reading() as connection:
            return read(SlotRows(connection, self._authenticator))

    def _list(self, condition: sa.ColumnElement[bool]) -> SlotListing:
        records: list[SlotRecord] = []
        refused: list[str] = []
        with self._database.reading() as connection:
            selected = list(SlotRows(connection, self._authenticator).select(condition))
        for found in selected:
            if isinstance(found, str):
                refused.append(found)
            elif not self._slots.went_back(found):
                records.append(found)
            else:
                self._list_again(found, records, refused)
        records.sort(key=lambda record: record.name)
        return SlotListing(tuple(records), tuple(sorted(refused)))

    def _list_again(self, found: SlotRecord, records: list[SlotRecord], refused: list[str]) -> None:
        try:
            newer = self.get(found.id)
        except StoreError:
            refused.append(str(found.name))
        else:
            if newer is not None:
                records.append(newer)
