"""Requests about the PINs of PKCS#11 tokens, which a front end asks of the service in its own process.

No frame of the native protocol carries them: that a caller has logged in is for the front end to know, and who uses
the native API has no PIN. What operators ask of PINs is in `hsmbridge.core.messages`.
"""

import msgspec

from hsmbridge.core.bounds import Names
from hsmbridge.core.policy import PinOwner


class _Quiet(msgspec.Struct, frozen=True):
    """Shows nothing of itself, for there may be a PIN in it."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class TokenShowRequest(_Quiet, frozen=True):
    """How the caller's PINs for a token stand."""

    name: str


class TokenInitializeRequest(_Quiet, frozen=True):
    """C_InitToken: of a token that is not initialised `pin` becomes the security officer's; of another it is that.

    In the second case what the caller made there since is destroyed, and the user's PIN forgotten.

    Attributes:
        name: of the token.
        providers: those whose keys are on it.
        label: that the caller wants to see on it.
        pin: the security officer's.
    """

    name: str
    providers: Names
    label: str
    pin: bytes


class TokenLoginRequest(_Quiet, frozen=True):
    """Whether a PIN is right: the caller's own, or `right` where that is one for everybody. Wrong ones count."""

    name: str
    owner: PinOwner
    pin: bytes
    right: bytes = b""


class TokenPinRequest(_Quiet, frozen=True):
    """Set a PIN. `old` is the one that must be right, or None: the caller has logged in as security officer."""

    name: str
    owner: PinOwner
    pin: bytes
    old: bytes | None = None
