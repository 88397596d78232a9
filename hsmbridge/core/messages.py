"""Requests and responses of the native API, one pair an operation.

Array-like on the wire: a field once added keeps its place, new fields come last with a default, and a reader
skips trailing ones that it does not know. Keys are named by the CryptoResourceId that RESOLVE or a key-making
call gave on the same connection; slots that are administered are named by name.
"""

import msgspec

from hsmbridge.core.calls import Claim, TokenIdentity
from hsmbridge.core.identifiers import CryptoResourceId, ResourceKind
from hsmbridge.core.params import (
    DEFAULT_SIGNATURE,
    AgreeKeyParams,
    DeriveKeyParams,
    GenerateKeyParams,
    ImportKeyParams,
    SignatureParameters,
    UnwrapKeyParams,
    WrapKeyParams,
)
from hsmbridge.core.policy import NoncePolicy, Role


class _Message(msgspec.Struct, frozen=True, array_like=True):
    pass


class Empty(_Message, frozen=True, array_like=True):
    """Nothing to say beyond the status."""


# Connection and service


class HelloRequest(_Message, frozen=True, array_like=True):
    """First on every connection: the range of protocol versions that the client speaks."""

    oldest_version: int
    newest_version: int
    client: str


class HelloReply(_Message, frozen=True, array_like=True):
    """The version to speak, and the limits that hold; sizes in bytes, times in milliseconds."""

    version: int
    daemon: str
    principal: str
    max_frame: int
    default_timeout_ms: int


class PingRequest(_Message, frozen=True, array_like=True):
    payload: bytes = b""


class PingReply(_Message, frozen=True, array_like=True):
    payload: bytes = b""


class StatusRequest(_Message, frozen=True, array_like=True):
    pass


class StatusReply(_Message, frozen=True, array_like=True):
    """The answering daemon process; uptime in seconds."""

    version: str
    pid: int
    supervisor_pid: int
    workers: int
    uptime: float
    connections: int
    principal: str
    store: str
    protector: str


class ProvidersRequest(_Message, frozen=True, array_like=True):
    pass


class ProviderInfo(_Message, frozen=True, array_like=True):
    """One configured provider; `state` is "available" or "unavailable" with `reason` saying why and what to do."""

    name: str
    scheme: str
    isolation: str
    state: str
    reason: str
    pid: int
    calls: int
    token: TokenIdentity | None
    key_types: tuple[str, ...]
    claims: tuple[Claim, ...]
    notes: tuple[str, ...]


class ProvidersReply(_Message, frozen=True, array_like=True):
    providers: list[ProviderInfo]


class DoctorRequest(_Message, frozen=True, array_like=True):
    pass


class Finding(_Message, frozen=True, array_like=True):
    """Something an operator should know. `severity` is "ok", "notice", "warning" or "error"."""

    severity: str
    subject: str
    message: str


class DoctorReply(_Message, frozen=True, array_like=True):
    findings: list[Finding]


# Resources


class ResolveRequest(_Message, frozen=True, array_like=True):
    name: str
    kind: ResourceKind = ResourceKind.KEY_SLOT


class ResolveReply(_Message, frozen=True, array_like=True):
    resource: CryptoResourceId


class ReleaseRequest(_Message, frozen=True, array_like=True):
    resource: CryptoResourceId


# Slots


class SlotCreateRequest(_Message, frozen=True, array_like=True):
    """Make a slot and, unless `empty`, its first key version.

    Attributes:
        providers: instance names in order of preference.
        permissions: the ceiling.
        algorithms: those allowed; empty allows every algorithm that takes the key type.
        fallback: a later provider of the list may be taken where an earlier one is not available.
        sign_and_decrypt: an RSA key may do both.
        derive_to_software: a secret agreed with this key may go into the daemon where the provider cannot hold it.
        imported_wrapping_key: an imported or unwrapped key may wrap and unwrap.
        empty: make no key; one is put in later (agree, derive, import).
    """

    name: str
    key_type: str
    providers: tuple[str, ...]
    permissions: int
    algorithms: tuple[str, ...] = ()
    nonce_policy: NoncePolicy = NoncePolicy.SERVICE
    fallback: bool = False
    sign_and_decrypt: bool = False
    derive_to_software: bool = False
    imported_wrapping_key: bool = False
    empty: bool = False


class VersionInfo(_Message, frozen=True, array_like=True):
    """One key version. `created` is seconds since 1970; `public_key` SPKI DER or b""; `unavailable` says why, or ""."""

    number: int
    state: str
    provider: str
    protection: str
    permissions: int
    public_key: bytes
    created: float
    uri: str = ""
    unavailable: str = ""
    fell_back_from: str = ""


class AccessInfo(_Message, frozen=True, array_like=True):
    principal: str
    role: Role
    permissions: int


class SlotInfo(_Message, frozen=True, array_like=True):
    """A slot as its users see it."""

    name: str
    key_type: str
    providers: tuple[str, ...]
    permissions: int
    algorithms: tuple[str, ...]
    nonce_policy: NoncePolicy
    fallback: bool
    sign_and_decrypt: bool
    derive_to_software: bool
    imported_wrapping_key: bool
    generation: int
    created: float
    versions: list[VersionInfo]
    access: list[AccessInfo]


class SlotListRequest(_Message, frozen=True, array_like=True):
    """`namespace` "" lists every slot that the caller may see."""

    namespace: str = ""


class SlotListReply(_Message, frozen=True, array_like=True):
    slots: list[SlotInfo]


class SlotShowRequest(_Message, frozen=True, array_like=True):
    """With `probe`, each version is loaded at its provider, to say whether it is really there."""

    name: str
    probe: bool = False


class SlotRotateRequest(_Message, frozen=True, array_like=True):
    name: str


class SlotRevokeRequest(_Message, frozen=True, array_like=True):
    """`version` 0 is the active one."""

    name: str
    version: int = 0


class SlotDestroyRequest(_Message, frozen=True, array_like=True):
    """`version` 0 destroys the slot with all versions."""

    name: str
    version: int = 0


class SlotGrantRequest(_Message, frozen=True, array_like=True):
    name: str
    principal: str
    role: Role
    permissions: int


class SlotUngrantRequest(_Message, frozen=True, array_like=True):
    name: str
    principal: str


# Use of keys


class SignRequest(_Message, frozen=True, array_like=True):
    key: CryptoResourceId
    algorithm: str
    message: bytes
    parameters: SignatureParameters = DEFAULT_SIGNATURE


class SignReply(_Message, frozen=True, array_like=True):
    """ECDSA in DER. `version` is the key version that signed."""

    signature: bytes
    version: int


class SignManyRequest(_Message, frozen=True, array_like=True):
    """Sign many messages by one key and in one way; all are signed, or the first failure is the answer."""

    key: CryptoResourceId
    algorithm: str
    messages: tuple[bytes, ...]
    parameters: SignatureParameters = DEFAULT_SIGNATURE


class SignManyReply(_Message, frozen=True, array_like=True):
    """In the order of the messages, all by the same key version."""

    signatures: list[bytes]
    version: int


class VerifyRequest(_Message, frozen=True, array_like=True):
    """`version` 0 tries the active version, then rotated ones, newest first."""

    key: CryptoResourceId
    algorithm: str
    message: bytes
    signature: bytes
    parameters: SignatureParameters = DEFAULT_SIGNATURE
    version: int = 0


class VerifyReply(_Message, frozen=True, array_like=True):
    version: int


class MacRequest(_Message, frozen=True, array_like=True):
    key: CryptoResourceId
    algorithm: str
    message: bytes


class MacReply(_Message, frozen=True, array_like=True):
    mac: bytes
    version: int


class MacVerifyRequest(_Message, frozen=True, array_like=True):
    key: CryptoResourceId
    algorithm: str
    message: bytes
    mac: bytes
    version: int = 0


class EncryptRequest(_Message, frozen=True, array_like=True):
    """`nonce` stays empty unless the slot's nonce policy leaves it to the caller."""

    key: CryptoResourceId
    algorithm: str
    plaintext: bytes
    aad: bytes = b""
    nonce: bytes = b""


class EncryptReply(_Message, frozen=True, array_like=True):
    version: int
    nonce: bytes
    ciphertext: bytes
    tag: bytes


class DecryptRequest(_Message, frozen=True, array_like=True):
    key: CryptoResourceId
    algorithm: str
    ciphertext: bytes
    aad: bytes = b""
    nonce: bytes = b""
    tag: bytes = b""
    version: int = 0


class DecryptReply(_Message, frozen=True, array_like=True):
    plaintext: bytes
    version: int


class EncapsulateRequest(_Message, frozen=True, array_like=True):
    """With `slot` the shared secret becomes a new version there,; else the caller gets it."""

    key: CryptoResourceId
    algorithm: str
    slot: str = ""


class EncapsulateReply(_Message, frozen=True, array_like=True):
    ciphertext: bytes
    secret: bytes
    version: int
    slot_version: int = 0


class DecapsulateRequest(_Message, frozen=True, array_like=True):
    key: CryptoResourceId
    algorithm: str
    ciphertext: bytes
    version: int = 0
    slot: str = ""


class DecapsulateReply(_Message, frozen=True, array_like=True):
    secret: bytes
    version: int
    slot_version: int = 0


class DigestRequest(_Message, frozen=True, array_like=True):
    """`provider` "" leaves the choice to the daemon."""

    algorithm: str
    data: bytes
    provider: str = ""


class DigestReply(_Message, frozen=True, array_like=True):
    digest: bytes
    provider: str


class RandomRequest(_Message, frozen=True, array_like=True):
    """At most 64 KiB a call."""

    length: int
    provider: str = ""


class RandomReply(_Message, frozen=True, array_like=True):
    data: bytes
    provider: str


# Making keys: with `slot` a new version there, without it an ephemeral key of the connection


class KeyReply(_Message, frozen=True, array_like=True):
    """`resource` is set for an ephemeral key, `version` for one written into a slot."""

    resource: CryptoResourceId | None
    version: int
    public_key: bytes


class GenerateRequest(_Message, frozen=True, array_like=True):
    params: GenerateKeyParams
    slot: str = ""
    provider: str = ""


class DeriveRequest(_Message, frozen=True, array_like=True):
    key: CryptoResourceId
    params: DeriveKeyParams
    slot: str = ""


class AgreeRequest(_Message, frozen=True, array_like=True):
    key: CryptoResourceId
    params: AgreeKeyParams
    slot: str = ""


class ImportRequest(_Message, frozen=True, array_like=True):
    params: ImportKeyParams
    material: bytes
    slot: str = ""
    provider: str = ""


class WrapRequest(_Message, frozen=True, array_like=True):
    key: CryptoResourceId
    wrapped: CryptoResourceId
    params: WrapKeyParams


class WrapReply(_Message, frozen=True, array_like=True):
    material: bytes
    version: int


class UnwrapRequest(_Message, frozen=True, array_like=True):
    key: CryptoResourceId
    material: bytes
    params: UnwrapKeyParams
    slot: str = ""


class PersistRequest(_Message, frozen=True, array_like=True):
    """Copy an ephemeral key into a slot."""

    key: CryptoResourceId
    slot: str
