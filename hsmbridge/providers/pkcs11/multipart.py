"""C_EncryptUpdate and its kin (PKCS#11 v3.2, sections 5.8 to 5.15), which python-pkcs11 has for whole iterables only.

Its streaming belongs to the thread that began it; here the pieces of one operation come from whatever thread has
them. The session is used for nothing else meanwhile, and by one thread at a time.
"""

import ctypes
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from pkcs11 import exceptions as ck
from pkcs11.exceptions import PKCS11Error

from hsmbridge.core.algorithms import KeyOperation
from hsmbridge.providers.pkcs11.function_list import FunctionList
from hsmbridge.providers.pkcs11.parameters import Parameter

ROOM: Final = 64
"""Bytes by which output may be longer than the input that brought it out: a block, a tag."""

_RESULT_MAX: Final = 512
_CKR_OK: Final = 0

_ulong, _pointer, _bytes = ctypes.c_ulong, ctypes.c_void_p, ctypes.c_char_p
_Length = ctypes.POINTER(_ulong)
_InitWithKey = ctypes.CFUNCTYPE(_ulong, _ulong, _pointer, _ulong)
_Init = ctypes.CFUNCTYPE(_ulong, _ulong, _pointer)
_Transform = ctypes.CFUNCTYPE(_ulong, _ulong, _bytes, _ulong, _pointer, _Length)
_Absorb = ctypes.CFUNCTYPE(_ulong, _ulong, _bytes, _ulong)
_Final = ctypes.CFUNCTYPE(_ulong, _ulong, _pointer, _Length)


class _Mechanism(ctypes.Structure):
    _fields_ = (("mechanism", _ulong), ("parameter", _bytes), ("size", _ulong))


@dataclass(frozen=True, slots=True)
class _Family:
    """The places in CK_FUNCTION_LIST of the functions of one kind of operation; `transforms`: updates give output."""

    init: int
    update: int
    final: int
    transforms: bool = False


_FAMILIES: Final[Mapping[KeyOperation, _Family]] = MappingProxyType(
    {
        KeyOperation.ENCRYPT: _Family(29, 31, 32, transforms=True),
        KeyOperation.DECRYPT: _Family(33, 35, 36, transforms=True),
        KeyOperation.DIGEST: _Family(37, 39, 41),
        KeyOperation.SIGN: _Family(42, 44, 45),
        KeyOperation.VERIFY: _Family(48, 50, 51),
    }
)
_CLASSES: Final[Mapping[int, type[PKCS11Error]]] = MappingProxyType(
    {
        0x05: ck.GeneralError,
        0x06: ck.FunctionFailed,
        0x07: ck.ArgumentsBad,
        0x20: ck.DataInvalid,
        0x21: ck.DataLenRange,
        0x30: ck.DeviceError,
        0x31: ck.DeviceMemory,
        0x32: ck.DeviceRemoved,
        0x40: ck.EncryptedDataInvalid,
        0x41: ck.EncryptedDataLenRange,
        0x54: ck.FunctionNotSupported,
        0x60: ck.KeyHandleInvalid,
        0x62: ck.KeySizeRange,
        0x63: ck.KeyTypeInconsistent,
        0x70: ck.MechanismInvalid,
        0x71: ck.MechanismParamInvalid,
        0x82: ck.ObjectHandleInvalid,
        0x90: ck.OperationActive,
        0x91: ck.OperationNotInitialized,
        0xB0: ck.SessionClosed,
        0xB3: ck.SessionHandleInvalid,
        0xC0: ck.SignatureInvalid,
        0xC1: ck.SignatureLenRange,
        0xE0: ck.TokenNotPresent,
        0x101: ck.UserNotLoggedIn,
    }
)
"""CKR_* by number, as far as something is decided by the class; the others are told by their number."""


class Multipart:
    """One operation in a session of its own. Every method raises PKCS11Error, and the operation has ended then."""

    __slots__ = ("_family", "_functions", "_kept", "_owed", "_session", "_updated")

    def __init__(
        self,
        functions: FunctionList,
        session: int,
        operation: KeyOperation,
        mechanism: int,
        parameter: Parameter,
        key: int,
    ) -> None:
        """Begin. `key` is an object handle; a digest has none."""
        self._functions = functions
        self._session = session
        self._family = _FAMILIES[operation]
        # Some tokens read the parameter again later.
        given = parameter.given
        whole = _Mechanism(mechanism, given, 0 if given is None else len(given))
        self._kept = (parameter, whole)
        self._owed = 0
        self._updated = False
        init = functions.address(self._family.init)
        if operation is KeyOperation.DIGEST:
            _check(_Init(init)(session, ctypes.addressof(whole)))
        else:
            _check(_InitWithKey(init)(session, ctypes.addressof(whole), key))

    def update(self, data: bytes) -> bytes:
        """Give the next piece; the output, as far as there is any."""
        address = self._functions.address(self._family.update)
        if not self._family.transforms:
            _check(_Absorb(address)(self._session, data, len(data)))
            return b""
        self._updated = True
        # A token may hold data back and give it all at once later.
        output = ctypes.create_string_buffer(self._owed + len(data) + ROOM)
        length = _ulong(len(output))
        _check(_Transform(address)(self._session, data, len(data), ctypes.addressof(output), length))
        self._owed = max(0, self._owed + len(data) - length.value)
        return ctypes.string_at(output, length.value)

    def finish(self) -> bytes:
        """The rest of the output; a signature, MAC or digest."""
        if not self._updated and self._family.transforms:
            # Kryoptic takes the end of what never had a piece for the end of nothing.
            with suppress(PKCS11Error):
                self.update(b"")
        output = ctypes.create_string_buffer(max(self._owed + ROOM, _RESULT_MAX))
        length = _ulong(len(output))
        _check(_Final(self._functions.address(self._family.final))(self._session, ctypes.addressof(output), length))
        return ctypes.string_at(output, length.value)

    def verify(self, signature: bytes) -> None:
        """The end of a verification."""
        _check(_Absorb(self._functions.address(self._family.final))(self._session, signature, len(signature)))


def _check(code: int) -> None:
    if code == _CKR_OK:
        return
    known = _CLASSES.get(code)
    raise PKCS11Error(f"CKR {code:#x}") if known is None else known
