"""KeyOperationPermission: what a key may be used for, and which uses may not stand on one key together."""

from collections.abc import Iterable
from difflib import get_close_matches
from enum import STRICT, IntFlag

from hsmbridge.core.errors import RequestError, Status


class KeyOperationPermission(IntFlag, boundary=STRICT):
    """An unsigned 32-bit bitmask; no bit implies another."""

    NONE = 0
    ENCRYPT = 1 << 0
    DECRYPT = 1 << 1
    SIGN = 1 << 2
    VERIFY = 1 << 3
    DERIVE = 1 << 4
    WRAP = 1 << 5
    EXPORT = 1 << 6
    GENERATE = 1 << 7
    UNWRAP = 1 << 8
    ENCAPSULATE = 1 << 9
    DECAPSULATE = 1 << 10


_BITS = tuple(KeyOperationPermission)
_BY_NAME = {bit.name.lower(): bit for bit in _BITS if bit.name is not None}
_INSEPARABLE = (
    (KeyOperationPermission.WRAP, KeyOperationPermission.DECRYPT),
    (KeyOperationPermission.UNWRAP, KeyOperationPermission.ENCRYPT),
)
"""Pairs that let a caller take a wrapped key apart, or put a known one in (Clulow 2003)."""


def permission_names(permissions: KeyOperationPermission) -> tuple[str, ...]:
    """The lower-case names of the bits set, in bit order."""
    return tuple(name for name, bit in _BY_NAME.items() if bit in permissions)


def permissions_from_names(names: Iterable[str]) -> KeyOperationPermission:
    """The bitmask of the named bits. Raises RequestError (INVALID_PERMISSIONS), naming the nearest known name."""
    permissions = KeyOperationPermission.NONE
    for name in names:
        bit = _BY_NAME.get(name.strip().lower())
        if bit is None:
            near = get_close_matches(name.strip().lower(), _BY_NAME, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(_BY_NAME)}."
            raise RequestError(Status.INVALID_PERMISSIONS, f"There is no permission {name.strip()!r}{hint}")
        permissions |= bit
    return permissions


def permissions_from_bits(bits: int) -> KeyOperationPermission:
    """The bitmask of a number. Raises RequestError (INVALID_PERMISSIONS) where an unknown bit is set."""
    try:
        return KeyOperationPermission(bits)
    except ValueError:
        raise RequestError(Status.INVALID_PERMISSIONS, f"Permission bits {bits:#x} include unknown ones.") from None


def check_separation(permissions: KeyOperationPermission, *, rsa: bool = False, sign_and_decrypt: bool = False) -> None:
    """Refuse combinations that break key separation.

    Args:
        permissions: what one key is to be used for.
        rsa: the key is an RSA key, where SIGN and DECRYPT are the same arithmetic.
        sign_and_decrypt: the slot says explicitly that its RSA key may do both.

    Raises:
        RequestError: INVALID_PERMISSIONS, naming the pair.
    """
    pairs = list(_INSEPARABLE)
    if rsa and not sign_and_decrypt:
        pairs.append((KeyOperationPermission.SIGN, KeyOperationPermission.DECRYPT))
    for first, second in pairs:
        if first in permissions and second in permissions:
            names = " and ".join(permission_names(first | second))
            hint = " (sign_and_decrypt allows it explicitly)" if first is KeyOperationPermission.SIGN else ""
            raise RequestError(Status.INVALID_PERMISSIONS, f"One key may not have both {names}{hint}; make two keys.")
