"""Which keys stand in the TPM's few object slots, on one connection.

A TPM must have three slots (part 1 section 37; swtpm has just three), and a command that uses a persistent parent
takes one for it. So two keys stay loaded at most, the least recently used one makes way, and a key's saved context
brings it back for a sixth of what loading the wrapped key costs. Contexts end with a reset, like everything here.
"""

from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass

from tpm2_pytss import ESAPI, ESYS_TR, TPM2_RC, TPM2B_PUBLIC, TPMS_CONTEXT, TSS2_Exception

from hsmbridge.core.errors import ProviderError, Status
from hsmbridge.providers.tpm.errors import base_code
from hsmbridge.providers.tpm.held_keys import HeldKey
from hsmbridge.providers.tpm.parents import parent_object
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
        self._persistent: dict[int, ESYS_TR] = {}

    def acquire(self, key: HeldKey) -> ESYS_TR:
        """The key in a slot, until the next call.

        Raises TSS2_Exception, StateLost, ProviderError (KEY_MATERIAL_MISSING) for one that is gone from the TPM's own
        memory.
        """
        if key.private is None:
            return self._persistent_key(key)
        loaded = self._loaded.get(key.handle)
        if loaded is not None:
            self._loaded.move_to_end(key.handle)
            return loaded.object
        context = self._contexts.get(key.handle)
        if context is not None:
            self._shrink(LOADED_MAX - 1)
            return self._enter(key, self._esapi.context_load(context))
        self.make_room()
        with parent_object(self._esapi, self._root, key.reference.parent) as parent:
            object_ = self._esapi.load(parent, key.private, key.public)
        restored = self._enter(key, object_)
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
        self._persistent.pop(handle, None)
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
        self._persistent.clear()

    def _persistent_key(self, key: HeldKey) -> ESYS_TR:
        known = self._persistent.get(key.handle)
        if known is None:
            known, _ = persistent_object(self._esapi, key.reference.persistent, key.reference.name)
            self._persistent[key.handle] = known
        return known

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


def persistent_object(esapi: ESAPI, handle: int, name: bytes) -> tuple[ESYS_TR, TPM2B_PUBLIC]:
    """The key at a persistent handle, and its public area.

    ESAPI has one object for each persistent handle, however often it is asked for, and closing that closes it for all
    who have it; so nobody closes it while the key is there.

    Raises ProviderError (KEY_MATERIAL_MISSING) where no key of that name is there, TSS2_Exception.
    """
    try:
        object_ = esapi.tr_from_tpmpublic(handle)
        public, present, _ = esapi.read_public(object_)
        if bytes(esapi.tr_get_name(object_)) != bytes(present):
            # What ESAPI remembers is another key, which stood there before.
            esapi.tr_close(object_)
            object_ = esapi.tr_from_tpmpublic(handle)
    except TSS2_Exception as failure:
        if base_code(failure) == TPM2_RC.HANDLE:
            raise _missing(handle) from failure
        raise
    if name and bytes(present) != name:
        raise _missing(handle)
    return object_, public


def _missing(handle: int) -> ProviderError:
    return ProviderError(
        Status.KEY_MATERIAL_MISSING,
        f"The TPM does not hold the key at {handle:#x} any more: it was evicted, or another one stands there.",
    )
