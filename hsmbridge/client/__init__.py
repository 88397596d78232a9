"""The public client: what an application imports to use keys that it does not hold.

    from hsmbridge.client import CryptoStack

    with CryptoStack() as stack:
        signature = stack.slot("web").sign("ECDSA-P256-SHA256", b"message")

The parameters of key-making calls, permissions and errors are those of `hsmbridge.core`, offered here as well.
"""

from hsmbridge.client.bound import SlotHandle
from hsmbridge.client.calls import Buffer
from hsmbridge.client.certificates import CertificateGuard
from hsmbridge.client.context_calls import Context
from hsmbridge.client.context_making import Direction
from hsmbridge.client.contexts import (
    AeadContext,
    CipherContext,
    DigestContext,
    MacContext,
    SignContext,
    VerifyContext,
)
from hsmbridge.client.deadline import UNSET, Timeout
from hsmbridge.client.guards import CryptoResourceGuard
from hsmbridge.client.keys import Key
from hsmbridge.client.memory import Allocation, MemoryAllocator
from hsmbridge.client.results import Ciphertext, Encapsulation, KeyAttestation, Mac, Signature, WrappedKey
from hsmbridge.client.shared import Lifetime
from hsmbridge.client.stack import CryptoStack
from hsmbridge.core.calls import Attestation
from hsmbridge.core.certificates import CertificatePurpose, RevocationCheck
from hsmbridge.core.contexts import ContextState
from hsmbridge.core.identifiers import CryptoResourceId, ResourceKind
from hsmbridge.core.messages import (
    AccessInfo,
    CertificateFacts,
    CertInfo,
    CrlInfo,
    Finding,
    PinInfo,
    PinTries,
    ProviderInfo,
    SlotAdoptReply,
    SlotInfo,
    StatusReply,
    TrustInfo,
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
    "AeadContext",
    "AgreeKeyParams",
    "Allocation",
    "Argon2id",
    "Attestation",
    "Buffer",
    "CertInfo",
    "CertificateFacts",
    "CertificateGuard",
    "CertificatePurpose",
    "CipherContext",
    "Ciphertext",
    "Context",
    "ContextState",
    "CrlInfo",
    "CryptoResourceGuard",
    "CryptoResourceId",
    "CryptoStack",
    "DeriveKeyParams",
    "DigestContext",
    "Direction",
    "Encapsulation",
    "Finding",
    "PinInfo",
    "PinTries",
    "GenerateKeyParams",
    "Hkdf",
    "ImportKeyParams",
    "KbkdfCounter",
    "KdfParameters",
    "Key",
    "KeyAttestation",
    "KeyOperationPermission",
    "Lifetime",
    "Mac",
    "MemoryAllocator",
    "MacContext",
    "NoncePolicy",
    "Pbkdf2",
    "Protection",
    "ProviderInfo",
    "ResourceKind",
    "RevocationCheck",
    "Role",
    "Scrypt",
    "SignContext",
    "Signature",
    "SignatureParameters",
    "SlotAdoptReply",
    "SlotHandle",
    "SlotInfo",
    "StatusReply",
    "Timeout",
    "Tls12Prf",
    "Tls13ExpandLabel",
    "TrustInfo",
    "UnwrapKeyParams",
    "VerifyContext",
    "VersionInfo",
    "WrapKeyParams",
    "WrappedKey",
]
