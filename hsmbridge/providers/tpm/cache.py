"""Which keys stand in the TPM's few object slots, on one connection.

A TPM must have three slots (part 1 section 37; swtpm has just three), and a command that uses a persistent parent
takes one for it. So two keys stay loaded at most, the least recently used one makes way, and a key's saved context
brings it back for a sixth of what loading the wrapped key costs. Contexts end with a reset, like everything here.
"""

from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass

from tpm2_pytss import ESAPI, ESYS_TR, TPMS_CONTEXT, TSS2_Exception

from hsmbridge.providers.tpm.held_keys import HeldKey
from hsmbridge.providers.tpm.storage_root import StorageRoot

LOADED_MAX = 2
_CONTEXTS_MAX = 1024
"""Of about 5 KiB each; a key beyond that is loaded from its wrapped form again."""


class StateLost(Exception):
    """The TPM is not in the state that we left it in: it was reset or exchanged, or another program interfered."""


@dataclass(frozen=True, slots=True)
class _Loaded:
    object: ESYS_TR
    slot: int


class LoadedKeys:
    """An LRU of loaded keys. Not thread-safe."""

    def __init__(self, esapi: ESAPI, root: StorageRoot) -> None:
        self._esapi = esapi
        self._root = root
        self._loaded: OrderedDict[int, _Loaded] = OrderedDict()
        self._contexts: OrderedDict[int, TPMS_CONTEXT] = OrderedDict()

    def acquire(self, key: HeldKey) -> ESYS_TR:
        """The key in a slot, until the next call. Raises TSS2_Exception, StateLost."""
        loaded = self._loaded.get(key.handle)
        if loaded is not None:
            self._loaded.move_to_end(key.handle)
            return loaded.object
        context = self._contexts.get(key.handle)
        if context is not None:
            self._shrink(LOADED_MAX - 1)
            return self._enter(key, self._esapi.context_load(context))
        self.make_room()
        restored = self._enter(key, self._esapi.load(self._root.handle, key.private, key.public))
        self._contexts[key.handle] = self._esapi.context_save(restored)
        if len(self._contexts) > _CONTEXTS_MAX:
            self._contexts.popitem(last=False)
        return restored

    def make_room(self) -> None:
        """Leave two slots free: for a persistent parent and what is made or loaded under it."""
        self._shrink(LOADED_MAX - 1)

    def forget(self, handle: int) -> None:
        """Remove every trace of a key from the TPM and from here; one that is not there is fine."""
        self._contexts.pop(handle, None)
        loaded = self._loaded.pop(handle, None)
        if loaded is not None:
            self._release(loaded)

    def release_all(self) -> None:
        """Empty our slots, with contexts kept."""
        while self._loaded:
            self._release(self._loaded.popitem()[1])

    def clear(self) -> None:
        """Start anew: contexts are dropped too."""
        self.release_all()
        self._contexts.clear()

    def _enter(self, key: HeldKey, object_: ESYS_TR) -> ESYS_TR:
        slot = int(self._esapi.tr_get_tpm_handle(object_))
        if any(other.slot == slot for other in self._loaded.values()):
            # The TPM gave a slot that another key of ours should be in: a command on that key would now use this one.
            raise StateLost
        self._loaded[key.handle] = _Loaded(object_, slot)
        return object_

    def _shrink(self, count: int) -> None:
        while len(self._loaded) > count:
            handle, oldest = next(iter(self._loaded.items()))
            self._esapi.flush_context(oldest.object)
            del self._loaded[handle]

    def _release(self, loaded: _Loaded) -> None:
        try:
            self._esapi.flush_context(loaded.object)
        except TSS2_Exception:
            # It is gone already, or the TPM is; either way the slot is not ours.
            with suppress(TSS2_Exception):
                self._esapi.tr_close(loaded.object)
