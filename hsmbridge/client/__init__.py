"""The public client: what an application imports to use keys that it does not hold.

    from hsmbridge.client import CryptoStack

    with CryptoStack() as stack:
        signature = stack.slot("web").sign("ECDSA-P256-SHA256", b"message")

The parameters of key-making calls, permissions and errors are those of `hsmbridge.core`, offered here as well.
"""

from hsmbridge.client.bound import SlotHandle
from hsmbridge.client.calls import Buffer
from hsmbridge.client.deadline import UNSET, Timeout
from hsmbridge.client.guards import CryptoResourceGuard
from hsmbridge.client.keys import Key
from hsmbridge.client.results import Ciphertext, Encapsulation, Mac, Signature
from hsmbridge.client.shared import Lifetime
from hsmbridge.client.stack import CryptoStack
from hsmbridge.core.identifiers import CryptoResourceId, ResourceKind
from hsmbridge.core.messages import (
    AccessInfo,
    Finding,
    ProviderInfo,
    SlotInfo,
    StatusReply,
    VersionInfo,
)
from hsmbridge.core.params import (
    X963,
    AgreeKeyParams,
    Argon2id,
    DeriveKeyParams,
    GenerateKeyParams,
    Hkdf,
    ImportKeyParams,
    KbkdfCounter,
    KdfParameters,
    Pbkdf2,
    Scrypt,
    SignatureParameters,
    Tls12Prf,
    Tls13ExpandLabel,
    UnwrapKeyParams,
    WrapKeyParams,
)
from hsmbridge.core.permissions import KeyOperationPermission
from hsmbridge.core.policy import NoncePolicy, Protection, Role

__all__ = [
    "UNSET",
    "X963",
    "AccessInfo",
    "AgreeKeyParams",
    "Argon2id",
    "Buffer",
    "Ciphertext",
    "CryptoResourceGuard",
    "CryptoResourceId",
    "CryptoStack",
    "DeriveKeyParams",
    "Encapsulation",
    "Finding",
    "GenerateKeyParams",
    "Hkdf",
    "ImportKeyParams",
    "KbkdfCounter",
    "KdfParameters",
    "Key",
    "KeyOperationPermission",
    "Lifetime",
    "Mac",
    "NoncePolicy",
    "Pbkdf2",
    "Protection",
    "ProviderInfo",
    "ResourceKind",
    "Role",
    "Scrypt",
    "Signature",
    "SignatureParameters",
    "SlotHandle",
    "SlotInfo",
    "StatusReply",
    "Timeout",
    "Tls12Prf",
    "Tls13ExpandLabel",
    "UnwrapKeyParams",
    "VersionInfo",
    "WrapKeyParams",
]
