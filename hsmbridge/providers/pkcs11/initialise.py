"""PKCS#11 modules of this process: loaded once, initialised for threads, shared by all tokens on them.

How they are initialised for threads is in `function_list`. PKCS#11 v2.40, section 5.4.

A module has one state per process, so initialising it again ends every session of every token on it. That is why
`start_again` first waits until no call is in flight anywhere on the module.
"""

import logging
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

import pkcs11
from pkcs11 import Session
from pkcs11.exceptions import PKCS11Error

from hsmbridge.core.algorithms import KeyOperation
from hsmbridge.core.errors import ProviderError, RequestError, Status
from hsmbridge.providers.pkcs11.errors import ckr_name
from hsmbridge.providers.pkcs11.function_list import FunctionList
from hsmbridge.providers.pkcs11.multipart import Multipart
from hsmbridge.providers.pkcs11.parameters import Parameter

if TYPE_CHECKING:
    from pkcs11._pkcs11 import lib

_log = logging.getLogger(__name__)

_CKS_USER = (1, 3)  # CKS_RO_USER_FUNCTIONS, CKS_RW_USER_FUNCTIONS

START_AGAIN_INTERVAL = 10.0
"""Seconds between two initialisations: a token that stays broken must not cost the others on its module."""
_IN_FLIGHT_WAIT = 5.0


class _Handled(Protocol):
    handle: int


def _handle(session: Session) -> int:
    # python-pkcs11's own types do not tell of the attribute that its sessions have.
    return cast(_Handled, session).handle


class User(Protocol):
    """Who has sessions on a module: one token each."""

    def suspend(self) -> None:
        """Let no new call begin."""

    def quiesce(self, seconds: float) -> bool:
        """Close all sessions as soon as nobody uses them; False where a call did not end in time."""

    def resume(self, *, restarted: bool) -> None:
        """Let calls begin again; `restarted` means that every session and session object is gone."""


class Module:
    """One loaded and initialised module.

    Attributes:
        library: python-pkcs11's view of it.
        arguments: what C_Initialize was told in pReserved.
        generation: counts initialisations; a session of an older one is void.
        users: by token serial.
        lock: guards `users` and the life of the module.
    """

    def __init__(self, path: str, arguments: str = "") -> None:
        self.path = path
        self.arguments = arguments
        self.generation = 0
        self.users: dict[str, User] = {}
        self.lock = threading.RLock()
        self._holds = 0
        self._foreign = False
        self._started = 0.0
        # Whoever loaded it before initialised it for one thread; that cannot stay.
        before = pkcs11._loaded.get(path)  # noqa: SLF001 - there is no other way to ask without initialising it
        self._functions = FunctionList(path, arguments)
        if before is not None and before.initialized:
            before.reinitialize()
        self._library: lib | None = None

    @property
    def library(self) -> "lib":
        if self._library is None:
            raise ProviderError(Status.PROVIDER_UNAVAILABLE, origin=f"{self.path}: not initialised")
        return self._library

    def logged_in(self, session: Session) -> bool | None:
        """Whether a session has the user's rights; None where there is no such session (any more)."""
        state = self._functions.session_state(_handle(session))
        return None if state is None else state in _CKS_USER

    def multipart(
        self, session: Session, operation: KeyOperation, mechanism: int, parameter: Parameter, key: int
    ) -> Multipart:
        """Begin an operation on data that comes in pieces, in a session that nothing else uses. Raises PKCS11Error."""
        return Multipart(self._functions, _handle(session), operation, mechanism, parameter, key)

    def check_arguments(self, arguments: str) -> None:
        """Let nobody share the module who wants it initialised otherwise."""
        with self.lock:
            if arguments != self.arguments and self._holds:
                raise RequestError(
                    Status.INVALID_CONFIGURATION,
                    "This PKCS#11 module is in use in this process with other `module_arguments`; run this provider in"
                    " a process of its own (isolation = process).",
                )
            self.arguments = arguments
            self._functions.arguments = arguments

    def close_session(self, session: Session) -> None:
        """Close a session and leave the login alone; one that is closed already is fine."""
        self._functions.close_session(_handle(session))

    def destroy_object(self, session: Session, handle: int) -> int:
        """Remove an object by its handle: CKR_*."""
        return self._functions.destroy_object(_handle(session), handle)

    def add_headroom(self) -> None:
        """For a module that tells lengths too short; see `function_list`. Again is fine."""
        with self.lock:
            self._functions.add_headroom()

    def hold(self) -> None:
        """Initialise the module, unless somebody holds it already."""
        with self.lock:
            if self._holds == 0:
                loaded = pkcs11._loaded.get(self.path)  # noqa: SLF001 - as above
                self._foreign = loaded is not None and loaded.initialized
                self._library = pkcs11.lib(self.path)
                self.generation += 1
            self._holds += 1

    def drop(self) -> None:
        """The opposite of `hold`; the last one finalises the module."""
        with self.lock:
            self._holds -= 1
            if self._holds or self._library is None:
                return
            library, self._library = self._library, None
            if self._foreign:
                return
            try:
                library.finalize()
            except PKCS11Error as failure:
                _log.warning("a PKCS#11 module did not finalise: %s", ckr_name(failure))

    def start_again(self, generation: int) -> bool:
        """Finalise and initialise the module, when it still has that generation.

        Returns False where the last time was just now, so that it would not help.

        Raises:
            ProviderError: PROVIDER_UNAVAILABLE where a call hangs in the module, or it does not initialise.
        """
        with self.lock:
            if self.generation != generation:
                return True
            if time.monotonic() - self._started < START_AGAIN_INTERVAL:
                return False
            self._started = time.monotonic()
            users = list(self.users.values())
            for user in users:
                user.suspend()
            restarted = False
            try:
                if not all(user.quiesce(_IN_FLIGHT_WAIT) for user in users):
                    raise ProviderError(
                        Status.PROVIDER_UNAVAILABLE,
                        "The token must be opened anew, but a call to it does not end; restart the provider.",
                        origin=f"{self.path}: not finalised under a running call",
                    )
                restarted = True
                self._restart()
            finally:
                for user in users:
                    user.resume(restarted=restarted)
            return True

    def _restart(self) -> None:
        self.generation += 1
        try:
            self.library.finalize()
        except PKCS11Error as failure:
            _log.warning("a PKCS#11 module did not finalise: %s", ckr_name(failure))
        try:
            self.library.initialize()
        except PKCS11Error as failure:
            raise _unusable("cannot be initialised", f"{self.path}: {ckr_name(failure)}") from failure
        _log.warning("a PKCS#11 module was initialised again: %s", self.path)


_modules: dict[str, Module] = {}
_modules_lock = threading.Lock()


def open_module(path: str, arguments: str = "") -> Module:
    """The module at an absolute path, held; give it back with `drop`.

    Raises:
        RequestError: INVALID_CONFIGURATION where the path is not absolute, or the module is in use with other
            arguments, which it takes once in a process.
        ProviderError: PROVIDER_UNAVAILABLE where it cannot be loaded or initialised.
    """
    if not Path(path).is_absolute():
        raise RequestError(
            Status.INVALID_CONFIGURATION, "The path of a PKCS#11 module is absolute; a library path is not searched."
        )
    real = os.path.realpath(path)
    with _modules_lock:
        module = _modules.get(real)
        if module is None:
            try:
                module = Module(real, arguments)
            except (OSError, AttributeError, PKCS11Error) as failure:
                missing = "" if Path(real).exists() else " (there is no such file)"
                raise _unusable(f"cannot be loaded{missing}", f"{path}: {failure}") from failure
            _modules[real] = module
        module.check_arguments(arguments)
        try:
            module.hold()
        except PKCS11Error as failure:
            raise _unusable("cannot be initialised", f"{path}: {ckr_name(failure)}") from failure
        return module


def _unusable(what: str, origin: str) -> ProviderError:
    return ProviderError(
        Status.PROVIDER_UNAVAILABLE,
        f"The PKCS#11 module {what}; check its path and its own configuration.",
        origin=origin,
    )
