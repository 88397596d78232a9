"""PKCS#11 modules of this process: loaded once, initialised for threads, shared by all tokens on them.

python-pkcs11 releases the interpreter's lock in every call but initialises a module with C_Initialize(NULL), which
says "one thread": SoftHSM then runs without any mutex, crashes under threads and damages its token. There is no
argument for it, so the module's own function list is changed before python-pkcs11 reads it: its C_Initialize
entry leads to the real one with CKF_OS_LOCKING_OK. PKCS#11 v2.40, sections 3.7 and 5.4.

A module has one state per process, so initialising it again ends every session of every token on it. That is why
`start_again` first waits until no call is in flight anywhere on the module.
"""

import ctypes
import logging
import mmap
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

import pkcs11
from pkcs11 import Session
from pkcs11.exceptions import PKCS11Error

from hsmbridge.core.errors import ProviderError, RequestError, Status
from hsmbridge.providers.pkcs11.errors import ckr_name

if TYPE_CHECKING:
    from pkcs11._pkcs11 import lib

_log = logging.getLogger(__name__)

_CKF_OS_LOCKING_OK = 0x00000002
_CKS_USER = (1, 3)  # CKS_RO_USER_FUNCTIONS, CKS_RW_USER_FUNCTIONS
_FIRST_FUNCTION = ctypes.sizeof(ctypes.c_void_p)  # CK_VERSION, padded
_C_INITIALIZE, _C_CLOSE_SESSION, _C_GET_SESSION_INFO = 0, 13, 15  # places in CK_FUNCTION_LIST
_POINTER = ctypes.sizeof(ctypes.c_void_p)

START_AGAIN_INTERVAL = 10.0
"""Seconds between two initialisations: a token that stays broken must not cost the others on its module."""
_IN_FLIGHT_WAIT = 5.0


class _InitializeArguments(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("create_mutex", "destroy_mutex", "lock_mutex", "unlock_mutex")),
        ("flags", ctypes.c_ulong),
        ("reserved", ctypes.c_void_p),
    )


class _SessionInfo(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_ulong) for name in ("slot", "state", "flags", "device_error"))


_Initialize = ctypes.CFUNCTYPE(ctypes.c_ulong, ctypes.c_void_p)
_CloseSession = ctypes.CFUNCTYPE(ctypes.c_ulong, ctypes.c_ulong)
_GetSessionInfo = ctypes.CFUNCTYPE(ctypes.c_ulong, ctypes.c_ulong, ctypes.POINTER(_SessionInfo))


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


class _FunctionList:
    """The module's CK_FUNCTION_LIST, changed so that C_Initialize allows threads."""

    def __init__(self, path: str) -> None:
        self._dll = ctypes.CDLL(path)
        get = self._dll.C_GetFunctionList
        get.restype = ctypes.c_ulong
        address = ctypes.c_void_p()
        if get(ctypes.byref(address)) or not address.value:
            raise OSError("C_GetFunctionList failed")
        self._table = address.value + _FIRST_FUNCTION
        self._arguments = _InitializeArguments(flags=_CKF_OS_LOCKING_OK)
        self._real = _Initialize(self._entry(_C_INITIALIZE).value or 0)
        self._with_threads = _Initialize(lambda _: self._real(ctypes.addressof(self._arguments)))
        self._replace(_C_INITIALIZE, ctypes.cast(self._with_threads, ctypes.c_void_p).value or 0)
        self._session_info = _GetSessionInfo(self._entry(_C_GET_SESSION_INFO).value or 0)
        self._close_session = _CloseSession(self._entry(_C_CLOSE_SESSION).value or 0)

    def close_session(self, handle: int) -> None:
        """C_CloseSession without the C_Logout that python-pkcs11 puts before it for a session opened with a PIN."""
        self._close_session(handle)

    def session_state(self, handle: int) -> int | None:
        """CKS_* of a session, or None where there is no such session."""
        info = _SessionInfo()
        if self._session_info(handle, ctypes.byref(info)):
            return None
        return int(info.state)

    def _entry(self, place: int) -> ctypes.c_void_p:
        return ctypes.c_void_p.from_address(self._table + place * _POINTER)

    def _replace(self, place: int, function: int) -> None:
        address = self._table + place * _POINTER
        with _writable(address):
            self._entry(place).value = function


@contextmanager
def _writable(address: int) -> Iterator[None]:
    """The list may stand in memory that the loader made read-only (RELRO)."""
    if _is_writable(address):
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    page = ctypes.c_void_p(address & ~(mmap.PAGESIZE - 1))
    size = ctypes.c_size_t(mmap.PAGESIZE)
    if libc.mprotect(page, size, mmap.PROT_READ | mmap.PROT_WRITE):
        raise OSError(ctypes.get_errno(), "mprotect")
    try:
        yield
    finally:
        libc.mprotect(page, size, mmap.PROT_READ)


def _is_writable(address: int) -> bool:
    with Path("/proc/self/maps").open() as maps:
        for line in maps:
            span, protection, *_ = line.split(maxsplit=2)
            first, last = (int(part, 16) for part in span.split("-"))
            if first <= address < last:
                return "w" in protection
    return False


class Module:
    """One loaded and initialised module.

    Attributes:
        library: python-pkcs11's view of it.
        generation: counts initialisations; a session of an older one is void.
        users: by token serial.
        lock: guards `users` and the life of the module.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.generation = 0
        self.users: dict[str, User] = {}
        self.lock = threading.RLock()
        self._holds = 0
        self._foreign = False
        self._started = 0.0
        # Whoever loaded it before initialised it for one thread; that cannot stay.
        before = pkcs11._loaded.get(path)  # noqa: SLF001 - there is no other way to ask without initialising it
        self._functions = _FunctionList(path)
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

    def close_session(self, session: Session) -> None:
        """Close a session and leave the login alone; one that is closed already is fine."""
        self._functions.close_session(_handle(session))

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


def open_module(path: str) -> Module:
    """The module at an absolute path, held; give it back with `drop`.

    Raises:
        RequestError: INVALID_CONFIGURATION where the path is not absolute.
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
                module = Module(real)
            except (OSError, AttributeError, PKCS11Error) as failure:
                missing = "" if Path(real).exists() else " (there is no such file)"
                raise _unusable(f"cannot be loaded{missing}", f"{path}: {failure}") from failure
            _modules[real] = module
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
