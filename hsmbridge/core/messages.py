"""Requests and responses of the native API, one pair an operation.

Array-like on the wire: a field once added keeps its place, new fields come last with a default, and a reader
skips trailing ones that it does not know. Keys are named by the CryptoResourceId that RESOLVE or a key-making
call gave on the same connection; slots that are administered are named by name. Every list is one of
`hsmbridge.core.bounds`, or says itself how long it may be.
"""

from enum import StrEnum
from typing import Annotated

import msgspec

from hsmbridge.core.bounds import LISTED_MAX, MANY, Few, Listed, Names, Some
from hsmbridge.core.calls import Attestation, Claim, TokenIdentity
from hsmbridge.core.certificates import ANCHORS_MAX, CertificatePurpose, RevocationCheck
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

Messages = Some[bytes]
Attributes = Annotated[dict[int, bytes], msgspec.Meta(max_length=MANY)]


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
    """The answering daemon process; uptime in seconds.

    `contexts` are those that its clients have open, `keys` their ephemeral keys, until their provider has freed them.
    """

    version: str
    pid: int
    supervisor_pid: int
    workers: int
    uptime: float
    connections: int
    principal: str
    store: str
    protector: str
    contexts: int = 0
    keys: int = 0


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
    key_types: Names
    claims: Some[Claim]
    notes: Names
    adopts: bool = False
    attests: bool = False
    exports: Names = ()


class ProvidersReply(_Message, frozen=True, array_like=True):
    providers: Few[ProviderInfo]


class DoctorRequest(_Message, frozen=True, array_like=True):
    pass


class Finding(_Message, frozen=True, array_like=True):
    """Something an operator should know. `severity` is "ok", "notice", "warning" or "error"."""

    severity: str
    subject: str
    message: str


class DoctorReply(_Message, frozen=True, array_like=True):
    findings: Listed[Finding]


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
        algorithms: those allowed, each offered by one of the providers at least; empty allows every one that takes the
            key type.
        fallback: a later provider of the list may be taken where an earlier one is not available.
        sign_and_decrypt: an RSA key may do both.
        derive_to_software: a secret agreed with this key may go into the daemon where the provider cannot hold it.
        imported_wrapping_key: an imported or unwrapped key may wrap and unwrap.
        empty: make no key; one is put in later (agree, derive, import).
        attributes: what applications keep with it, as in SlotAttributesRequest.
    """

    name: str
    key_type: str
    providers: Names
    permissions: int
    algorithms: Names = ()
    nonce_policy: NoncePolicy = NoncePolicy.SERVICE
    fallback: bool = False
    sign_and_decrypt: bool = False
    derive_to_software: bool = False
    imported_wrapping_key: bool = False
    empty: bool = False
    attributes: Attributes = {}


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
    origin: str = ""


class AccessInfo(_Message, frozen=True, array_like=True):
    principal: str
    role: Role
    permissions: int


class SlotInfo(_Message, frozen=True, array_like=True):
    """A slot as its users see it."""

    name: str
    key_type: str
    providers: Names
    permissions: int
    algorithms: Names
    nonce_policy: NoncePolicy
    fallback: bool
    sign_and_decrypt: bool
    derive_to_software: bool
    imported_wrapping_key: bool
    generation: int
    created: float
    versions: Listed[VersionInfo]
    access: Listed[AccessInfo]
    attributes: Attributes = {}


class SlotListRequest(_Message, frozen=True, array_like=True):
    """`namespace` "" lists every slot that the caller may see."""

    namespace: str = ""


class SlotListReply(_Message, frozen=True, array_like=True):
    slots: Listed[SlotInfo]


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


class SlotAttributesRequest(_Message, frozen=True, array_like=True):
    """Keep with a slot what programs know a key by: values by the number of the PKCS#11 attribute, such as CKA_ID.

    They decide nothing. Those that are not named stay as they were, and b"" takes one away.
    """

    name: str
    attributes: Attributes


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
    messages: Messages
    parameters: SignatureParameters = DEFAULT_SIGNATURE


class SignManyReply(_Message, frozen=True, array_like=True):
    """In the order of the messages, all by the same key version."""

    signatures: Few[bytes]
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
    """`nonce` stays empty unless the key's nonce policy leaves it to the caller."""

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
    """`nonce_policy` here and in the requests that follow is of an ephemeral key; a slot has its own."""

    params: GenerateKeyParams
    slot: str = ""
    provider: str = ""
    nonce_policy: NoncePolicy = NoncePolicy.SERVICE


class DeriveRequest(_Message, frozen=True, array_like=True):
    key: CryptoResourceId
    params: DeriveKeyParams
    slot: str = ""
    nonce_policy: NoncePolicy = NoncePolicy.SERVICE


class AgreeRequest(_Message, frozen=True, array_like=True):
    key: CryptoResourceId
    params: AgreeKeyParams
    slot: str = ""
    nonce_policy: NoncePolicy = NoncePolicy.SERVICE


class ImportRequest(_Message, frozen=True, array_like=True):
    params: ImportKeyParams
    material: bytes
    slot: str = ""
    provider: str = ""
    nonce_policy: NoncePolicy = NoncePolicy.SERVICE


class WrapRequest(_Message, frozen=True, array_like=True):
    key: CryptoResourceId
    wrapped: CryptoResourceId
    params: WrapKeyParams


class WrapReply(_Message, frozen=True, array_like=True):
    """`iv` is the nonce that an AEAD was given; unwrapping needs it."""

    material: bytes
    version: int
    iv: bytes = b""


class UnwrapRequest(_Message, frozen=True, array_like=True):
    key: CryptoResourceId
    material: bytes
    params: UnwrapKeyParams
    slot: str = ""
    nonce_policy: NoncePolicy = NoncePolicy.SERVICE


class PersistRequest(_Message, frozen=True, array_like=True):
    """Copy an ephemeral key into a slot."""

    key: CryptoResourceId
    slot: str


# Keys that come from elsewhere, or go there


class SlotAdoptRequest(_Message, frozen=True, array_like=True):
    """Make a slot of a key that a token or TPM holds already, or that comes in a form that only this one opens.

    Attributes:
        provider: the one instance that the key belongs to.
        uri: where it is: a PKCS#11 URI, a persistent TPM handle; or "".
        material: such as a TSS2 PRIVATE KEY, or b"".
        permissions: the most that the slot is to allow; 0 is all that the token allows but EXPORT.
        algorithms, nonce_policy and the flags: as in SlotCreateRequest.
    """

    name: str
    provider: str
    uri: str = ""
    material: bytes = b""
    permissions: int = 0
    algorithms: Names = ()
    nonce_policy: NoncePolicy = NoncePolicy.SERVICE
    sign_and_decrypt: bool = False
    derive_to_software: bool = False
    imported_wrapping_key: bool = False


class SlotAdoptReply(_Message, frozen=True, array_like=True):
    """`token_permissions` is what the token itself lets the key be used for, `label` what its maker called it."""

    slot: SlotInfo
    token_permissions: int
    label: str


class SlotExportRequest(_Message, frozen=True, array_like=True):
    """A private key in a form that nobody reads in the clear; formats and recipients as in ExportCall."""

    key: CryptoResourceId
    format: str
    recipient: bytes = b""


class SlotExportReply(_Message, frozen=True, array_like=True):
    material: bytes
    version: int


class SlotAttestRequest(_Message, frozen=True, array_like=True):
    """`version` 0 is the active one; `pcrs` are quoted besides, of the SHA-256 bank."""

    key: CryptoResourceId
    nonce: bytes
    version: int = 0
    pcrs: Some[int] = ()


class SlotAttestReply(_Message, frozen=True, array_like=True):
    """What the token states of a key version, as hsmbridge.core.calls.Attestation has it."""

    attestation: Attestation
    public_key: bytes
    version: int


# Certificates, trust stores and CRLs: each has a name and an access list as slots have

Reference = str | CryptoResourceId
"""A certificate, trust store or CRL: by its name, or by an id of the same connection."""

Certificates = Annotated[tuple[bytes, ...], msgspec.Meta(max_length=ANCHORS_MAX)]
"""Certificates in DER, or fingerprints of them; as many as one trust store may have."""


class CertificateFacts(_Message, frozen=True, array_like=True):
    """What a certificate says; times in seconds since 1970, `serial` in hexadecimal digits.

    `names` are the alternative names, such as DNS:host.example and IP:192.0.2.1, `fingerprint` is SHA-256 over the
    DER, and `certificate`, the DER itself, is b"" in lists.
    """

    subject: str
    issuer: str
    serial: str
    not_before: float
    not_after: float
    names: Annotated[tuple[str, ...], msgspec.Meta(max_length=LISTED_MAX)]
    ca: bool
    key_algorithm: str
    fingerprint: bytes
    certificate: bytes = b""


class CertInfo(_Message, frozen=True, array_like=True):
    """A certificate with its chain, itself first; `name` is "" for a transient one.

    `slot` is the key slot that it is bound to, where the caller sees that one, and `slot_version` the key version.
    """

    name: str
    chain: Few[CertificateFacts]
    slot: str
    slot_version: int
    generation: int
    created: float
    changed: float
    access: Listed[AccessInfo]


class CertImportRequest(_Message, frozen=True, array_like=True):
    """Store certificates under a name: one, and those that lead from it towards an anchor, in any order.

    Attributes:
        certificates: each in DER.
        slot: bind it to this key slot, which must hold its key; "" binds it to none, or leaves it as it is.
        replace: put them in the place of those that are there.
    """

    name: str
    certificates: Certificates
    slot: str = ""
    replace: bool = False


class CertLoadRequest(_Message, frozen=True, array_like=True):
    """Hold certificates for this connection only, without a name."""

    certificates: Certificates


class CertLoadReply(_Message, frozen=True, array_like=True):
    resource: CryptoResourceId
    chain: Few[CertificateFacts]


class CertShowRequest(_Message, frozen=True, array_like=True):
    certificate: Reference

    @property
    def name(self) -> str:
        """For the audit."""
        return self.certificate if isinstance(self.certificate, str) else ""


class CertListRequest(_Message, frozen=True, array_like=True):
    """`namespace` "" lists all that the caller may see."""

    namespace: str = ""


class CertListReply(_Message, frozen=True, array_like=True):
    certificates: Listed[CertInfo]


class CertBindRequest(_Message, frozen=True, array_like=True):
    """Bind a certificate to the key slot that holds its key; `slot` "" unbinds it."""

    name: str
    slot: str = ""


class CertRemoveRequest(_Message, frozen=True, array_like=True):
    """Remove a certificate, a trust store or a CRL."""

    name: str
    kind: ResourceKind = ResourceKind.CERT_SLOT


class CertAccessRequest(_Message, frozen=True, array_like=True):
    """Let a principal use or administer a certificate, trust store or CRL; `role` None takes it off the list."""

    name: str
    kind: ResourceKind
    principal: str
    role: Role | None


class CertAccessReply(_Message, frozen=True, array_like=True):
    access: Listed[AccessInfo]


class CertVerifyRequest(_Message, frozen=True, array_like=True):
    """Verify a certificate against a trust store.

    Attributes:
        subject: the DNS name or IP address that a server's certificate must be for.
        time: seconds since 1970 at which all must be valid; 0 is now.
        intermediates: more certificates in DER, beside those of the chain that is stored.
        crls: what tells who was revoked; none named, nobody is asked.
        revocation: which certificates the CRLs must speak of.
    """

    certificate: Reference
    trust_store: Reference
    purpose: CertificatePurpose
    subject: str = ""
    time: float = 0.0
    intermediates: Certificates = ()
    crls: Annotated[tuple[Reference, ...], msgspec.Meta(max_length=ANCHORS_MAX)] = ()
    revocation: RevocationCheck = RevocationCheck.CHAIN

    @property
    def name(self) -> str:
        """For the audit."""
        return self.certificate if isinstance(self.certificate, str) else ""


class CertVerifyReply(_Message, frozen=True, array_like=True):
    """The way from the certificate to its anchor, in DER, the certificate first."""

    chain: Few[bytes]


class TrustInfo(_Message, frozen=True, array_like=True):
    name: str
    anchors: Few[CertificateFacts]
    generation: int
    created: float
    changed: float
    access: Listed[AccessInfo]


class TrustCreateRequest(_Message, frozen=True, array_like=True):
    """`anchors` in DER; there may be none yet."""

    name: str
    anchors: Certificates = ()


class TrustAddRequest(_Message, frozen=True, array_like=True):
    """One that is there already changes nothing."""

    name: str
    anchors: Certificates


class TrustRemoveRequest(_Message, frozen=True, array_like=True):
    """Take anchors out by their fingerprints; the store itself goes by CertRemoveRequest."""

    name: str
    fingerprints: Certificates


class TrustShowRequest(_Message, frozen=True, array_like=True):
    trust_store: Reference

    @property
    def name(self) -> str:
        """For the audit."""
        return self.trust_store if isinstance(self.trust_store, str) else ""


class TrustListRequest(_Message, frozen=True, array_like=True):
    namespace: str = ""


class TrustListReply(_Message, frozen=True, array_like=True):
    trust_stores: Listed[TrustInfo]


class CrlInfo(_Message, frozen=True, array_like=True):
    """A certificate revocation list; `number` is "" and `next_update` 0 where it has none, `crl` b"" in lists."""

    name: str
    issuer: str
    number: str
    this_update: float
    next_update: float
    revoked: int
    generation: int
    created: float
    changed: float
    access: Listed[AccessInfo]
    crl: bytes = b""


class CrlImportRequest(_Message, frozen=True, array_like=True):
    """Store a CRL in DER; under a name that is taken, it must be the same issuer's and not an older one."""

    name: str
    crl: bytes


class CrlShowRequest(_Message, frozen=True, array_like=True):
    crl: Reference

    @property
    def name(self) -> str:
        """For the audit."""
        return self.crl if isinstance(self.crl, str) else ""


class CrlListRequest(_Message, frozen=True, array_like=True):
    namespace: str = ""


class CrlListReply(_Message, frozen=True, array_like=True):
    crls: Listed[CrlInfo]


# Contexts: an operation on data that comes in pieces


class ContextKind(StrEnum):
    """The six kinds of context."""

    CIPHER = "cipher"
    AEAD = "aead"
    SIGN = "sign"
    VERIFY = "verify"
    MAC = "mac"
    DIGEST = "digest"


class ContextStart(_Message, frozen=True, array_like=True):
    """What a context is initialised with.

    Attributes:
        nonce: for decryption; for encryption only where the key's nonce policy leaves it to the caller.
        aad: of an AEAD.
    """

    nonce: bytes = b""
    aad: bytes = b""


class ContextEncryptRequest(_Message, frozen=True, array_like=True):
    """Create a cipher or AEAD context that encrypts; with `start` it is initialised too, in the same round trip."""

    key: CryptoResourceId
    algorithm: str
    kind: ContextKind
    start: ContextStart | None = None


class ContextDecryptRequest(_Message, frozen=True, array_like=True):
    """Create a cipher or AEAD context that decrypts. `version` as in DecryptRequest."""

    key: CryptoResourceId
    algorithm: str
    kind: ContextKind
    version: int = 0
    start: ContextStart | None = None


class ContextSignRequest(_Message, frozen=True, array_like=True):
    """Create a sign context, or a MAC context that computes."""

    key: CryptoResourceId
    algorithm: str
    kind: ContextKind
    parameters: SignatureParameters = DEFAULT_SIGNATURE
    start: ContextStart | None = None


class ContextVerifyRequest(_Message, frozen=True, array_like=True):
    """Create a verify context, or a MAC context that verifies. `version` as in VerifyRequest."""

    key: CryptoResourceId
    algorithm: str
    kind: ContextKind
    parameters: SignatureParameters = DEFAULT_SIGNATURE
    version: int = 0
    start: ContextStart | None = None


class ContextDigestRequest(_Message, frozen=True, array_like=True):
    """Create a digest context. `provider` "" leaves the choice to the daemon."""

    algorithm: str
    provider: str = ""
    start: ContextStart | None = None


class ContextReply(_Message, frozen=True, array_like=True):
    """A context after creation, initialisation or reset.

    Attributes:
        context: its id on this connection.
        version: the key version that it works with; 0 for none, or where it is only known at the end.
        nonce: the one that it encrypts with, once initialised.
        buffered: the daemon holds all data back until the end, up to `held_max` bytes; else it is streamed.
        provider: where it runs.
        held_max: in bytes.
    """

    context: int
    version: int
    nonce: bytes
    buffered: bool
    provider: str
    held_max: int


class ContextInitRequest(_Message, frozen=True, array_like=True):
    context: int
    start: ContextStart


class ContextUpdateRequest(_Message, frozen=True, array_like=True):
    """At most as much data as one frame carries."""

    context: int
    data: bytes


class ContextDataReply(_Message, frozen=True, array_like=True):
    """Output, as far as there is any; `remaining` bytes more are to be read with ContextReadRequest."""

    data: bytes
    remaining: int = 0


class ContextFinalizeRequest(_Message, frozen=True, array_like=True):
    """The end of the data, after a last piece of it.

    Attributes:
        proof: what is to be verified: a signature, a MAC, or the tag of an AEAD that decrypts.
    """

    context: int
    data: bytes = b""
    proof: bytes = b""


class ContextFinalReply(_Message, frozen=True, array_like=True):
    """The signature, MAC or digest; or the rest of what was encrypted or decrypted.

    Attributes:
        tag: of an AEAD that encrypted.
        version: of the key that did it, or that what was verified was made with.
        remaining: bytes of output that are still to be read.
    """

    data: bytes
    tag: bytes
    version: int
    remaining: int = 0


class ContextReadRequest(_Message, frozen=True, array_like=True):
    """More of the output of a context that is finalized."""

    context: int


class ContextResetRequest(_Message, frozen=True, array_like=True):
    """Begin anew with the same key, algorithm and configuration; with `start` the context is initialised too."""

    context: int
    start: ContextStart | None = None


class ContextCloseRequest(_Message, frozen=True, array_like=True):
    context: int


# The data plane: data in memory that client and daemon share, named by where it lies


class SharedRange(_Message, frozen=True, array_like=True):
    """Bytes in the shared memory of a connection."""

    buffer: int
    offset: int
    length: int


class ShareMemoryRequest(_Message, frozen=True, array_like=True):
    """Make memory that both sides see, in the place of any that the connection had."""

    size: int


class ShareMemoryReply(_Message, frozen=True, array_like=True):
    """Comes with a file descriptor (SCM_RIGHTS): a memfd of `size` bytes, sealed against another size."""

    buffer: int
    size: int


class SharedDigestRequest(_Message, frozen=True, array_like=True):
    """As DigestRequest."""

    algorithm: str
    source: SharedRange
    provider: str = ""


class SharedMacRequest(_Message, frozen=True, array_like=True):
    """As MacRequest."""

    key: CryptoResourceId
    algorithm: str
    source: SharedRange


class SharedEncryptRequest(_Message, frozen=True, array_like=True):
    """As EncryptRequest; the ciphertext goes to `target`, which may be where the plaintext lies."""

    key: CryptoResourceId
    algorithm: str
    source: SharedRange
    target: SharedRange
    aad: bytes = b""
    nonce: bytes = b""


class SharedEncryptReply(_Message, frozen=True, array_like=True):
    """`length` bytes of ciphertext are in the target."""

    version: int
    nonce: bytes
    tag: bytes
    length: int


class SharedEncryptManyRequest(_Message, frozen=True, array_like=True):
    """Encrypt many messages with an AEAD, by one key and each where it lies: all, or the first failure is the answer.

    Attributes:
        memory: where they all are.
        offsets, lengths: of each, counted from there. Its tag comes behind it: so much room must be left.
        aads: one a message, or none at all.
    """

    key: CryptoResourceId
    algorithm: str
    memory: SharedRange
    offsets: Some[int]
    lengths: Some[int]
    aads: Messages = ()


class SharedEncryptManyReply(_Message, frozen=True, array_like=True):
    """Every message is encrypted, by the same key version; the nonces in their order."""

    version: int
    nonces: Few[bytes]


class SharedDecryptRequest(_Message, frozen=True, array_like=True):
    """As DecryptRequest; the plaintext goes to `target` once its tag was verified.

    Attributes:
        source: the ciphertext; of an AEAD with its tag behind it where `tag` is empty, which spares a copy.
        target: of an AEAD, as long as the ciphertext without its tag at least.
        tag: of an AEAD, or empty. Other algorithms have none, and all of `source` is ciphertext.
    """

    key: CryptoResourceId
    algorithm: str
    source: SharedRange
    target: SharedRange
    aad: bytes = b""
    nonce: bytes = b""
    tag: bytes = b""
    version: int = 0


class SharedDecryptReply(_Message, frozen=True, array_like=True):
    """`length` bytes of plaintext are in the target."""

    version: int
    length: int


# PINs of PKCS#11 applications, which each principal has of its own for each token


class PinTries(_Message, frozen=True, array_like=True):
    """How a PIN stands.

    Attributes:
        is_set: whether there is one.
        wrong: how often another was given since it was last given right.
        left: how many more may be given before it is locked.
        locked_until: before this time (seconds since 1970) none is looked at; 0.0 where it is not locked.
    """

    is_set: bool
    wrong: int
    left: int
    locked_until: float


class PinInfo(_Message, frozen=True, array_like=True):
    """The PINs of one principal for one token, of which `initialized` says since when it is initialised, or 0.0."""

    principal: str
    token: str
    label: str
    initialized: float
    so: PinTries
    user: PinTries


class PinListRequest(_Message, frozen=True, array_like=True):
    """Operators are told of everybody's, others of their own."""


class PinListReply(_Message, frozen=True, array_like=True):
    pins: Listed[PinInfo]


class PinResetRequest(_Message, frozen=True, array_like=True):
    """Forget a principal's PINs for a token, which is then as if never initialised; keys stay. Only for operators."""

    principal: str
    token: str


class PinResetReply(_Message, frozen=True, array_like=True):
    """`found` says whether there was anything to forget."""

    found: bool
