"""Handles of loaded keys: a stored key is loaded when it is first used, and again when its provider forgot it."""

from collections.abc import Callable
from typing import TypeVar

from hsmbridge.core.calls import LoadCall, UnloadCall
from hsmbridge.core.errors import HsmBridgeError, ProviderError, Status
from hsmbridge.core.identifiers import KeyId
from hsmbridge.engine.steps import Steps, for_handle, for_nothing
from hsmbridge.keys.access import AcquiredKey

T = TypeVar("T")

LOADED_KEYS_MAX = 4096
"""Keys held loaded by one daemon process; the oldest is unloaded for a new one."""


class Handles:
    """What this daemon process has loaded, by key id. Any thread may use it: single dict operations are atomic."""

    def __init__(self) -> None:
        """Nothing is loaded."""
        self._loaded: dict[KeyId, tuple[str, int]] = {}

    def use(self, key: AcquiredKey, ask: Callable[[int], Steps[T]]) -> Steps[T]:
        """Do what `ask` makes of the key's handle; once more with a new handle where the provider lost it."""
        loaded = self._loaded.get(key.key_id)
        if loaded is not None:
            try:
                return (yield from ask(loaded[1]))
            except ProviderError as failure:
                if failure.status is not Status.HANDLE_UNKNOWN:
                    raise
                # Another operation may have loaded it again meanwhile; what it has is fresh.
                if self._loaded.get(key.key_id) is loaded:
                    self._loaded.pop(key.key_id, None)
        handle = yield from self.load(key)
        try:
            return (yield from ask(handle))
        except ProviderError as failure:
            if failure.status is not Status.HANDLE_UNKNOWN:
                raise
            raise ProviderError(
                Status.PROVIDER_UNAVAILABLE,
                f"Provider {key.provider} is being restarted; try again shortly.",
                origin=failure.origin,
            ) from None

    def known(self, key_id: KeyId) -> int | None:
        """The handle of a key that is loaded, as far as is known; None where it has to be loaded."""
        loaded = self._loaded.get(key_id)
        return None if loaded is None else loaded[1]

    def handle(self, key: AcquiredKey) -> Steps[int]:
        """The handle of a key, loaded if need be; the provider may still have forgotten it."""
        loaded = self._loaded.get(key.key_id)
        if loaded is not None:
            return loaded[1]
        return (yield from self.load(key))

    def load(self, key: AcquiredKey) -> Steps[int]:
        """Load a key, whether or not it is loaded already."""
        call = LoadCall(key.key_id, key.key_type.name, key.permissions, key.reference, key.binding)
        handle = yield from for_handle(key.provider, call)
        self._loaded[key.key_id] = (key.provider, handle)
        if len(self._loaded) > LOADED_KEYS_MAX:
            yield from self._unload_oldest()
        return handle

    def forget(self, key_id: KeyId) -> None:
        """The key was destroyed."""
        self._loaded.pop(key_id, None)

    def _unload_oldest(self) -> Steps[None]:
        try:
            provider, handle = self._loaded.pop(next(iter(self._loaded)))
        except (StopIteration, KeyError, RuntimeError):  # another thread changed the table first
            return
        try:
            yield from for_nothing(provider, UnloadCall(handle))
        except HsmBridgeError:  # a provider that is away holds nothing either
            return
