"""From the key that a request names to the key versions that may serve it: the way to `hsmbridge.keys.access`."""

from hsmbridge.core.algorithms import Algorithm
from hsmbridge.core.errors import ResourceError, Status
from hsmbridge.core.identifiers import CryptoResourceId, ResourceKind, parse_slot_name
from hsmbridge.core.lifecycle import USABLE, KeyVersionState
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.engine.steps import Steps, store
from hsmbridge.keys.access import AcquiredKey, SlotEntry, SlotKeys, acquire, candidates
from hsmbridge.service.session import Session

_TRIES_ROTATED = frozenset(bit for bit in P if bit in USABLE[KeyVersionState.ROTATED])


class KeyAccess:
    """Finds slots and acquires keys for sessions; what it has in memory is made current before it is used."""

    def __init__(self, keys: SlotKeys) -> None:
        """Args: the slots of this daemon process."""
        self._keys = keys

    def is_current(self, entry: SlotEntry) -> bool:
        """Whether nothing changed since the slot was read, as far as can be known without I/O."""
        return self._keys.entry_is_current(entry)

    def named(self, session: Session, text: str) -> Steps[SlotEntry]:
        """The entry of a slot by name, current."""
        entry = self._keys.entry(parse_slot_name(text, session.principal))
        yield from self.make_current(entry)
        return entry

    def make_current(self, entry: SlotEntry) -> Steps[None]:
        """Read the slot anew where it may have changed."""
        if not self._keys.entry_is_current(entry):
            yield from store(lambda: self._keys.refresh(entry))

    def refresh(self, entry: SlotEntry) -> Steps[None]:
        """Read the slot anew."""
        yield from store(lambda: self._keys.refresh(entry))

    def acquire(
        self, session: Session, resource: CryptoResourceId, permission: P, row: Algorithm | None, version: int = 0
    ) -> Steps[tuple[AcquiredKey, ...]]:
        """The key versions that may serve, in the order to try them; never none. The caller releases each.

        Raises as `hsmbridge.keys.access.acquire` does; RESOURCE_NOT_FOUND for an id that is not of this connection.
        """
        acquired = self.acquire_at_once(session, resource, permission, row, version)
        if acquired is None:
            yield from self.make_current(session.resources.slot(resource))
            acquired = self._of_slot(session, session.resources.slot(resource), permission, row, version)
        return acquired

    def acquire_at_once(
        self, session: Session, resource: CryptoResourceId, permission: P, row: Algorithm | None, version: int = 0
    ) -> tuple[AcquiredKey, ...] | None:
        """As `acquire`, without a step; None where the slot has to be read first."""
        if resource.kind is ResourceKind.KEY_SLOT:
            entry = session.resources.slot(resource)
            if not self._keys.entry_is_current(entry):
                return None
            return self._of_slot(session, entry, permission, row, version)
        if resource.kind is ResourceKind.KEY:
            return (session.resources.ephemeral.acquire(resource, permission, row),)
        raise ResourceError(Status.RESOURCE_NOT_FOUND)

    @staticmethod
    def _of_slot(
        session: Session, entry: SlotEntry, permission: P, row: Algorithm | None, version: int
    ) -> tuple[AcquiredKey, ...]:
        if permission in _TRIES_ROTATED:
            return candidates(entry, session.principal, permission, row, version)
        return (acquire(entry, session.principal, permission, row, version),)
