"""Who wins when a key is destroyed while it is still being made: the destruction, always.

A caller may die in the middle of a creation and leave a call behind, running or unread in a socket; the sweep then
destroys what that creation may have made. So a destruction waits for a running creation of the same key id, and
a creation that comes after it is refused: key ids are random and never used again.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from hsmbridge.core import calls
from hsmbridge.core.errors import ResourceError, Status

REMEMBERED: Final = 65_536
"""How many destroyed key ids are kept; about 6 MiB, and longer than a dead caller's socket can hold a call."""

MAKING: Final = frozenset(
    {
        calls.GenerateCall,
        calls.ImportCall,
        calls.DeriveFromSecretCall,
        calls.AgreeKeyCall,
        calls.DeriveKeyCall,
        calls.UnwrapCall,
        calls.CopyCall,
    }
)
Making = (
    calls.GenerateCall
    | calls.ImportCall
    | calls.DeriveFromSecretCall
    | calls.AgreeKeyCall
    | calls.DeriveKeyCall
    | calls.UnwrapCall
    | calls.CopyCall
)
ORDERED: Final = MAKING | {calls.DestroyCall}
"""The calls that must go through `KeysInTheMaking.perform`."""


class KeysInTheMaking:
    """Puts creation and destruction of one key in order. Other keys are not held up."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._making: dict[bytes, int] = {}
        self._destroyed: OrderedDict[bytes, None] = OrderedDict()

    def perform(
        self, call: calls.ProviderCall, perform: Callable[[calls.ProviderCall], calls.ProviderReply]
    ) -> calls.ProviderReply:
        """Do one of the calls in ORDERED, in its turn. Raises ResourceError for a key that was destroyed."""
        if isinstance(call, Making):
            key_id = call.target.key_id
            self._begin(key_id)
            try:
                return perform(call)
            finally:
                self._end(key_id)
        if isinstance(call, calls.DestroyCall):
            self._await_end(call.key_id)
        return perform(call)

    def _begin(self, key_id: bytes) -> None:
        with self._changed:
            if key_id in self._destroyed:
                raise ResourceError(Status.RESOURCE_NOT_FOUND, "The key was destroyed before it was made.")
            self._making[key_id] = self._making.get(key_id, 0) + 1

    def _end(self, key_id: bytes) -> None:
        with self._changed:
            self._making[key_id] -= 1
            if not self._making[key_id]:
                del self._making[key_id]
                self._changed.notify_all()

    def _await_end(self, key_id: bytes) -> None:
        with self._changed:
            self._destroyed[key_id] = None
            if len(self._destroyed) > REMEMBERED:
                self._destroyed.popitem(last=False)
            while key_id in self._making:
                self._changed.wait()
