"""PKCS#11 constants that python-pkcs11 0.10 does not know: HKDF, SLH-DSA, X25519, ChaCha20 and the like (v3.0, v3.2).

python-pkcs11 takes nothing but members of its enumerations and reads attributes back through them, so a number that
it lacks becomes a member here: made past the enumeration's own constructor and entered where it looks members up.
That leans on how Python's and python-pkcs11's enumerations are built; tests/unit/providers/pkcs11 has a test that
fails when either changes, or when python-pkcs11 learns one of them.
"""

import threading
from enum import IntEnum
from typing import TypeVar

from pkcs11 import Attribute, Mechanism
from pkcs11 import KeyType as Ckk
from pkcs11.attributes import AttributeMapper

_E = TypeVar("_E", bound=IntEnum)
_forging = threading.Lock()


def _member(enumeration: type[_E], number: int, name: str) -> _E:
    with _forging:
        known = enumeration._value2member_map_.get(number)
        if isinstance(known, enumeration):
            return known
        forged: _E = int.__new__(enumeration, number)
        forged._name_ = name
        forged._value_ = number
        enumeration._value2member_map_[number] = forged
        return forged


def mechanism_by_number(number: int) -> Mechanism:
    """The CKM_* with this number, known to python-pkcs11 or not."""
    return _member(Mechanism, number, f"CKM_{number:#x}")


def key_kind_by_number(number: int) -> Ckk:
    """The CKK_* with this number, known to python-pkcs11 or not."""
    return _member(Ckk, number, f"CKK_{number:#x}")


PUBLIC_KEY_INFO = _member(Attribute, 0x129, "PUBLIC_KEY_INFO")
"""CKA_PUBLIC_KEY_INFO: SubjectPublicKeyInfo, which some tokens tell of private keys too."""

EC_MONTGOMERY = key_kind_by_number(0x41)
CHACHA20 = key_kind_by_number(0x33)
SLH_DSA = key_kind_by_number(0x4B)
"""Registered at import: objects of these types may stand on a token before any of ours is made."""


class TokenAttributes(AttributeMapper):
    """How attributes are read and written in our sessions."""

    def __init__(self) -> None:
        super().__init__()
        self.register_handler(PUBLIC_KEY_INFO, bytes, bytes)
