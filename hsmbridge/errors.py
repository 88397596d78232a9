"""The statuses and exceptions of hsmbridge, under the name that applications import.

A re-export of `hsmbridge.core.errors`; nothing is defined here.
"""

from hsmbridge.core.errors import (
    STATUS_TABLE,
    AccessError,
    Category,
    CertificateError,
    ConnectionLost,
    ContextError,
    DecryptionFailed,
    HsmBridgeError,
    KeyUseError,
    LimitError,
    ProviderError,
    RequestError,
    ResourceError,
    SignatureInvalid,
    Status,
    StatusRow,
    StoreError,
    WireError,
)

__all__ = [
    "STATUS_TABLE",
    "AccessError",
    "Category",
    "CertificateError",
    "ConnectionLost",
    "ContextError",
    "DecryptionFailed",
    "HsmBridgeError",
    "KeyUseError",
    "LimitError",
    "ProviderError",
    "RequestError",
    "ResourceError",
    "SignatureInvalid",
    "Status",
    "StatusRow",
    "StoreError",
    "WireError",
]
