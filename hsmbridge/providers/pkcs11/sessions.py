"""The sessions of one token in this process: its login, the pool, ephemeral keys, and what to do when they break.

A PKCS#11 login belongs to token and process, so there is one TokenSessions per token however many providers use
it. An anchor session keeps the login; the pool's sessions have no PIN. Session objects die with the session that
made them, so ephemeral keys are made in sessions of their own (`ephemeral`).

What happens when a call fails, and the least that may help:
  1. an object handle is stale: find the object again in that session, once;
  2. the session is broken: drop that session; log in again only where the login is really lost;
  3. that did not help, or the token was away: initialise the module again (see `initialise`), find the same
     serial, log in. Ephemeral keys are lost then.
A refused PIN is remembered and never tried again.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import TypeVar

from pkcs11 import Session, Token
from pkcs11.exceptions import DeviceError, PKCS11Error, TokenNotPresent, UserNotLoggedIn

from hsmbridge.core.errors import HsmBridgeError, ProviderError, Status, error
from hsmbridge.core.secrets import Pin
from hsmbridge.providers.pkcs11.ephemeral import EphemeralKeys
from hsmbridge.providers.pkcs11.errors import Cure, ckr_name, cure_for, translated
from hsmbridge.providers.pkcs11.initialise import Module
from hsmbridge.providers.pkcs11.login import (
    described,
    find_token,
    identity_of,
    open_anchor,
    open_session,
    serial_of,
)
from hsmbridge.providers.pkcs11.objects import KeyObjects, Sought, find_key
from hsmbridge.providers.pkcs11.pool import Seat, SessionPool
from hsmbridge.providers.pkcs11.quirks import quirks_of

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_RESTART = 2  # the last step of the ladder
_SEARCHES = 3


@dataclass(slots=True)
class _Effort:
    """What was done already to make one call succeed."""

    found_again: bool = False
    step: int = 0


class _NotSoughtYet(Exception):
    """This session has not looked for the key."""

    effort: _Effort | None = None


class TokenSessions:
    """All sessions on one token.

    Attributes:
        module, token: where they are.
        objects_lock: to be held while objects are made, destroyed or looked for; taken before a session is, so
            that who holds a session never waits for it.
        serial, label: of the token that was opened.
        identity: by which it is found again; no other token is ever used in its place.
        ephemeral: the keys that live in sessions.
        quirks: of that kind of token.
    """

    def __init__(self, module: Module, token: Token, pin: Pin | None, size: int) -> None:
        self.module = module
        self.serial = serial_of(token)
        self.label = token.label
        self.identity = identity_of(token)
        self.token = token
        self.quirks = quirks_of(token)
        self.objects_lock: AbstractContextManager[object] = (
            threading.Lock() if self.quirks.objects_one_by_one else nullcontext()
        )
        self._described = described(token)
        self._pin = pin
        self._refused: HsmBridgeError | None = None
        self._anchor: Session | None = None
        self._login = threading.Lock()
        self._pool = SessionPool(size, self._open_seat)
        self.ephemeral = EphemeralKeys(module, lambda: self._open_seat(0))
        self._holds = 0

    # --- calls -----------------------------------------------------------------------------------------------------

    def run(self, attempt: Callable[[Seat], _T], key_id: bytes = b"", effort: _Effort | None = None) -> _T:
        """Do something in a session, again where that may help. `key_id` is the key that it is about.

        Raises:
            HsmBridgeError: what `attempt` raised, or what the token answered, translated.
        """
        generation = self.module.generation
        seat = None
        try:
            seat = self._pool.take()
            result = attempt(seat)
        except PKCS11Error as failure:
            return self._run_again(attempt, key_id, seat, generation, failure, effort or _Effort())
        except BaseException:
            if seat is not None:
                self._pool.give(seat)
            raise
        self._pool.give(seat)
        return result

    def use(self, sought: Sought, attempt: Callable[[KeyObjects], _T]) -> _T:
        """Do something with a key, in a session that has found it already where there is one.

        Raises:
            HsmBridgeError: as `run` and `objects`.
        """
        key_id = sought.key_id
        if sought.ephemeral:
            with self.ephemeral.at_home(key_id) as keys:
                if keys is not None:
                    try:
                        return attempt(keys)
                    except PKCS11Error as failure:
                        if self.cure(failure) is Cure.NONE:
                            raise self._translated(failure) from failure

        def with_found(seat: Seat) -> _T:
            found = seat.keys.get(key_id)
            if found is None:
                raise _NotSoughtYet
            return attempt(found)

        effort = None
        for _ in range(_SEARCHES):
            try:
                return self.run(with_found, key_id, effort)
            except _NotSoughtYet as unsought:
                effort = unsought.effort or effort
            self.seek(sought)
        # Sessions change hands faster than they find: the rare call that meets this keeps the lock.
        with self.objects_lock:
            return self.run(lambda seat: attempt(self.objects(seat, sought)), key_id, effort)

    def aside(
        self, generation: int, work: Callable[[], _T], verdict: Callable[[PKCS11Error], HsmBridgeError | None]
    ) -> _T:
        """Do something in a session outside of the pool, once; a session of the pool keeps the module initialised.

        Args:
            generation: of the module when that session was opened.
            work: what to do.
            verdict: what a failure says of the data, or None.

        Raises:
            ProviderError: HANDLE_UNKNOWN where the session is gone, for the module was initialised again.
            HsmBridgeError: by `verdict`, or what the token answered, translated.
        """

        def attempt(_: Seat) -> _T:
            if self.module.generation != generation:
                raise ProviderError(Status.HANDLE_UNKNOWN)
            try:
                return work()
            except PKCS11Error as failure:
                raise verdict(failure) or self._translated(failure) from failure

        return self.run(attempt)

    def seek(self, sought: Sought) -> None:
        """Find a key in one session, where that did not happen yet."""
        with self.objects_lock:
            self.run(lambda seat: self.objects(seat, sought), sought.key_id)

    def objects(self, seat: Seat, sought: Sought) -> KeyObjects:
        """The objects of a key in this session; for who holds `objects_lock`.

        Raises:
            ProviderError: KEY_MATERIAL_MISSING where the token does not hold it, HANDLE_UNKNOWN for an ephemeral one.
        """
        found = seat.keys.get(sought.key_id)
        if found is None:
            found = find_key(seat.session, sought)
            if not found.usable(sought):
                # Who is not logged in sees no private object: that is no missing key.
                if self._pin is not None and not self.module.logged_in(seat.session):
                    raise UserNotLoggedIn
                if sought.ephemeral:
                    raise ProviderError(Status.HANDLE_UNKNOWN)
                raise ProviderError(
                    Status.KEY_MATERIAL_MISSING,
                    f"The {self._described} does not hold this key (any more); restore the token from a backup.",
                )
            seat.keys[sought.key_id] = found
        return found

    @contextmanager
    def found(self, seat: Seat, sought: Sought) -> Iterator[KeyObjects]:
        """As `objects`, for one use; where the token says that a handle is stale, the next attempt looks again."""
        keys = self.objects(seat, sought)
        try:
            yield keys
        except PKCS11Error as failure:
            if self.cure(failure) is Cure.FIND_AGAIN:
                seat.keys.pop(sought.key_id, None)
            raise

    def log_in(self) -> None:
        """Log in now, so that a wrong PIN shows at once."""
        try:
            self._ensure_login()
        except PKCS11Error as failure:
            raise self._translated(failure) from failure

    def forget(self, *key_ids: bytes) -> None:
        """Drop what was found of keys."""
        self._pool.forget(*key_ids)

    def make_ephemeral(self, owner: bytes, key_id: bytes, attempt: Callable[[Seat], _T]) -> tuple[_T, bytes]:
        """As `EphemeralKeys.make`, once more where that may help. Raises HsmBridgeError."""
        try:
            return self.ephemeral.make(owner, key_id, attempt)
        except PKCS11Error as failure:
            cure = self.cure(failure)
            if cure is not Cure.FIND_AGAIN and not (cure is Cure.NEW_SESSION and self.ephemeral.lost(owner)):
                raise self._translated(failure) from failure
        try:
            return self.ephemeral.make(owner, key_id, attempt)
        except PKCS11Error as failure:
            raise self._translated(failure) from failure

    def release_owner(self, owner: bytes) -> list[bytes]:
        """As `EphemeralKeys.release`. Raises HsmBridgeError."""
        try:
            return self.ephemeral.release(owner)
        except PKCS11Error as failure:
            raise self._translated(failure) from failure

    def destroy_ephemeral(self, key_id: bytes) -> bool:
        """Remove an ephemeral key; False where there is none of this id. Raises HsmBridgeError."""
        try:
            return self.ephemeral.destroy(key_id)
        except PKCS11Error as failure:
            raise self._translated(failure) from failure

    # --- recovery --------------------------------------------------------------------------------------------------

    def _run_again(
        self,
        attempt: Callable[[Seat], _T],
        key_id: bytes,
        seat: Seat | None,
        generation: int,
        failure: PKCS11Error,
        effort: _Effort,
    ) -> _T:
        while True:
            cure = self.cure(failure)
            if cure is Cure.FIND_AGAIN and not effort.found_again and seat is not None:
                effort.found_again = True
                seat.keys.pop(key_id, None)
                self._pool.give(seat)
            elif cure in {Cure.NEW_SESSION, Cure.START_AGAIN} and effort.step < _RESTART:
                if seat is not None:
                    self._pool.discard(seat)
                effort.step = _RESTART if cure is Cure.START_AGAIN else effort.step + 1
                if not self._recover(effort.step, generation, failure):
                    raise self._translated(failure) from failure
            else:
                if seat is not None:
                    self._pool.give(seat)
                raise self._translated(failure) from failure
            generation = self.module.generation
            seat = None
            try:
                seat = self._pool.take()
                result = attempt(seat)
            except PKCS11Error as again:
                failure = again
            except BaseException as ending:
                if seat is not None:
                    self._pool.give(seat)
                if isinstance(ending, _NotSoughtYet):
                    ending.effort = effort
                raise
            else:
                self._pool.give(seat)
                return result

    def cure(self, failure: PKCS11Error) -> Cure:
        """What may help on this kind of token."""
        if self.quirks.device_error_for_data and isinstance(failure, DeviceError):
            return Cure.NONE
        return cure_for(failure)

    def _recover(self, step: int, generation: int, failure: PKCS11Error) -> bool:
        _log.warning("token %r: %s; recovering", self.label, ckr_name(failure))
        if step == _RESTART:
            return self.module.start_again(generation)
        with self._login:
            if self._anchor is not None and self._lost(self._anchor):
                self._let_go_of_anchor()
        return True

    def _lost(self, anchor: Session) -> bool:
        state = self.module.logged_in(anchor)
        return state is None or (self._pin is not None and not state)

    def _let_go_of_anchor(self) -> None:
        """With the anchor the login is gone, and what the sessions have found is doubtful."""
        anchor, self._anchor = self._anchor, None
        self._pool.void()
        if anchor is not None:
            self.module.close_session(anchor)

    def _translated(self, failure: PKCS11Error) -> HsmBridgeError:
        if isinstance(failure, TokenNotPresent):
            return ProviderError(
                Status.TOKEN_NOT_PRESENT,
                f"The {self._described} is not there; connect it. No other token is used in its place.",
                origin=ckr_name(failure),
            )
        return translated(failure, self.label)

    # --- opening ---------------------------------------------------------------------------------------------------

    def _open_seat(self, epoch: int) -> Seat:
        self._ensure_login()
        return Seat(open_session(self.token), epoch)

    def _ensure_login(self) -> None:
        with self._login:
            if (refused := self._refused) is not None:
                raise error(refused.status, refused.message, origin=refused.origin)
            if self._anchor is not None:
                return
            token = find_token(self.module, self.identity)
            try:
                self._anchor = open_anchor(self.module, token, self._pin)
            except HsmBridgeError as refusal:
                self._refused = refusal
                raise
            self.token = token

    # --- the module's life -----------------------------------------------------------------------------------------

    def suspend(self) -> None:
        """Let no new call begin."""
        self._pool.suspend()

    def quiesce(self, seconds: float) -> bool:
        """Close all sessions as soon as nobody uses them; False where a call did not end in time."""
        return self._pool.quiesce(seconds) and self.ephemeral.quiesce(seconds)

    def resume(self, *, restarted: bool) -> None:
        """Let calls begin again; `restarted` means that every session and session object is gone."""
        if restarted:
            with self._login:
                self._anchor = None
            self.ephemeral.forget_all()
        self.ephemeral.resume()
        self._pool.resume()

    def hold(self) -> None:
        """One provider more uses these sessions."""
        self._holds += 1

    def drop(self, seconds: float) -> bool:
        """One provider less; with the last one everything is closed. False where a call did not end in time."""
        self._holds -= 1
        if self._holds:
            return True
        self.suspend()
        idle = self.quiesce(seconds)
        with self._login:
            anchor, self._anchor = self._anchor, None
            self._refused = ProviderError(Status.PROVIDER_UNAVAILABLE, "The provider was closed.")
        if idle:
            self.ephemeral.close_all()
        if idle and anchor is not None:
            with suppress(PKCS11Error):
                anchor.close()
        self.resume(restarted=True)
        return idle

    def accepts(self, pin: Pin | None) -> bool:
        """Whether another provider gave the PIN that these sessions logged in with."""
        return self._pin == pin

    @property
    def held(self) -> bool:
        """Whether a provider uses them."""
        return self._holds > 0
