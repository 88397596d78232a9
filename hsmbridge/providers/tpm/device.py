"""One TPM with its one owner: the lock, the connection, and what brings both back after a failure.

ESAPI is not thread-safe and a TPM does one thing at a time, so every action runs under one lock. A command that fails
is looked at before it is believed: tcti-swtpm dials again for each command, so a restarted TPM shows up as an unknown
handle and not as a lost connection. Actions must bear being run again from their beginning.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock
from typing import TypeVar

from tpm2_pytss import ESAPI, TPM2_PT, TPM2_RC, TSS2_Exception

from hsmbridge.core.errors import HsmBridgeError, ProviderError, Status
from hsmbridge.providers.tpm.cache import LoadedKeys, StateLost
from hsmbridge.providers.tpm.connection import Connection, Limits
from hsmbridge.providers.tpm.errors import Trouble, base_code, locked_out, origin, translate, trouble
from hsmbridge.providers.tpm.secrecy import Secrecy
from hsmbridge.providers.tpm.settings import TpmSettings
from hsmbridge.providers.tpm.storage_root import StorageRoot, storage_root

_T = TypeVar("_T")
_WAITS = (0.01, 0.02, 0.04, 0.08)
"""Seconds between tries of a command that a busy or crowded TPM turned away."""
_UNSTEADY = "The TPM goes away again and again; see that it is connected well and that nothing else restarts it."
_DISTURBED = (
    "Another program interferes with the keys in this TPM; end it, or reach the TPM through its resource manager"
    " (device:/dev/tpmrm0)."
)


@dataclass(frozen=True, slots=True)
class Opened:
    """What stands on one connection."""

    connection: Connection
    esapi: ESAPI
    root: StorageRoot
    keys: LoadedKeys
    secrecy: Secrecy

    @property
    def limits(self) -> Limits:
        return self.connection.limits


Action = Callable[[Opened], _T]
Verdict = Callable[[TSS2_Exception], HsmBridgeError | None]


class Tpm:
    """A TPM that is there, or will be again. Thread-safe."""

    def __init__(self, settings: TpmSettings, *, guest: bool = False) -> None:
        """Connect. Raises what `run` raises.

        Args:
            settings: which TPM.
            guest: something else may own the TPM, so what is in its slots is left there as long as there is room.
        """
        self._settings = settings
        self._guest = guest
        self._lock = Lock()
        self._opened: Opened | None = None
        self.serial = ""
        """Of the TPM that was there last."""
        self.run(lambda opened: None)

    def run(self, action: Action[_T], verdict: Verdict | None = None) -> _T:
        """Do something alone with the TPM, again where only its state was lost.

        Args:
            action: commands, and nothing that another thread waits for.
            verdict: what a code means that the TPM gave about the action's own data; None leaves it to the table.

        Raises:
            HsmBridgeError: by `verdict`, or by the table of codes: TOKEN_NOT_PRESENT, PROVIDER_UNAVAILABLE,
                PIN_LOCKED, PROVIDER_FAILED and so on.
        """
        with self._lock:
            recovery = _Recovery()
            while True:
                opened = self._opened or self._open()
                try:
                    return action(opened)
                except StateLost:
                    self._recover_state(opened, recovery)
                except ProviderError as failure:
                    # Nothing was asked yet that would have shown that the right TPM is back.
                    if failure.status is not Status.WRONG_TOKEN or self._same_tpm(opened):
                        raise
                    self._abandon()
                    if not recovery.once(Trouble.TRANSPORT):
                        raise
                except TSS2_Exception as failure:
                    self._recover(opened, failure, recovery, verdict)

    def release(self, *handles: int) -> None:
        """Forget keys by their handles, if the TPM is there at all."""
        if not handles:
            return
        with self._lock:
            if self._opened is not None:
                for handle in handles:
                    self._opened.keys.forget(handle)

    def close(self) -> None:
        """Give back the slots and leave the TPM in order."""
        with self._lock:
            if self._opened is not None:
                self._opened.keys.clear()
                self._opened.secrecy.drop()
                self._opened.connection.close()
                self._opened = None

    def _open(self) -> Opened:
        connection = Connection(self._settings, flush=not self._guest)
        try:
            root = storage_root(connection, self._settings.srk_handle)
            root.check_pinned(self._settings.srk_name)
        except TSS2_Exception as failure:
            explained = _explain(connection, failure, None)
            connection.abandon()
            raise explained from failure
        except HsmBridgeError:
            connection.abandon()
            raise
        esapi = connection.esapi
        secrecy = Secrecy(esapi, root.handle, encrypts=self._settings.parameter_encryption)
        self._opened = Opened(connection, esapi, root, LoadedKeys(esapi, root), secrecy)
        self.serial = root.serial
        return self._opened

    def _abandon(self) -> None:
        if self._opened is not None:
            self._opened.connection.abandon()
            self._opened = None

    def _recover(self, opened: Opened, failure: TSS2_Exception, recovery: "_Recovery", verdict: Verdict | None) -> None:
        """Return where the action should run again, raise where it should not."""
        kind = trouble(failure)
        if kind is Trouble.BUSY:
            again = recovery.wait()
        elif kind is Trouble.TRANSPORT or not self._same_tpm(opened):
            self._abandon()
            if recovery.once(Trouble.TRANSPORT):
                return
            # Whatever was answered, it was not about the action's data.
            raise ProviderError(Status.TOKEN_NOT_PRESENT, _UNSTEADY, origin=origin(failure)) from failure
        elif kind is Trouble.NO_ROOM:
            opened.keys.release_all()
            again = recovery.wait()
            if not again and self._guest and recovery.once(kind):
                opened.connection.flush_all()
                again = True
        elif kind is Trouble.STALE:
            # Another program may have flushed our objects: nothing keeps it from that without a resource manager.
            opened.keys.clear()
            opened.secrecy.drop()
            again = recovery.once(kind)
        else:
            again = False
        if not again:
            raise _explain(opened.connection, failure, verdict) from failure

    def _recover_state(self, opened: Opened, recovery: "_Recovery") -> None:
        if self._same_tpm(opened):
            opened.keys.clear()
            opened.secrecy.drop()
        else:
            self._abandon()
        if not recovery.once(Trouble.STALE):
            raise ProviderError(Status.PROVIDER_UNAVAILABLE, _DISTURBED) from None

    def _same_tpm(self, opened: Opened) -> bool:
        if not opened.connection.alive():
            return False
        # Cleared, or exchanged for another whose counters happen to be the same.
        try:
            _, name, _ = opened.esapi.read_public(opened.root.handle)
        except TSS2_Exception as failure:
            # Even to look at a persistent key takes a slot.
            return trouble(failure) is Trouble.NO_ROOM
        return bytes(name) == opened.root.name


def _explain(connection: Connection, failure: TSS2_Exception, verdict: Verdict | None) -> HsmBridgeError:
    if verdict is not None and trouble(failure) in (Trouble.VERDICT, Trouble.STALE):
        known = verdict(failure)
        if known is not None:
            return known
    if base_code(failure) == TPM2_RC.LOCKOUT:
        with suppress(TSS2_Exception):
            return locked_out(failure, connection.properties(TPM2_PT.LOCKOUT_INTERVAL, 1)[TPM2_PT.LOCKOUT_INTERVAL])
    return translate(failure)


class _Recovery:
    """What was tried already for one action."""

    def __init__(self) -> None:
        self._done: set[Trouble] = set()
        self._waits = iter(_WAITS)

    def once(self, kind: Trouble) -> bool:
        """True the first time."""
        first = kind not in self._done
        self._done.add(kind)
        return first

    def wait(self) -> bool:
        """Wait a little; False when there was enough of it."""
        for seconds in self._waits:
            time.sleep(seconds)
            return True
        return False
