"""Lanes run provider calls: inline, on worker threads, or (elsewhere) in a host process.

A lane is what the engine knows of a provider. Short calls of an in-process provider run inline in whatever
thread asks; the rest queue for its worker threads, which carry the operation on by themselves, reply included:
a hop through an event loop would cost more than most calls. Deadlines are kept by the runner; a lane is told
which call was given up and decides what becomes of the provider.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Protocol, TypeVar, cast

import structlog

from hsmbridge.core import calls
from hsmbridge.core.algorithms import ALGORITHMS, Algorithm, KeyOperation
from hsmbridge.core.errors import HsmBridgeError, ProviderError, Status
from hsmbridge.core.identifiers import new_incident_id
from hsmbridge.core.key_types import KEY_TYPES
from hsmbridge.providers.base import Provider, perform

INLINE_BYTES = 64 * 1024
"""Data up to this size is handled inline by fast algorithms: about 10 microseconds of AES-GCM, 50 of SHA-256."""

ALONE_TIME = 0.002
"""A signature that takes less than so many seconds is made inline where nobody is held up by it."""

INLINE_MESSAGES = 4
"""So many messages of one call are signed inline by a fast algorithm."""

ALONE_BYTES = 4 * 1024 * 1024
"""So much data is encrypted or decrypted inline where nobody is held up by it: a millisecond."""

ALONE_MESSAGES = 64
"""So many are where nobody is held up by it: a few milliseconds."""

_REMEMBERED = 4096

MAX_HUNG_CALLS = 4
"""With `isolation = thread` a hung call cannot be killed; this many are carried before the provider is closed off."""

HANG_PATIENCE = 5.0
"""Seconds that a provider has had a call before it can count as hung. A deadline alone says nothing: its length is
the caller's choice, and one who chose a millisecond must not be able to close a provider off for everybody."""

CLOSING_TIME = 5.0
"""Seconds that `close` waits for calls under way."""

Resume = Callable[[calls.ProviderReply, HsmBridgeError | None], None]
"""Takes the answer of a call, or the error it ended with; called once, from any thread."""

_log = structlog.get_logger(__name__)


class Lane(Protocol):
    """How calls reach one provider."""

    @property
    def local(self) -> bool:
        """Whether it is in this process, so that EncryptInto and DecryptInto can be asked of it."""
        ...

    def inline(self, call: calls.ProviderCall) -> bool:
        """Whether `perform` may be called right here."""
        ...

    def perform(self, call: calls.ProviderCall) -> calls.ProviderReply:
        """Do an inline call."""
        ...

    def submit(self, ticket: "Ticket") -> None:
        """Have a call done elsewhere; its `resume` takes the outcome, from any thread, perhaps before this returns.

        What is refused at once may be raised instead (HsmBridgeError), and `resume` is not called then: an operation
        of a thousand calls to a provider that is away would otherwise be a thousand calls deep.
        """
        ...

    def give_up(self, ticket: "Ticket") -> None:
        """The call passed its deadline; its answer, if it ever comes, is dropped."""
        ...


class Ticket:
    """A call on its way through a lane; the flags belong to the lane."""

    __slots__ = ("apart", "begun", "call", "cancelled", "ended", "lost", "resume", "started")

    def __init__(self, call: calls.ProviderCall, resume: Resume) -> None:
        self.call = call
        self.resume = resume
        self.apart = False
        self.begun = 0.0
        self.started = False
        self.ended = False
        self.lost = False
        self.cancelled = False

    def answer(self, reply: calls.ProviderReply, failure: HsmBridgeError | None) -> None:
        """Say how the call ended; once, from any thread."""
        self.resume(reply, failure)

    def carries(self, ticket: "Ticket") -> bool:
        """Whether this is the call that another is done by."""
        return ticket is self

    def given_up(self) -> bool:
        """Whether somebody stopped waiting for it."""
        return self.cancelled


class _Worker:
    """One thread of a lane: asleep while `wake` is held, with what was handed to it."""

    __slots__ = ("tickets", "wake")

    def __init__(self) -> None:
        self.tickets: deque[Ticket | None] = deque()
        self.wake = threading.Lock()
        self.wake.acquire()


class UnavailableLane:
    """Stands for a provider that cannot be used now; every call fails with the reason."""

    local = False

    def __init__(self, reason: HsmBridgeError) -> None:
        self.reason = reason

    def inline(self, call: calls.ProviderCall) -> bool:
        return True

    def perform(self, call: calls.ProviderCall) -> calls.ProviderReply:
        raise ProviderError(self.reason.status, self.reason.message, origin=self.reason.origin)

    def submit(self, ticket: Ticket) -> None:
        self.perform(ticket.call)

    def give_up(self, ticket: Ticket) -> None:
        pass


class ThreadLane:
    """An in-process provider with worker threads of its own."""

    local = True

    def __init__(
        self,
        name: str,
        provider: Provider,
        *,
        threads: int,
        inline: bool,
        count: Callable[[], None],
        patience: float = HANG_PATIENCE,
        alone: Callable[[], bool] = lambda: False,
    ) -> None:
        """Start the workers.

        Args:
            name: instance name, for the log.
            provider: what does the calls.
            threads: how many calls may be under way at once.
            inline: short calls need no thread (a software provider, never a token).
            count: called once for every provider call.
            patience: seconds after which a call that was given up counts as hung.
            alone: whether nobody but the caller wants anything just now, so that a call of a millisecond may be
                inline too: the hop to a thread and back costs a third of an RSA-2048 signature.
        """
        self._name = name
        self._provider = provider
        self._inline = inline
        self._count = count
        self._patience = patience
        self._alone = alone
        self._queue: deque[Ticket | None] = deque()
        self._idle: list[_Worker] = []
        self._took: dict[tuple[int, str], float] = {}
        self._hung: set[Ticket] = set()
        self._hung_lock = threading.Lock()
        self._threads = [self._start_worker() for _ in range(threads)]

    def inline(self, call: calls.ProviderCall) -> bool:
        if not self._inline:
            return False
        rule = _SHORT.get(type(call))
        return (rule is not None and rule(call)) or self._holds_nobody_up(call)

    def _holds_nobody_up(self, call: calls.ProviderCall) -> bool:
        """Whether it is a few milliseconds of work at most, as far as is known, and nobody is there to wait."""
        if type(call) is calls.SignCall:
            return self._took.get((call.handle, call.algorithm), 1.0) < ALONE_TIME and self._alone()
        if type(call) is calls.SignManyCall:
            return (
                call.algorithm in _FAST_SIGN
                and len(call.messages) <= ALONE_MESSAGES
                and sum(map(len, call.messages)) <= INLINE_BYTES
                and self._alone()
            )
        if type(call) is calls.EncryptInto:
            return call.algorithm in _FAST_ENCRYPT and len(call.plaintext) <= ALONE_BYTES and self._alone()
        if type(call) is calls.EncryptManyInto:
            most = ALONE_BYTES if self._alone() else 0
            return call.algorithm in _FAST_ENCRYPT and sum(map(len, call.messages)) <= most
        if type(call) is calls.DecryptInto:
            return call.algorithm in _FAST_DECRYPT and len(call.sealed) <= ALONE_BYTES and self._alone()
        return False

    def perform(self, call: calls.ProviderCall) -> calls.ProviderReply:
        self._count()
        try:
            return perform(self._provider, call)
        except HsmBridgeError:
            raise
        except Exception as fault:  # noqa: BLE001 - the outermost boundary of a call: a fault of the provider's code
            incident = new_incident_id()
            _log.exception("provider call failed unexpectedly", provider=self._name, incident=incident)
            raise ProviderError(Status.PROVIDER_FAILED, incident=incident, origin=repr(fault)) from None

    def submit(self, ticket: Ticket) -> None:
        if len(self._hung) >= MAX_HUNG_CALLS and self._is_closed_off():
            message = f"Provider {self._name} hangs; restart the daemon."
            raise ProviderError(Status.PROVIDER_UNAVAILABLE, message)
        self._hand_over(ticket)

    def give_up(self, ticket: Ticket) -> None:
        with self._hung_lock:
            if not ticket.started:
                ticket.cancelled = True
            elif not ticket.ended:
                self._hung.add(ticket)
                _log.warning("provider call hangs", provider=self._name, call=type(ticket.call).__name__)
                if len(self._hung) <= MAX_HUNG_CALLS:
                    # The thread is lost to the hung call, so another takes its place; it ends when the call does.
                    ticket.lost = True
                    self._threads = [thread for thread in self._threads if thread.is_alive()]
                    self._threads.append(self._start_worker())

    def close(self) -> None:
        """Let the workers end after what is queued; one that does not within seconds keeps the provider open."""
        threads = tuple(self._threads)
        for _ in threads:
            self._hand_over(None)
        until = time.monotonic() + CLOSING_TIME
        for thread in threads:
            thread.join(timeout=max(0.0, until - time.monotonic()))
        if any(thread.is_alive() for thread in threads):
            # Taking a library down while a thread is inside it is how processes crash at their end.
            _log.warning("a provider is left open: calls are under way", provider=self._name)
        else:
            self._provider.close()

    def _remember(self, call: calls.SignCall, seconds: float) -> None:
        if len(self._took) >= _REMEMBERED:
            self._took.clear()
        self._took[(call.handle, call.algorithm)] = seconds

    def _is_closed_off(self) -> bool:
        since = time.monotonic() - self._patience
        with self._hung_lock:
            return sum(ticket.begun <= since for ticket in self._hung) >= MAX_HUNG_CALLS

    def _start_worker(self) -> threading.Thread:
        thread = threading.Thread(target=self._work, args=(_Worker(),), name=f"lane-{self._name}", daemon=True)
        thread.start()
        return thread

    # Handing over takes no lock: list and deque operations are atomic. Who queues a ticket looks once more for an idle
    # worker, and who becomes idle looks once more at the queue; one of the two therefore sees the other. The worker
    # that was busy last is taken first, and no other is woken: it is the one whose session and caches are warm.

    def _hand_over(self, ticket: "Ticket | None") -> None:
        worker = self._idle_worker()
        if worker is not None:
            worker.tickets.append(ticket)
            worker.wake.release()
            return
        self._queue.append(ticket)
        worker = self._idle_worker()
        if worker is not None:
            worker.wake.release()

    def _idle_worker(self) -> "_Worker | None":
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def _next(self, worker: "_Worker") -> "Ticket | None":
        while True:
            for tickets in (worker.tickets, self._queue):
                try:
                    return tickets.popleft()
                except IndexError:
                    continue
            self._idle.append(worker)
            if self._queue:
                try:
                    self._idle.remove(worker)
                except ValueError:  # somebody has just taken it, and wakes it
                    pass
                else:
                    continue
            worker.wake.acquire()

    def _work(self, worker: "_Worker") -> None:
        while (ticket := self._next(worker)) is not None:
            with self._hung_lock:
                if ticket.cancelled:
                    continue
                ticket.started = True
                ticket.begun = time.monotonic()
            reply: calls.ProviderReply = None
            failure: HsmBridgeError | None = None
            try:
                reply = self.perform(ticket.call)
            except HsmBridgeError as error:
                failure = error
            if self._inline and type(ticket.call) is calls.SignCall:
                self._remember(ticket.call, time.monotonic() - ticket.begun)
            # The answer first: what follows concerns nobody who waits.
            ticket.answer(reply, failure)
            with self._hung_lock:
                ticket.ended = True
                self._hung.discard(ticket)
            if ticket.lost:
                return


def _fast(operation: KeyOperation) -> frozenset[str]:
    def short(row: Algorithm) -> bool:
        return operation in row.operations and operation not in row.slow

    return frozenset(row.name for row in ALGORITHMS.values() if short(row))


_FAST_SIGN = _fast(KeyOperation.SIGN)
_FAST_VERIFY = _fast(KeyOperation.VERIFY)
_FAST_ENCRYPT = _fast(KeyOperation.ENCRYPT)
_FAST_DECRYPT = _fast(KeyOperation.DECRYPT)
_FAST_AGREE = _fast(KeyOperation.AGREE)
_FAST_DERIVE = _fast(KeyOperation.DERIVE)
_FAST_GENERATE = frozenset(row.name for row in KEY_TYPES.values() if not row.slow_to_generate)
_FAST_LOAD = frozenset(row.name for row in KEY_TYPES.values() if row.symmetric)


def is_short(call: calls.ProviderCall) -> bool:
    """Whether a software provider does this call in about 100 microseconds or less, by the tables."""
    rule = _SHORT.get(type(call))
    return rule is not None and rule(call)


_C = TypeVar("_C")
_Rule = Callable[[calls.ProviderCall], bool]


def _rule(call: type[_C], short: Callable[[_C], bool]) -> tuple[type[calls.ProviderCall], _Rule]:
    # `short` is only ever given values of `call`, which the table finds it by.
    return cast(type[calls.ProviderCall], call), cast(_Rule, short)


_SHORT: Mapping[type[calls.ProviderCall], _Rule] = MappingProxyType(
    dict(
        (
            _rule(calls.SignCall, lambda c: c.algorithm in _FAST_SIGN and len(c.message) <= INLINE_BYTES),
            _rule(
                calls.SignManyCall,
                lambda c: (
                    c.algorithm in _FAST_SIGN
                    and len(c.messages) <= INLINE_MESSAGES
                    and sum(map(len, c.messages)) <= INLINE_BYTES
                ),
            ),
            _rule(calls.VerifyCall, lambda c: c.algorithm in _FAST_VERIFY and len(c.message) <= INLINE_BYTES),
            _rule(calls.EncryptCall, lambda c: c.algorithm in _FAST_ENCRYPT and len(c.plaintext) <= INLINE_BYTES),
            _rule(calls.DecryptCall, lambda c: c.algorithm in _FAST_DECRYPT and len(c.ciphertext) <= INLINE_BYTES),
            _rule(
                calls.EncryptManyInto,
                lambda c: c.algorithm in _FAST_ENCRYPT and sum(map(len, c.messages)) <= INLINE_BYTES,
            ),
            _rule(calls.EncryptInto, lambda c: c.algorithm in _FAST_ENCRYPT and len(c.plaintext) <= INLINE_BYTES),
            _rule(calls.DecryptInto, lambda c: c.algorithm in _FAST_DECRYPT and len(c.sealed) <= INLINE_BYTES),
            _rule(calls.DigestCall, lambda c: len(c.data) <= INLINE_BYTES),
            _rule(calls.StreamOpenCall, lambda c: True),
            _rule(calls.StreamUpdateCall, lambda c: len(c.data) <= INLINE_BYTES),
            _rule(calls.StreamCloseCall, lambda c: True),
            _rule(calls.GenerateCall, lambda c: c.target.key_type in _FAST_GENERATE),
            _rule(calls.AgreeSecretCall, lambda c: c.algorithm in _FAST_AGREE),
            _rule(
                calls.AgreeKeyCall,
                lambda c: c.algorithm in _FAST_AGREE and (c.kdf is None or c.kdf.algorithm in _FAST_DERIVE),
            ),
            _rule(calls.DeriveKeyCall, lambda c: c.kdf.algorithm in _FAST_DERIVE),
            _rule(calls.DeriveFromSecretCall, lambda c: c.kdf is None or c.kdf.algorithm in _FAST_DERIVE),
            _rule(calls.LoadCall, lambda c: c.key_type in _FAST_LOAD),
            _rule(calls.EncapsulateCall, lambda c: True),
            _rule(calls.DecapsulateCall, lambda c: True),
            _rule(calls.RandomCall, lambda c: True),
            _rule(calls.UnloadCall, lambda c: True),
            _rule(calls.DestroyCall, lambda c: True),
            _rule(calls.DescribeCall, lambda c: True),
        )
    )
)
