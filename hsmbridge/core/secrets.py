"""Secrets in memory: values that do not show themselves.

A log line, an error, a debugger's `repr` or a configuration dump shows the type and nothing else; a serialiser
refuses them. This is no protection against who can read the process's memory: Python copies freely and cannot
wipe what it copied.
"""

import hmac
from typing import NoReturn

from hsmbridge.core.errors import RequestError, Status

PIN_LENGTH_MAX = 255


class _Hidden:
    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = bytes(value)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def __eq__(self, other: object) -> bool:
        """Compares in constant time."""
        if type(other) is not type(self):
            return NotImplemented
        return hmac.compare_digest(self._value, other._value)

    __hash__ = None  # type: ignore[assignment]  # a hash in a table would tell which secrets are equal

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"A {type(self).__name__} is not serialised.")


class Secret(_Hidden):
    """Secret bytes, such as a passphrase or a master key."""

    __slots__ = ()

    def reveal(self) -> bytes:
        """The bytes. Keep them no longer than the call that needs them."""
        return self._value


class Pin(_Hidden):
    """The user PIN of a token, or the authorisation value of a TPM object.

    Raises:
        RequestError: INVALID_CONFIGURATION where it is empty, too long or has a line break or NUL in it, as a file
            that was read whole may have.
    """

    __slots__ = ()

    def __init__(self, pin: str) -> None:
        value = pin.encode()
        if not value:
            raise RequestError(Status.INVALID_CONFIGURATION, "The PIN is empty.")
        if len(value) > PIN_LENGTH_MAX:
            raise RequestError(
                Status.INVALID_CONFIGURATION, f"A PIN has at most {PIN_LENGTH_MAX} bytes; this one is longer."
            )
        if any(character in pin for character in "\r\n\0"):
            raise RequestError(
                Status.INVALID_CONFIGURATION, "The PIN has a line break or NUL in it; it is one line without its end."
            )
        super().__init__(value)

    def reveal(self) -> str:
        """The PIN. Keep it no longer than the call that needs it."""
        return self._value.decode()
