"""The sweep completes what a crash interrupted: half-made keys go, begun destructions end.

It only ever acts on the token that the record names. A provider that is away, or has another token, leaves the
record as it is, to be shown by the doctor and completed when the right token is back.
"""

import structlog

from hsmbridge.core import calls
from hsmbridge.core.errors import HsmBridgeError
from hsmbridge.core.lifecycle import KeyVersionState
from hsmbridge.engine.steps import Steps, for_nothing, store
from hsmbridge.keys.slots import Slots
from hsmbridge.service.catalogue import ProviderCatalogue
from hsmbridge.service.slots import SlotAdministration
from hsmbridge.storage.records import Unfinished

_log = structlog.get_logger(__name__)


class Sweep:
    """Runs at start, when a provider comes back, and every now and then."""

    def __init__(self, catalogue: ProviderCatalogue, slots: Slots, administration: SlotAdministration) -> None:
        """Args: what is available, and the two that know how to undo and to destroy."""
        self._catalogue = catalogue
        self._slots = slots
        self._administration = administration

    def run(self) -> Steps[int]:
        """Complete what can be completed now. Answers how many were left."""
        unfinished = yield from store(self._slots.sweep)
        left = 0
        for item in unfinished:
            if not self._at_its_token(item):
                left += 1
                continue
            try:
                yield from self._complete(item)
            except HsmBridgeError as failure:
                left += 1
                _log.warning(
                    "the sweep could not complete a key",
                    slot=str(item.slot.name),
                    state=item.version.state,
                    provider=item.version.provider,
                    status=failure.status.name,
                    origin=failure.origin,
                )
        return left

    def _at_its_token(self, item: Unfinished) -> bool:
        entry = self._catalogue.entries.get(item.version.provider)
        if entry is None or not entry.available or entry.description is None:
            return False
        return item.version.token in ("", entry.description.token.serial)

    def _complete(self, item: Unfinished) -> Steps[None]:
        slot, version = item.slot, item.version
        if version.state is KeyVersionState.DESTROYING:
            yield from self._administration.finish_destroying(slot, version)
        elif version.state is KeyVersionState.ABANDONED:
            yield from for_nothing(version.provider, calls.DestroyCall(version.key_id, slot.key_type, b""))
            yield from store(lambda: self._slots.remove_abandoned(slot.id, version.key_id))
        _log.info("swept", slot=str(slot.name), state=version.state, provider=version.provider)
