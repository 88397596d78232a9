"""What a CKR_* return value means here: a status for the caller, and which cure may help.

python-pkcs11 has one exception class for each return value that it knows; the rest arrive as plain PKCS11Error
with the number in the text. The tables below are the whole policy; nothing else decides by the class of a
PKCS11Error but the two sets for data that the token found wrong.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, unique
from types import MappingProxyType

from pkcs11 import exceptions as ck
from pkcs11.exceptions import PKCS11Error

from hsmbridge.core.errors import HsmBridgeError, Status, error


@unique
class Cure(Enum):
    """What may make the same call succeed."""

    NONE = "none"
    FIND_AGAIN = "find the object again"
    NEW_SESSION = "open another session, and log in again where that is lost"
    START_AGAIN = "initialise the module again"


_CURES: Mapping[type[PKCS11Error], Cure] = MappingProxyType(
    {
        ck.ObjectHandleInvalid: Cure.FIND_AGAIN,
        ck.KeyHandleInvalid: Cure.FIND_AGAIN,
        ck.SessionHandleInvalid: Cure.NEW_SESSION,
        ck.SessionClosed: Cure.NEW_SESSION,
        ck.UserNotLoggedIn: Cure.NEW_SESSION,
        ck.OperationActive: Cure.NEW_SESSION,
        ck.DeviceError: Cure.NEW_SESSION,
        ck.DeviceRemoved: Cure.START_AGAIN,
        ck.TokenNotPresent: Cure.START_AGAIN,
        ck.TokenNotRecognised: Cure.START_AGAIN,
        ck.SlotIDInvalid: Cure.START_AGAIN,
    }
)

_CANNOT = "The token cannot do this; choose another algorithm, key type or provider."
_ROWS: Mapping[type[PKCS11Error], tuple[Status, str]] = MappingProxyType(
    {
        ck.ObjectHandleInvalid: (Status.KEY_MATERIAL_MISSING, ""),
        ck.KeyHandleInvalid: (Status.KEY_MATERIAL_MISSING, ""),
        ck.DeviceRemoved: (Status.TOKEN_NOT_PRESENT, ""),
        ck.TokenNotPresent: (Status.TOKEN_NOT_PRESENT, ""),
        ck.TokenNotRecognised: (Status.TOKEN_NOT_PRESENT, ""),
        ck.SlotIDInvalid: (Status.TOKEN_NOT_PRESENT, ""),
        ck.MechanismInvalid: (Status.NOT_SUPPORTED, _CANNOT),
        ck.MechanismParamInvalid: (Status.NOT_SUPPORTED, _CANNOT),
        ck.FunctionNotSupported: (Status.NOT_SUPPORTED, _CANNOT),
        ck.DomainParamsInvalid: (Status.NOT_SUPPORTED, _CANNOT),
        ck.KeyTypeInconsistent: (Status.NOT_SUPPORTED, _CANNOT),
        ck.KeySizeRange: (Status.NOT_SUPPORTED, "The token does not take a key of this size for this algorithm."),
        ck.DataInvalid: (Status.INVALID_ARGUMENT, "The token does not take this data for this algorithm."),
        ck.DataLenRange: (Status.INVALID_ARGUMENT, "The data has a length that this algorithm does not take."),
        ck.PublicKeyInvalid: (Status.INVALID_ARGUMENT, "The public key is not valid."),
        ck.KeyUnextractable: (Status.NOT_TRANSFERABLE, ""),
        ck.KeyNotWrappable: (Status.NOT_TRANSFERABLE, ""),
        ck.PinIncorrect: (Status.PIN_INCORRECT, ""),
        ck.PinInvalid: (Status.PIN_INCORRECT, ""),
        ck.PinLenRange: (Status.PIN_INCORRECT, ""),
        ck.PinExpired: (Status.PIN_INCORRECT, ""),
        ck.UserPinNotInitialized: (Status.PIN_INCORRECT, ""),
        ck.PinLocked: (Status.PIN_LOCKED, ""),
        ck.DeviceMemory: (Status.PROVIDER_FAILED, "The token has no room left; destroy keys that nobody needs."),
        ck.TokenWriteProtected: (Status.PROVIDER_FAILED, "The token is write-protected; nothing can be made on it."),
        ck.SessionReadOnly: (Status.PROVIDER_FAILED, "The token is write-protected; nothing can be made on it."),
        ck.SessionCount: (Status.PROVIDER_UNAVAILABLE, "The token has no session left; lower `sessions` here."),
    }
)

_REFUSED_DATA: frozenset[type[PKCS11Error]] = frozenset(
    {
        # SoftHSM answers CKR_GENERAL_ERROR to a wrong GCM tag, to bad padding and to a signature out of range.
        ck.GeneralError,
        ck.FunctionFailed,
        ck.ArgumentsBad,
        ck.DataInvalid,
        ck.DataLenRange,
        ck.EncryptedDataInvalid,
        ck.EncryptedDataLenRange,
        ck.SignatureInvalid,
        ck.SignatureLenRange,
    }
)
"""What tokens answer when ciphertext or signature are wrong."""

_REFUSED_WRAPPING = _REFUSED_DATA | frozenset(
    {
        ck.HostMemory,  # NSS, for AES-KWP with a length that cannot be
        ck.WrappedKeyInvalid,
        ck.WrappedKeyLenRange,
        ck.KeySizeRange,
        ck.KeyTypeInconsistent,
        ck.TemplateIncomplete,
        ck.TemplateInconsistent,
        ck.AttributeTypeInvalid,
        ck.AttributeValueInvalid,
    }
)
"""What tokens answer when a wrapped key is wrong, or not the key that it should be."""

_NUMBER = re.compile(r"0x[0-9a-fA-F]+")
_NUMBERED: Mapping[int, str] = MappingProxyType(
    {
        0x0000001B: "CKR_ACTION_PROHIBITED",
        0x00000035: "CKR_AEAD_DECRYPT_FAILED",
        0x00000068: "CKR_KEY_FUNCTION_NOT_PERMITTED",
    }
)
_WITHOUT_CLASS: Mapping[str, str] = MappingProxyType(
    {"(not initialized)": "CKR_CRYPTOKI_NOT_INITIALIZED", "(already initialized)": "CKR_CRYPTOKI_ALREADY_INITIALIZED"}
)
_WORDS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def ckr_name(failure: PKCS11Error) -> str:
    """The return value by name, such as "CKR_DEVICE_ERROR", or by number where it has no class."""
    if type(failure) is not PKCS11Error:
        return f"CKR_{_WORDS.sub('_', type(failure).__name__).upper()}"
    text = str(failure)
    for part, name in _WITHOUT_CLASS.items():
        if part in text:
            return name
    number = _NUMBER.search(text)
    if number is None:
        return "CKR_GENERAL_ERROR"
    return _NUMBERED.get(int(number[0], 16), number[0])


def cure_for(failure: PKCS11Error) -> Cure:
    """What may help."""
    if type(failure) is PKCS11Error and ckr_name(failure) == "CKR_CRYPTOKI_NOT_INITIALIZED":
        return Cure.START_AGAIN
    return _CURES.get(type(failure), Cure.NONE)


@dataclass(frozen=True, slots=True)
class Refusals:
    """Whether a token says with a failure that what it was given is wrong.

    Attributes:
        device_error: this kind of token answers CKR_DEVICE_ERROR to that.
    """

    device_error: bool = False

    def data(self, failure: PKCS11Error) -> bool:
        """A ciphertext or a signature is wrong."""
        if type(failure) is ck.DeviceError:
            return self.device_error
        return type(failure) in _REFUSED_DATA or ckr_name(failure) == "CKR_AEAD_DECRYPT_FAILED"

    def wrapping(self, failure: PKCS11Error) -> bool:
        """A wrapped key is wrong, or not the key that it should be."""
        return self.data(failure) or type(failure) in _REFUSED_WRAPPING


NO_DEVICE_ERRORS = Refusals()
"""Of a token whose CKR_DEVICE_ERROR means what it says."""


def translated(failure: PKCS11Error, token: str) -> HsmBridgeError:
    """The exception for a caller; `token` is the token's label, for the log."""
    name = ckr_name(failure)
    origin = f"{token}: {name}"
    if name == "CKR_KEY_FUNCTION_NOT_PERMITTED":
        return error(Status.KEY_OPERATION_NOT_PERMITTED, origin=origin)
    status, message = _ROWS.get(type(failure), (Status.PROVIDER_FAILED, ""))
    return error(status, message, origin=origin)
