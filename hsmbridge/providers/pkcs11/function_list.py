"""A module's CK_FUNCTION_LIST, changed before python-pkcs11 reads it.

python-pkcs11 releases the interpreter's lock in every call but initialises a module with C_Initialize(NULL), which
says "one thread": SoftHSM then runs without any mutex, crashes under threads and damages its token. There is no
argument for it, so the entry of C_Initialize leads to the real one with CKF_OS_LOCKING_OK, and with the pReserved that
the module wants (NSS softokn reads where its database is there). PKCS#11 v2.40, sections 3.7 and 5.4.

A module may tell too short a length when it is asked for the size of a result: NSS softokn forgets the tag of an AEAD
and the padding of AES-KWP. python-pkcs11 then offers no more room than that, so `add_headroom` makes such answers
longer, which the standard allows them to be (section 5.2).
"""

import ctypes
import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CKF_OS_LOCKING_OK = 0x00000002
_FIRST_FUNCTION = ctypes.sizeof(ctypes.c_void_p)  # CK_VERSION, padded
_POINTER = ctypes.sizeof(ctypes.c_void_p)
_C_INITIALIZE, _C_CLOSE_SESSION, _C_GET_SESSION_INFO = 0, 13, 15  # places in CK_FUNCTION_LIST
_C_DESTROY_OBJECT = 22
_C_ENCRYPT, _C_WRAP_KEY = 30, 60
_HEADROOM = 64
"""Bytes: more than any tag, padding or block."""


class _InitializeArguments(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("create_mutex", "destroy_mutex", "lock_mutex", "unlock_mutex")),
        ("flags", ctypes.c_ulong),
        ("reserved", ctypes.c_char_p),
    )


class _SessionInfo(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_ulong) for name in ("slot", "state", "flags", "device_error"))


_Initialize = ctypes.CFUNCTYPE(ctypes.c_ulong, ctypes.c_void_p)
_CloseSession = ctypes.CFUNCTYPE(ctypes.c_ulong, ctypes.c_ulong)
_GetSessionInfo = ctypes.CFUNCTYPE(ctypes.c_ulong, ctypes.c_ulong, ctypes.POINTER(_SessionInfo))
_DestroyObject = ctypes.CFUNCTYPE(ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong)
_LengthPointer = ctypes.POINTER(ctypes.c_ulong)
_Encrypt = ctypes.CFUNCTYPE(
    ctypes.c_ulong, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_void_p, _LengthPointer
)
_WrapKey = ctypes.CFUNCTYPE(
    ctypes.c_ulong, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_void_p, _LengthPointer
)


def _with_headroom(code: int, output: int | None, length: "ctypes._Pointer[ctypes.c_ulong]") -> int:
    if not code and not output:
        length.contents.value += _HEADROOM
    return code


class FunctionList:
    """The function list of a module, changed so that C_Initialize allows threads.

    Attributes:
        arguments: for pReserved at the next C_Initialize, or "".
    """

    def __init__(self, path: str, arguments: str = "") -> None:
        self.arguments = arguments
        self._dll = ctypes.CDLL(path)
        get = self._dll.C_GetFunctionList
        get.restype = ctypes.c_ulong
        address = ctypes.c_void_p()
        if get(ctypes.byref(address)) or not address.value:
            raise OSError("C_GetFunctionList failed")
        self._table = address.value + _FIRST_FUNCTION
        self._real = _Initialize(self._entry(_C_INITIALIZE).value or 0)
        self._with_threads = _Initialize(self._initialize)
        self._headroom: list[object] = []
        self._replace(_C_INITIALIZE, ctypes.cast(self._with_threads, ctypes.c_void_p).value or 0)
        self._session_info = _GetSessionInfo(self._entry(_C_GET_SESSION_INFO).value or 0)
        self._close_session = _CloseSession(self._entry(_C_CLOSE_SESSION).value or 0)
        self._destroy_object = _DestroyObject(self._entry(_C_DESTROY_OBJECT).value or 0)

    def _initialize(self, _: int | None) -> int:
        reserved = self.arguments.encode() or None
        arguments = _InitializeArguments(flags=_CKF_OS_LOCKING_OK, reserved=reserved)
        return int(self._real(ctypes.addressof(arguments)))

    def add_headroom(self) -> None:
        """Have the module ask for more room than it says for results of C_Encrypt and C_WrapKey. Again is fine."""
        if self._headroom:
            return
        encrypt = _Encrypt(self._entry(_C_ENCRYPT).value or 0)
        wrap = _WrapKey(self._entry(_C_WRAP_KEY).value or 0)

        def roomy_encrypt(
            session: int, data: int | None, size: int, output: int | None, length: "ctypes._Pointer[ctypes.c_ulong]"
        ) -> int:
            code = int(encrypt(session, data, size, output, length))
            return _with_headroom(code, output, length)

        def roomy_wrap(
            session: int,
            mechanism: int | None,
            wrapping: int,
            key: int,
            output: int | None,
            length: "ctypes._Pointer[ctypes.c_ulong]",
        ) -> int:
            code = int(wrap(session, mechanism, wrapping, key, output, length))
            return _with_headroom(code, output, length)

        for place, function in ((_C_ENCRYPT, _Encrypt(roomy_encrypt)), (_C_WRAP_KEY, _WrapKey(roomy_wrap))):
            self._headroom.append(function)
            self._replace(place, ctypes.cast(function, ctypes.c_void_p).value or 0)

    def address(self, place: int) -> int:
        """Where the function at a place of CK_FUNCTION_LIST is."""
        return self._entry(place).value or 0

    def close_session(self, handle: int) -> None:
        """C_CloseSession without the C_Logout that python-pkcs11 puts before it for a session opened with a PIN."""
        self._close_session(handle)

    def destroy_object(self, session: int, handle: int) -> int:
        """C_DestroyObject of what is known by its handle alone: CKR_*."""
        return int(self._destroy_object(session, handle))

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
