"""The ids that one connection knows: random, its own, dead when it ends.

A slot's name gets an id when it is first resolved and keeps it for the connection; ephemeral keys get theirs when
they are made. What an id may be used for is asked anew at every use (`hsmbridge.keys.access`).
"""

import secrets

from hsmbridge.core.errors import LimitError, ResourceError, Status
from hsmbridge.core.identifiers import CryptoResourceId, QualifiedName, ResourceKind
from hsmbridge.core.room import Room
from hsmbridge.keys.access import SlotEntry
from hsmbridge.keys.ephemeral import LIMIT, EphemeralKey, EphemeralKeys

SLOTS_MAX = 65_536
"""Names that one connection may resolve."""


class ConnectionResources:
    """What the ids of one connection stand for."""

    def __init__(self, limit: int = LIMIT, everywhere: Room | None = None, data: Room | None = None) -> None:
        """Args: as of EphemeralKeys."""
        self.ephemeral = EphemeralKeys(limit, everywhere, data)
        self._ids: dict[QualifiedName, CryptoResourceId] = {}
        self._slots: dict[int, SlotEntry] = {}

    def slot_id(self, entry: SlotEntry) -> CryptoResourceId:
        """The id of a slot, the same one every time. Raises LimitError (TOO_MANY_RESOURCES)."""
        known = self._ids.get(entry.name)
        if known is not None:
            return known
        if len(self._ids) >= SLOTS_MAX:
            raise LimitError(Status.TOO_MANY_RESOURCES, "This connection knows too many slots; open another one.")
        number = secrets.randbits(64)
        while number in self._slots:
            number = secrets.randbits(64)
        self._slots[number] = entry
        self._ids[entry.name] = CryptoResourceId(number, ResourceKind.KEY_SLOT)
        return self._ids[entry.name]

    def slot(self, resource: CryptoResourceId) -> SlotEntry:
        """The slot behind an id. Raises ResourceError (RESOURCE_NOT_FOUND)."""
        entry = self._slots.get(resource.number) if resource.kind is ResourceKind.KEY_SLOT else None
        if entry is None:
            raise ResourceError(Status.RESOURCE_NOT_FOUND, "There is no such resource on this connection.")
        return entry

    def close(self) -> list[EphemeralKey]:
        """The connection ended: its ephemeral keys, to be destroyed."""
        self._ids.clear()
        self._slots.clear()
        return self.ephemeral.close()
