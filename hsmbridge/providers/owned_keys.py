"""Which ephemeral keys each owner has: what a provider must know that frees them all when the owner is gone."""

from collections.abc import Iterable


class OwnedKeys:
    """Key ids by owner. Not thread-safe: used under the lock of who holds the keys."""

    def __init__(self) -> None:
        self._keys: dict[bytes, set[bytes]] = {}
        self._owners: dict[bytes, bytes] = {}

    def add(self, owner: bytes, key_id: bytes) -> None:
        """A key was made; `owner` b"" is nobody."""
        if owner:
            self._keys.setdefault(owner, set()).add(key_id)
            self._owners[key_id] = owner

    def discard(self, key_id: bytes) -> None:
        """A key was destroyed; one that nobody owns is fine."""
        owner = self._owners.pop(key_id, None)
        if owner is not None:
            keys = self._keys[owner]
            keys.discard(key_id)
            if not keys:
                del self._keys[owner]

    def take(self, owner: bytes) -> Iterable[bytes]:
        """Every key of an owner, who has none from now on."""
        keys = self._keys.pop(owner, set())
        for key_id in keys:
            del self._owners[key_id]
        return keys

    def clear(self) -> None:
        """Nobody has any."""
        self._keys.clear()
        self._owners.clear()
