"""How an operation's end looks to PKCS#11: CKR_* from the one table of statuses, and where a call needs another word.

A status says what happened; some PKCS#11 functions have a narrower word for it, because it happened to their
object, their mechanism or their wrapped key. Those exceptions stand in one table here.
"""

from collections.abc import Mapping
from types import MappingProxyType

from hsmbridge.core.errors import STATUS_TABLE, Status
from hsmbridge.frontends.p11kit.numbers import Ckr

_OBJECT_CALLS = frozenset(
    ("C_GetAttributeValue", "C_SetAttributeValue", "C_DestroyObject", "C_CopyObject", "C_GetObjectSize")
)
_MAKING_CALLS = frozenset(("C_GenerateKey", "C_GenerateKeyPair", "C_CreateObject", "C_CopyObject"))
_CHANGING_CALLS = frozenset(("C_SetAttributeValue", "C_DestroyObject"))
_PIN_CALLS = frozenset(("C_Login", "C_LoginUser", "C_InitPIN", "C_SetPIN"))
_NARROWER: Mapping[tuple[frozenset[str], Status], Ckr] = MappingProxyType(
    {
        (_OBJECT_CALLS, Status.RESOURCE_NOT_FOUND): Ckr.OBJECT_HANDLE_INVALID,
        (_OBJECT_CALLS, Status.KEY_MATERIAL_MISSING): Ckr.OBJECT_HANDLE_INVALID,
        (_CHANGING_CALLS, Status.ACCESS_DENIED): Ckr.ACTION_PROHIBITED,
        (_CHANGING_CALLS, Status.INVALID_ARGUMENT): Ckr.ATTRIBUTE_VALUE_INVALID,
        (_PIN_CALLS, Status.RESOURCE_NOT_FOUND): Ckr.USER_PIN_NOT_INITIALIZED,
        (_MAKING_CALLS, Status.INVALID_NAME): Ckr.ATTRIBUTE_VALUE_INVALID,
        (_MAKING_CALLS, Status.INVALID_ARGUMENT): Ckr.ATTRIBUTE_VALUE_INVALID,
        (_MAKING_CALLS, Status.NOT_SUPPORTED): Ckr.TEMPLATE_INCONSISTENT,
    }
)


class Refused(Exception):
    """A call ends with a CKR_* that PKCS#11 itself asks for, before the service is asked anything."""

    def __init__(self, ckr: Ckr) -> None:
        super().__init__(ckr.name)
        self.ckr = ckr


def ckr_of(status: Status, function: str) -> int:
    """The CKR_* of a status for a PKCS#11 function; never CKR_OK."""
    for (functions, narrowed), ckr in _NARROWER.items():
        if status is narrowed and function in functions:
            return ckr
    return STATUS_TABLE[status].ckr or Ckr.GENERAL_ERROR
