"""Ephemeral keys on a token: session objects, each owner's in a session of its own.

Session objects die with the session that made them, so that one C_CloseSession frees whatever an owner had. Keys that
nobody owns share a session, and so do those of owners for whom the token has no further one. Handles of objects hold
in the whole process and are kept here, for finding is what costs: with 10,000 session objects SoftHSM takes 150 ms to
find one, and 20 microseconds to destroy one by its handle.
"""

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Protocol, TypeVar, cast

from pkcs11 import Object
from pkcs11.exceptions import PKCS11Error, SessionCount

from hsmbridge.core.errors import ProviderError, ResourceError, Status
from hsmbridge.providers.owned_keys import OwnedKeys
from hsmbridge.providers.pkcs11.initialise import Module
from hsmbridge.providers.pkcs11.objects import KeyObjects
from hsmbridge.providers.pkcs11.pool import PATIENCE, Seat

RECENT: Final = 256
"""Keys of one owner that are used right in his session; python-pkcs11 makes a class for each object that it holds."""

REMEMBERED: Final = 16_384
"""Owners that are gone; what was under way for them comes to its end meanwhile."""

_CKR_OBJECT_HANDLE_INVALID: Final = 0x82
_CKR_OK: Final = 0
_T = TypeVar("_T")


class _Handled(Protocol):
    handle: int


class _Home:
    """One owner's session and what lives in it; for who holds its lock. `run` changes when the session was lost."""

    __slots__ = ("closed", "handles", "lock", "run", "seat")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.seat: Seat | None = None
        self.run = b""
        self.handles: dict[bytes, tuple[int, ...]] = {}
        self.closed = False

    def forget(self) -> None:
        self.seat = None
        self.run = b""
        self.handles.clear()


class EphemeralKeys:
    """All ephemeral keys on one token. May be used from any thread."""

    def __init__(self, module: Module, open_seat: Callable[[], Seat]) -> None:
        """Args: the module, and what opens a session with the rights of the login."""
        self._module = module
        self._open_seat = open_seat
        self._lock = threading.Lock()
        self._homes: dict[bytes, _Home] = {}
        self._by_key: dict[bytes, _Home] = {}
        self._guests = OwnedKeys()
        self._gone: OrderedDict[bytes, None] = OrderedDict()
        self._changed = threading.Condition()
        self._busy = 0
        self._suspended = False

    def make(self, owner: bytes, key_id: bytes, attempt: Callable[[Seat], _T]) -> tuple[_T, bytes]:
        """Have a key made in its owner's session, where `attempt` leaves it; with the run that it belongs to.

        Raises:
            ResourceError: RESOURCE_NOT_FOUND where the owner is gone.
            PKCS11Error: of the token.
        """
        with self._call():
            home = self._home(owner)
            try:
                return self._made(home, key_id, attempt)
            except SessionCount:
                if not owner or home.seat is not None:
                    raise
            # No session is left for one more owner: his keys live among those of nobody, and go one by one.
            made = self._made(self._home(b""), key_id, attempt)
            with self._lock:
                self._guests.add(owner, key_id)
            return made

    def _made(self, home: _Home, key_id: bytes, attempt: Callable[[Seat], _T]) -> tuple[_T, bytes]:
        with home.lock:
            if home.closed:
                raise _owner_gone()
            seat = self._seat(home)
            result = attempt(seat)
            home.handles[key_id] = _handles(seat.keys[key_id])
            self._by_key[key_id] = home
            if len(seat.keys) > RECENT:
                del seat.keys[next(iter(seat.keys))]
            return result, home.run

    def lives(self, key_id: bytes, run: bytes) -> bool:
        """Whether a key of that run is there."""
        home = self._by_key.get(key_id)
        return home is not None and bool(run) and secrets.compare_digest(run, home.run) and not self._is_lost(home)

    def lost(self, owner: bytes) -> bool:
        """Whether the owner's session has ended by itself, with all of his keys."""
        home = self._homes.get(owner)
        return home is not None and self._is_lost(home)

    @contextmanager
    def at_home(self, key_id: bytes) -> Iterator[KeyObjects | None]:
        """A key in the session that it was made in, for one call; None where that is in use, or made many since."""
        home = self._by_key.get(key_id)
        if home is None:
            yield None
            return
        with self._call():
            mine = home.lock.acquire(blocking=False)
            try:
                yield home.seat.keys.get(key_id) if mine and home.seat is not None else None
            finally:
                if mine:
                    home.lock.release()

    def destroy(self, key_id: bytes) -> bool:
        """Remove a key; False where it is not known here. Raises PKCS11Error."""
        home = self._by_key.pop(key_id, None)
        if home is None:
            return False
        with self._lock:
            self._guests.discard(key_id)
        with self._call(), home.lock:
            handles = home.handles.pop(key_id, ())
            if home.seat is None:
                return True
            home.seat.keys.pop(key_id, None)
            codes = [self._module.destroy_object(home.seat.session, handle) for handle in handles]
            failed = [code for code in codes if code not in (_CKR_OK, _CKR_OBJECT_HANDLE_INVALID)]
            if failed and not self._is_lost(home):
                raise PKCS11Error(f"CKR {failed[0]:#x}")
        return True

    def release(self, owner: bytes) -> list[bytes]:
        """Free all that an owner has, by closing his session; the ids of the keys. He makes no more from now on.

        Raises ProviderError (PROVIDER_UNAVAILABLE) where a call in his session hangs, which is not closed under that;
        PKCS11Error.
        """
        with self._lock:
            self._gone[owner] = None
            if len(self._gone) > REMEMBERED:
                self._gone.popitem(last=False)
            home = self._homes.pop(owner, None)
            guests = list(self._guests.take(owner))
        for key_id in guests:
            self.destroy(key_id)
        if home is None:
            return guests
        home.closed = True
        with self._call():
            if not home.lock.acquire(timeout=PATIENCE):
                raise ProviderError(
                    Status.PROVIDER_UNAVAILABLE, "A call to the token does not end, and keeps a session open."
                )
            try:
                key_ids = list(home.handles)
                for key_id in key_ids:
                    self._by_key.pop(key_id, None)
                key_ids += guests
                if home.seat is not None:
                    home.seat.close()
                home.forget()
            finally:
                home.lock.release()
        return key_ids

    # --- the module's life -----------------------------------------------------------------------------------------

    def quiesce(self, seconds: float) -> bool:
        """Let no call begin until `resume`, and wait for those under way; False where one did not end in time."""
        deadline = time.monotonic() + seconds
        with self._changed:
            self._suspended = True
            return self._changed.wait_for(lambda: not self._busy, deadline - time.monotonic())

    def resume(self) -> None:
        """Let calls begin again."""
        with self._changed:
            self._suspended = False
            self._changed.notify_all()

    def forget_all(self) -> None:
        """Every session has ended with the module, and every key with its session; for who has made it quiet."""
        with self._lock:
            homes = list(self._homes.values())
        for home in homes:
            home.forget()
        self._by_key.clear()

    def close_all(self) -> None:
        """Close every session; for who has made it quiet."""
        for home in list(self._homes.values()):
            if home.seat is not None:
                home.seat.close()
        self.forget_all()

    # --- inside ----------------------------------------------------------------------------------------------------

    @contextmanager
    def _call(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._suspended)
            self._busy += 1
        try:
            yield
        finally:
            with self._changed:
                self._busy -= 1
                if self._suspended:
                    self._changed.notify_all()

    def _home(self, owner: bytes) -> _Home:
        with self._lock:
            if owner in self._gone:
                raise _owner_gone()
            return self._homes.setdefault(owner, _Home())

    def _seat(self, home: _Home) -> Seat:
        if home.seat is not None and self._is_lost(home):
            for key_id in home.handles:
                self._by_key.pop(key_id, None)
            home.forget()
        if home.seat is None:
            home.seat = self._open_seat()
            home.run = secrets.token_bytes(16)
        return home.seat

    def _is_lost(self, home: _Home) -> bool:
        seat = home.seat
        return seat is None or self._module.logged_in(seat.session) is None


def _handles(keys: KeyObjects) -> tuple[int, ...]:
    """The private half first, as for `KeyObjects.destroy`."""
    # python-pkcs11's own types do not tell of the attribute that its objects have.
    return tuple(_handle(item) for item in (keys.private, keys.secret, keys.public) if item is not None)


def _handle(item: Object) -> int:
    return cast(_Handled, item).handle


def _owner_gone() -> ResourceError:
    return ResourceError(Status.RESOURCE_NOT_FOUND, "The connection that the key was made for has ended.")
