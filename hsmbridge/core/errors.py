"""The one status table and the exceptions that carry it.

A status is 32 bits: domain 0x01 in bits 24-31, category in bits 16-23, number below. Front ends translate
from this table alone (exit codes, CKR_* values, HTTP statuses), so a new status is one row here.

    HsmBridgeError
    ├── RequestError        01  the request makes no sense or asks for what does not exist
    ├── WireError           02  frames, versions, connections
    │   └── ConnectionLost
    ├── ResourceError       03  slots, keys and other resources by name or id
    ├── KeyUseError         04  a key exists but may not or can not be used so
    │   ├── SignatureInvalid
    │   └── DecryptionFailed
    ├── AccessError         05  the caller may not do this
    ├── ProviderError       06  a token, a TPM or a software provider
    ├── ContextError        07  streaming contexts
    ├── StoreError          08  slot store and master key
    ├── CertificateError    09  certificates, trust stores, CRLs
    └── LimitError          0A  rates, sizes, counts
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, unique
from types import MappingProxyType

DOMAIN = 0x01


@unique
class Category(IntEnum):
    """Bits 16-23 of a status."""

    SUCCESS = 0x00
    REQUEST = 0x01
    WIRE = 0x02
    RESOURCE = 0x03
    KEY = 0x04
    ACCESS = 0x05
    PROVIDER = 0x06
    CONTEXT = 0x07
    STORE = 0x08
    CERTIFICATE = 0x09
    LIMIT = 0x0A


@unique
class Status(IntEnum):
    """What an operation ended with. The numbers are part of the wire format and never change."""

    OK = 0

    INVALID_ARGUMENT = 0x01010001
    UNKNOWN_ALGORITHM = 0x01010002
    UNKNOWN_KEY_TYPE = 0x01010003
    NOT_SUPPORTED = 0x01010004
    INVALID_PERMISSIONS = 0x01010005
    INVALID_NAME = 0x01010006
    KEY_TYPE_MISMATCH = 0x01010007
    INVALID_CONFIGURATION = 0x01010008
    INTERNAL = 0x01010009

    MALFORMED_FRAME = 0x01020001
    FRAME_TOO_LARGE = 0x01020002
    VERSION_NOT_SUPPORTED = 0x01020003
    UNKNOWN_OPERATION = 0x01020004
    CONNECTION_LOST = 0x01020005
    DAEMON_UNREACHABLE = 0x01020006

    RESOURCE_NOT_FOUND = 0x01030001
    RESOURCE_EXISTS = 0x01030002
    NOT_TRANSFERABLE = 0x01030003

    KEY_OPERATION_NOT_PERMITTED = 0x01040001
    KEY_STATE_FORBIDS = 0x01040002
    KEY_ROTATION_REQUIRED = 0x01040003
    NONCE_REUSED = 0x01040004
    SIGNATURE_INVALID = 0x01040005
    DECRYPTION_FAILED = 0x01040006
    ALGORITHM_NOT_ALLOWED = 0x01040007

    ACCESS_DENIED = 0x01050001

    PROVIDER_UNAVAILABLE = 0x01060001
    PROVIDER_FAILED = 0x01060002
    PROVIDER_NOT_CONFIGURED = 0x01060003
    TOKEN_NOT_PRESENT = 0x01060004
    WRONG_TOKEN = 0x01060005
    PIN_INCORRECT = 0x01060006
    PIN_LOCKED = 0x01060007
    OPERATION_TIMED_OUT = 0x01060008
    KEY_MATERIAL_MISSING = 0x01060009
    HANDLE_UNKNOWN = 0x0106000A

    INVALID_OPERATION = 0x01070001
    CONTEXT_FAILED = 0x01070002
    CONTEXT_RESET_FAILED = 0x01070003

    STORE_TAMPERED = 0x01080001
    STORE_UNAVAILABLE = 0x01080002
    MASTER_KEY_UNAVAILABLE = 0x01080003
    STORE_VERSION = 0x01080004

    CERTIFICATE_INVALID = 0x01090001
    CERTIFICATE_NOT_TRUSTED = 0x01090002

    DATA_TOO_LARGE = 0x010A0001
    RATE_LIMITED = 0x010A0002
    TOO_MANY_CONNECTIONS = 0x010A0003
    TOO_MANY_RESOURCES = 0x010A0004

    @property
    def category(self) -> Category:
        return Category((self >> 16) & 0xFF)


@dataclass(frozen=True, slots=True)
class StatusRow:
    """How one status looks to each kind of client.

    Attributes:
        summary: what happened and what to do, used when the place that raises has nothing better to say.
        exit_code: of the command line tools; stable.
        ckr: the PKCS#11 v3.1 return value (section 6.1.5 of the header).
        http: the HTTP status (RFC 9110) of the REST front end.
    """

    summary: str
    exit_code: int
    ckr: int
    http: int


def _row(summary: str, ckr: int, http: int, exit_code: int = 0) -> StatusRow:
    return StatusRow(summary, exit_code, ckr, http)


_CKR_OK = 0x00000000
_CKR_HOST_MEMORY = 0x00000002
_CKR_GENERAL_ERROR = 0x00000005
_CKR_FUNCTION_FAILED = 0x00000006
_CKR_ARGUMENTS_BAD = 0x00000007
_CKR_DATA_LEN_RANGE = 0x00000021
_CKR_DEVICE_ERROR = 0x00000030
_CKR_DEVICE_MEMORY = 0x00000031
_CKR_DEVICE_REMOVED = 0x00000032
_CKR_ENCRYPTED_DATA_INVALID = 0x00000040
_CKR_FUNCTION_CANCELED = 0x00000050
_CKR_FUNCTION_NOT_SUPPORTED = 0x00000054
_CKR_KEY_HANDLE_INVALID = 0x00000060
_CKR_KEY_TYPE_INCONSISTENT = 0x00000063
_CKR_KEY_FUNCTION_NOT_PERMITTED = 0x00000068
_CKR_KEY_UNEXTRACTABLE = 0x0000006A
_CKR_MECHANISM_INVALID = 0x00000070
_CKR_OPERATION_NOT_INITIALIZED = 0x00000091
_CKR_PIN_INCORRECT = 0x000000A0
_CKR_PIN_LOCKED = 0x000000A4
_CKR_SESSION_COUNT = 0x000000B1
_CKR_SIGNATURE_INVALID = 0x000000C0
_CKR_TEMPLATE_INCONSISTENT = 0x000000D1
_CKR_TOKEN_NOT_PRESENT = 0x000000E0
_CKR_ACTION_PROHIBITED = 0x0000001B
_CKR_CRYPTOKI_NOT_INITIALIZED = 0x00000190

_ROWS: dict[Status, StatusRow] = {
    Status.OK: _row("The operation succeeded.", _CKR_OK, 200),
    Status.INVALID_ARGUMENT: _row("An argument is not valid; correct it and try again.", _CKR_ARGUMENTS_BAD, 400),
    Status.UNKNOWN_ALGORITHM: _row(
        "No such algorithm; `hsmbridge providers` lists what each provider can do.",
        _CKR_MECHANISM_INVALID,
        400,
    ),
    Status.UNKNOWN_KEY_TYPE: _row(
        "No such key type; `hsmbridge providers` lists what each provider can do.",
        _CKR_TEMPLATE_INCONSISTENT,
        400,
    ),
    Status.NOT_SUPPORTED: _row(
        "The provider of this key cannot do this; choose another algorithm or provider.",
        _CKR_FUNCTION_NOT_SUPPORTED,
        501,
    ),
    Status.INVALID_PERMISSIONS: _row(
        "These permissions cannot stand together on one key, or are not known.",
        _CKR_TEMPLATE_INCONSISTENT,
        400,
    ),
    Status.INVALID_NAME: _row(
        "A name is 1 to 64 characters of A-Z a-z 0-9 . _ - and begins with a letter or digit.",
        _CKR_ARGUMENTS_BAD,
        400,
    ),
    Status.KEY_TYPE_MISMATCH: _row("The algorithm does not take a key of this type.", _CKR_KEY_TYPE_INCONSISTENT, 400),
    Status.INVALID_CONFIGURATION: _row(
        "The configuration is not valid; `hsmbridge config check` shows where.", _CKR_GENERAL_ERROR, 500
    ),
    Status.INTERNAL: _row(
        "Something went wrong inside the daemon; its log has the detail under the incident id.",
        _CKR_GENERAL_ERROR,
        500,
    ),
    Status.MALFORMED_FRAME: _row("The frame cannot be read as this protocol.", _CKR_GENERAL_ERROR, 400),
    Status.FRAME_TOO_LARGE: _row("The frame is larger than the daemon takes (max_frame).", _CKR_DATA_LEN_RANGE, 413),
    Status.VERSION_NOT_SUPPORTED: _row(
        "Client and daemon have no protocol version in common; update the older one.", _CKR_GENERAL_ERROR, 400
    ),
    Status.UNKNOWN_OPERATION: _row(
        "The daemon does not know this operation; it may be older than the client.",
        _CKR_FUNCTION_NOT_SUPPORTED,
        404,
    ),
    Status.CONNECTION_LOST: _row(
        "The connection to the daemon was lost; whether the last operation took place is not known.",
        _CKR_DEVICE_REMOVED,
        503,
        12,
    ),
    Status.DAEMON_UNREACHABLE: _row(
        "No daemon answers at the socket; start it with `hsmbridge serve` or name another socket.",
        _CKR_CRYPTOKI_NOT_INITIALIZED,
        503,
    ),
    Status.RESOURCE_NOT_FOUND: _row(
        "No such resource, or no access to it; `hsmbridge slot list` shows yours.",
        _CKR_KEY_HANDLE_INVALID,
        404,
    ),
    Status.RESOURCE_EXISTS: _row(
        "The name is taken; choose another or destroy that slot.", _CKR_ACTION_PROHIBITED, 409
    ),
    Status.NOT_TRANSFERABLE: _row(
        "The key may not leave where it is, or the target cannot take it.", _CKR_KEY_UNEXTRACTABLE, 409
    ),
    Status.KEY_OPERATION_NOT_PERMITTED: _row(
        "The key's permissions do not allow this operation.", _CKR_KEY_FUNCTION_NOT_PERMITTED, 403
    ),
    Status.KEY_STATE_FORBIDS: _row(
        "The state of this key version forbids the operation.", _CKR_KEY_FUNCTION_NOT_PERMITTED, 409
    ),
    Status.KEY_ROTATION_REQUIRED: _row(
        "This key version has been used as often as is safe; rotate the slot.",
        _CKR_KEY_FUNCTION_NOT_PERMITTED,
        409,
    ),
    Status.NONCE_REUSED: _row("This nonce was used with this key before; use a fresh one.", _CKR_ARGUMENTS_BAD, 409),
    Status.SIGNATURE_INVALID: _row(
        "The signature or MAC does not belong to this message and key.", _CKR_SIGNATURE_INVALID, 422, 1
    ),
    Status.DECRYPTION_FAILED: _row(
        "The data cannot be decrypted with this key: it was changed, or belongs to another key.",
        _CKR_ENCRYPTED_DATA_INVALID,
        422,
    ),
    Status.ALGORITHM_NOT_ALLOWED: _row(
        "The slot does not allow this algorithm; `hsmbridge slot show` lists those it allows.",
        _CKR_MECHANISM_INVALID,
        403,
    ),
    Status.ACCESS_DENIED: _row("You may not do this; ask who administers it.", _CKR_ACTION_PROHIBITED, 403),
    Status.PROVIDER_UNAVAILABLE: _row(
        "The provider of this key is not available now; `hsmbridge doctor` says why.", _CKR_DEVICE_ERROR, 503
    ),
    Status.PROVIDER_FAILED: _row(
        "The token or TPM reported a failure; the daemon's log has the detail.", _CKR_DEVICE_ERROR, 502
    ),
    Status.PROVIDER_NOT_CONFIGURED: _row(
        "No provider of this name is configured; `hsmbridge providers` lists them.", _CKR_ARGUMENTS_BAD, 400
    ),
    Status.TOKEN_NOT_PRESENT: _row(
        "The token or TPM is not there; connect it, or correct its address in the configuration.",
        _CKR_TOKEN_NOT_PRESENT,
        503,
    ),
    Status.WRONG_TOKEN: _row(
        "Another token than the one that holds this key is connected; connect the right one.",
        _CKR_TOKEN_NOT_PRESENT,
        503,
    ),
    Status.PIN_INCORRECT: _row(
        "The token refused the PIN; correct it and reload. It is not tried again by itself.",
        _CKR_PIN_INCORRECT,
        503,
    ),
    Status.PIN_LOCKED: _row(
        "The token has locked its PIN; its security officer must set a new one.", _CKR_PIN_LOCKED, 503
    ),
    Status.OPERATION_TIMED_OUT: _row("The operation did not end before its deadline.", _CKR_FUNCTION_CANCELED, 504),
    Status.KEY_MATERIAL_MISSING: _row(
        "The token no longer holds this key; `hsmbridge doctor` tells more.", _CKR_KEY_HANDLE_INVALID, 410
    ),
    Status.HANDLE_UNKNOWN: _row("The provider does not hold this handle any more.", _CKR_KEY_HANDLE_INVALID, 500),
    Status.INVALID_OPERATION: _row(
        "The call does not fit the state of the context.", _CKR_OPERATION_NOT_INITIALIZED, 409
    ),
    Status.CONTEXT_FAILED: _row("The context has failed and can only be closed.", _CKR_FUNCTION_FAILED, 409),
    Status.CONTEXT_RESET_FAILED: _row(
        "The provider cannot reset this context; close it and make a new one.", _CKR_FUNCTION_FAILED, 501
    ),
    Status.STORE_TAMPERED: _row(
        "A stored record was changed outside of hsmbridge and is not obeyed; restore it from a backup.",
        _CKR_GENERAL_ERROR,
        500,
    ),
    Status.STORE_UNAVAILABLE: _row(
        "The slot store cannot be reached or written; `hsmbridge doctor` says why.", _CKR_DEVICE_ERROR, 503
    ),
    Status.MASTER_KEY_UNAVAILABLE: _row(
        "The store's master key cannot be opened; check its key file or passphrase.", _CKR_GENERAL_ERROR, 500
    ),
    Status.STORE_VERSION: _row(
        "The store was written by a newer hsmbridge; run that version or restore a backup.",
        _CKR_GENERAL_ERROR,
        500,
    ),
    Status.CERTIFICATE_INVALID: _row("The certificate cannot be used.", _CKR_ARGUMENTS_BAD, 422),
    Status.CERTIFICATE_NOT_TRUSTED: _row("The certificate does not lead to a trust anchor.", _CKR_ARGUMENTS_BAD, 422),
    Status.DATA_TOO_LARGE: _row("The data is larger than one call takes.", _CKR_DATA_LEN_RANGE, 413),
    Status.RATE_LIMITED: _row("Too many requests; wait and try again.", _CKR_FUNCTION_FAILED, 429),
    Status.TOO_MANY_CONNECTIONS: _row("Too many connections; close some.", _CKR_SESSION_COUNT, 429),
    Status.TOO_MANY_RESOURCES: _row(
        "Too many keys, contexts or bytes are held for you; release some.", _CKR_DEVICE_MEMORY, 429
    ),
}

STATUS_TABLE: Mapping[Status, StatusRow] = MappingProxyType(
    {
        status: StatusRow(
            row.summary,
            row.exit_code or (0 if status is Status.OK else 10 + status.category),
            row.ckr,
            row.http,
        )
        for status, row in _ROWS.items()
    }
)
"""Every status with its row. Exit codes are 10 + category unless the row names another."""


class HsmBridgeError(Exception):
    """A failed operation.

    Attributes:
        status: the row of the status table.
        message: for the caller; holds no secret, no path and nothing internal to a provider.
        origin: for the log only, such as "softhsm: CKR_DEVICE_ERROR".
        incident: the id under which the daemon logged the detail, or "".
    """

    def __init__(self, status: Status, message: str = "", *, origin: str = "", incident: str = "") -> None:
        self.status = status
        self.message = message or STATUS_TABLE[status].summary
        self.origin = origin
        self.incident = incident
        super().__init__(self.message)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.status.name}, {self.message!r})"


class RequestError(HsmBridgeError):
    """The request makes no sense, or asks for what does not exist."""


class WireError(HsmBridgeError):
    """A frame, a version or a connection."""


class ConnectionLost(WireError):
    """The connection ended before the reply came; ids, guards and contexts of it are dead."""


class ResourceError(HsmBridgeError):
    """A slot, key or other resource, by name or id."""


class KeyUseError(HsmBridgeError):
    """The key exists but may not or can not be used so."""


class SignatureInvalid(KeyUseError):
    """The signature or MAC does not verify."""


class DecryptionFailed(KeyUseError):
    """Decryption or unwrapping failed; which step failed is not told."""


class AccessError(HsmBridgeError):
    """The caller may not do this."""


class ProviderError(HsmBridgeError):
    """A token, a TPM or a software provider."""


class ContextError(HsmBridgeError):
    """A streaming context."""


class StoreError(HsmBridgeError):
    """The slot store or its master key."""


class CertificateError(HsmBridgeError):
    """A certificate, trust store or CRL."""


class LimitError(HsmBridgeError):
    """A rate, a size or a count."""


_BY_CATEGORY: Mapping[Category, type[HsmBridgeError]] = MappingProxyType(
    {
        Category.REQUEST: RequestError,
        Category.WIRE: WireError,
        Category.RESOURCE: ResourceError,
        Category.KEY: KeyUseError,
        Category.ACCESS: AccessError,
        Category.PROVIDER: ProviderError,
        Category.CONTEXT: ContextError,
        Category.STORE: StoreError,
        Category.CERTIFICATE: CertificateError,
        Category.LIMIT: LimitError,
    }
)
_BY_STATUS: Mapping[Status, type[HsmBridgeError]] = MappingProxyType(
    {
        Status.CONNECTION_LOST: ConnectionLost,
        Status.SIGNATURE_INVALID: SignatureInvalid,
        Status.DECRYPTION_FAILED: DecryptionFailed,
    }
)


def error(status: Status, message: str = "", *, origin: str = "", incident: str = "") -> HsmBridgeError:
    """The exception of the class that belongs to `status`, ready to be raised."""
    kind = _BY_STATUS.get(status) or _BY_CATEGORY[status.category]
    return kind(status, message, origin=origin, incident=incident)


def error_from_wire(code: int, message: str, incident: str = "") -> HsmBridgeError:
    """The exception for a status number that came over a wire; a number unknown here becomes INTERNAL."""
    try:
        status = Status(code)
    except ValueError:
        return error(Status.INTERNAL, f"{message} (status {code:#010x}, unknown to this version)", incident=incident)
    return error(status, message, incident=incident)
