"""The calls of the provider contract as values, so that any provider can run in another process.

One struct a call; `REPLIES` says what each answers. `hsmbridge.providers.base` says what a provider must do on
each. Keys are named by the handle that `LoadCall` answered; a provider forgets handles when it restarts and then
answers HANDLE_UNKNOWN, on which the engine loads the key again.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import msgspec

from hsmbridge.core.bounds import Names, Some
from hsmbridge.core.params import DEFAULT_SIGNATURE, KdfParameters, SignatureParameters
from hsmbridge.core.policy import Protection


class KeyTarget(msgspec.Struct, frozen=True, array_like=True):
    """What a key-making call is to make.

    Attributes:
        key_id: 16 bytes chosen by the store before the call; on a token the CKA_ID.
        key_type: a row of the key type table.
        permissions: a KeyOperationPermission; set where the key lives too, as far as the provider can hold it.
        binding: what the store says of the key (slot, version, key type); authenticated with the material where
            the provider encrypts it, and given again at load.
        label: the slot's qualified name, for CKA_LABEL; carries no meaning.
        ephemeral: the key dies with `destroy`, or with the provider; its reference means nothing to another run.
        owner: whom an ephemeral key lives for, 16 random bytes that are never used again; `ReleaseOwnerCall` frees all
            that he has. b"" for nobody: the key is only destroyed by its id.
    """

    key_id: bytes
    key_type: str
    permissions: int
    binding: bytes = b""
    label: str = ""
    ephemeral: bool = False
    owner: bytes = b""


class MadeKey(msgspec.Struct, frozen=True, array_like=True):
    """A key that a provider made.

    Attributes:
        reference: the key's persistent form, opaque to all but the provider (at most 64 KiB).
        public_key: SubjectPublicKeyInfo in DER, or b"" for secret keys.
        protection: where the material lives.
    """

    reference: bytes
    public_key: bytes
    protection: Protection


class TokenIdentity(msgspec.Struct, frozen=True, array_like=True):
    """Which token, TPM or software store stands behind a provider. The serial binds keys to it."""

    label: str
    serial: str
    manufacturer: str = ""
    model: str = ""
    firmware: str = ""
    uri: str = ""


class Claim(msgspec.Struct, frozen=True, array_like=True):
    """The operations, as KeyOperation values, that a provider offers for one algorithm."""

    algorithm: str
    operations: Names


class Description(msgspec.Struct, frozen=True, array_like=True):
    """What a provider can do, probed at start.

    Attributes:
        key_types: what it can generate.
        imports: what it can take in the clear.
        claims: one an algorithm.
        random: answers RandomCall.
        lists: answers ListCall, so that orphans can be found.
        notes: what an operator should know, one sentence each.
        adopts: answers ExamineCall and AdoptCall.
        attests: answers AttestCall.
        exports: the formats that ExportCall takes.
    """

    scheme: str
    token: TokenIdentity
    key_types: Names
    imports: Names
    claims: Some[Claim]
    random: bool
    lists: bool
    protection: Protection
    notes: Names = ()
    adopts: bool = False
    attests: bool = False
    exports: Names = ()


class Encrypted(msgspec.Struct, frozen=True, array_like=True):
    """`tag` is empty where the algorithm has none; `nonce` is the one used, chosen by the engine or the provider."""

    nonce: bytes
    ciphertext: bytes
    tag: bytes = b""


class Encapsulated(msgspec.Struct, frozen=True, array_like=True):
    """A KEM ciphertext and the shared secret."""

    ciphertext: bytes
    secret: bytes


class ForeignKey(msgspec.Struct, frozen=True, array_like=True):
    """A key that is there already, made by somebody else.

    Attributes:
        key_type: a row of the key type table.
        permissions: what its token lets it be used for, as a KeyOperationPermission.
        public_key: SubjectPublicKeyInfo in DER, or b"" for secret keys.
        label: what its maker called it, or "".
    """

    key_type: str
    permissions: int
    public_key: bytes
    label: str = ""


class Quote(msgspec.Struct, frozen=True, array_like=True):
    """What a TPM states of its platform configuration registers, of the SHA-256 bank.

    Attributes:
        statement: TPMS_ATTEST of type TPM_ST_ATTEST_QUOTE, over the nonce of the attestation.
        signature: over `statement`, by the attestation key.
        pcrs: number and value of each, in ascending order; the SHA-256 of the values is what the statement has.
    """

    statement: bytes
    signature: bytes
    pcrs: Some[tuple[int, bytes]]


class Attestation(msgspec.Struct, frozen=True, array_like=True):
    """What a token says of a key that it holds, signed by the token.

    Attributes:
        format: how `statement` and `signature` are to be read, such as "tpm2-certify".
        statement: what was signed.
        signature: over `statement`, by the attestation key.
        attestation_key: SubjectPublicKeyInfo in DER.
        certificates: of the attestation or endorsement key, DER, as far as the token has any.
        subject: the key's public area in the token's own form, where the statement names the key by a digest of it.
        quote: of PCRs, by the same attestation key, where it was asked for.
    """

    format: str
    statement: bytes
    signature: bytes
    attestation_key: bytes
    certificates: Some[bytes] = ()
    subject: bytes = b""
    quote: Quote | None = None


class StreamEnd(msgspec.Struct, frozen=True, array_like=True):
    """How a stream ended: a signature, MAC or digest, or the rest of the output; `tag` where an AEAD encrypted."""

    output: bytes
    tag: bytes = b""


class _Call(msgspec.Struct, frozen=True, array_like=True, tag=True):
    pass


class DescribeCall(_Call, frozen=True, array_like=True, tag="describe"):
    """→ Description."""


class GenerateCall(_Call, frozen=True, array_like=True, tag="generate"):
    """→ MadeKey."""

    target: KeyTarget


class ImportCall(_Call, frozen=True, array_like=True, tag="import"):
    """Take material in the clear ("raw", "pkcs8" or "spki"). → MadeKey."""

    target: KeyTarget
    format: str
    material: bytes


class DeriveFromSecretCall(_Call, frozen=True, array_like=True, tag="derive-from-secret"):
    """Make a key from a secret that another provider yielded; with no KDF the secret is the key. → MadeKey."""

    secret: bytes
    kdf: KdfParameters | None
    target: KeyTarget


class LoadCall(_Call, frozen=True, array_like=True, tag="load"):
    """Make a stored key usable. → int, the handle."""

    key_id: bytes
    key_type: str
    permissions: int
    reference: bytes
    binding: bytes


class UnloadCall(_Call, frozen=True, array_like=True, tag="unload"):
    """A handle is not needed any more. Unknown handles are fine. → None."""

    handle: int


class DestroyCall(_Call, frozen=True, array_like=True, tag="destroy"):
    """Remove the material, also of a key that was only half made (reference b""). Repeating it is fine. → None."""

    key_id: bytes
    key_type: str
    reference: bytes


class ReleaseOwnerCall(_Call, frozen=True, array_like=True, tag="release-owner"):
    """Free every ephemeral key and close every stream of an owner, who is gone. Repeating it is fine. → None."""

    owner: bytes


class ListCall(_Call, frozen=True, array_like=True, tag="list"):
    """→ list[bytes], the key ids of all persistent keys there that hsmbridge made."""


class SignCall(_Call, frozen=True, array_like=True, tag="sign"):
    """Sign or compute a MAC. → bytes; ECDSA in DER."""

    handle: int
    algorithm: str
    message: bytes
    parameters: SignatureParameters = DEFAULT_SIGNATURE


class SignManyCall(_Call, frozen=True, array_like=True, tag="sign-many"):
    """Sign, or compute the MACs of, many messages by one key. → list[bytes]; the first failure fails them all."""

    handle: int
    algorithm: str
    messages: tuple[bytes, ...]
    parameters: SignatureParameters = DEFAULT_SIGNATURE


class VerifyCall(_Call, frozen=True, array_like=True, tag="verify"):
    """→ None, or SIGNATURE_INVALID for any signature that does not fit, of wrong length too."""

    handle: int
    algorithm: str
    message: bytes
    signature: bytes
    parameters: SignatureParameters = DEFAULT_SIGNATURE


class EncryptCall(_Call, frozen=True, array_like=True, tag="encrypt"):
    """→ Encrypted. `nonce` is empty where the algorithm has none or the provider must choose."""

    handle: int
    algorithm: str
    nonce: bytes
    plaintext: bytes
    aad: bytes


class DecryptCall(_Call, frozen=True, array_like=True, tag="decrypt"):
    """→ bytes, or DECRYPTION_FAILED whatever went wrong with the data."""

    handle: int
    algorithm: str
    nonce: bytes
    ciphertext: bytes
    aad: bytes
    tag: bytes


class EncapsulateCall(_Call, frozen=True, array_like=True, tag="encapsulate"):
    """→ Encapsulated."""

    handle: int
    algorithm: str


class DecapsulateCall(_Call, frozen=True, array_like=True, tag="decapsulate"):
    """→ bytes, the shared secret."""

    handle: int
    algorithm: str
    ciphertext: bytes


class AgreeSecretCall(_Call, frozen=True, array_like=True, tag="agree-secret"):
    """The raw shared secret, for providers that cannot keep it. → bytes."""

    handle: int
    algorithm: str
    peer_public_key: bytes


class AgreeKeyCall(_Call, frozen=True, array_like=True, tag="agree-key"):
    """Agree a key that stays in the provider. → MadeKey, or NOT_SUPPORTED where it cannot hold or derive it."""

    handle: int
    algorithm: str
    peer_public_key: bytes
    kdf: KdfParameters | None
    target: KeyTarget


class DeriveKeyCall(_Call, frozen=True, array_like=True, tag="derive-key"):
    """Derive a key that stays in the provider. → MadeKey."""

    handle: int
    kdf: KdfParameters
    target: KeyTarget


class WrapCall(_Call, frozen=True, array_like=True, tag="wrap"):
    """→ bytes, the key `wrapped` encrypted under `handle`."""

    handle: int
    algorithm: str
    wrapped: int
    iv: bytes
    aad: bytes


class UnwrapCall(_Call, frozen=True, array_like=True, tag="unwrap"):
    """→ MadeKey."""

    handle: int
    algorithm: str
    material: bytes
    format: str
    iv: bytes
    aad: bytes
    target: KeyTarget


class CopyCall(_Call, frozen=True, array_like=True, tag="copy"):
    """A second key of the same value in the same provider, independent of the first. → MadeKey."""

    handle: int
    target: KeyTarget


OWN_REFERENCE = "reference:"
"""Stands for a uri in ExamineCall; never from a client."""


class ExamineCall(_Call, frozen=True, array_like=True, tag="examine"):
    """Look at a key that the provider did not make. → ForeignKey, or KEY_MATERIAL_MISSING where it is not there.

    Attributes:
        uri: where it is on a token or TPM (a PKCS#11 URI, RFC 7512; a persistent handle), or "". OWN_REFERENCE asks
            after a key that was adopted, whose reference is then the material: what does its token allow now?
        material: the key in a form that only this token can open, such as a TSS2 PRIVATE KEY, or b"".
    """

    uri: str
    material: bytes = b""


class AdoptCall(_Call, frozen=True, array_like=True, tag="adopt"):
    """Take over a key that ExamineCall found, where it is. → MadeKey."""

    target: KeyTarget
    uri: str
    material: bytes = b""


class ExportCall(_Call, frozen=True, array_like=True, tag="export"):
    """A private key in a form that nobody reads in the clear. → bytes.

    Attributes:
        format: such as "tss2", the TSS2 PRIVATE KEY that its own TPM loads, or "tpm2-duplicate".
        recipient: whom it is for, in the terms of the format, or b"".
    """

    handle: int
    format: str
    recipient: bytes = b""


class AttestCall(_Call, frozen=True, array_like=True, tag="attest"):
    """Have the token state what it knows of a key, over a nonce of the asker. → Attestation.

    Attributes:
        pcrs: of the SHA-256 bank, to be quoted besides.
    """

    handle: int
    nonce: bytes
    pcrs: tuple[int, ...] = ()


class StreamOpenCall(_Call, frozen=True, array_like=True, tag="stream-open"):
    """Begin to use a key on data that comes in pieces. → None; NOT_SUPPORTED where it must come at once.

    Attributes:
        stream: chosen at random by the caller, so that it can be closed even where the answer to this is lost.
        handle: 0 for a digest.
        operation: a KeyOperation value.
        owner: as in KeyTarget.
    """

    stream: int
    handle: int
    algorithm: str
    operation: str
    nonce: bytes = b""
    aad: bytes = b""
    parameters: SignatureParameters = DEFAULT_SIGNATURE
    owner: bytes = b""


class StreamUpdateCall(_Call, frozen=True, array_like=True, tag="stream-update"):
    """The next piece. → bytes, output as far as there is any. HANDLE_UNKNOWN for a stream that is not there."""

    stream: int
    data: bytes


class StreamFinishCall(_Call, frozen=True, array_like=True, tag="stream-finish"):
    """The last piece, and the end. → StreamEnd; SIGNATURE_INVALID or DECRYPTION_FAILED as for whole messages.

    Attributes:
        proof: what is to be verified: a signature or MAC.
    """

    stream: int
    data: bytes = b""
    proof: bytes = b""


class StreamCloseCall(_Call, frozen=True, array_like=True, tag="stream-close"):
    """Give a stream up; one that is not there, or not there yet, is fine. → None."""

    stream: int


class DigestCall(_Call, frozen=True, array_like=True, tag="digest"):
    """→ bytes."""

    algorithm: str
    data: bytes


class RandomCall(_Call, frozen=True, array_like=True, tag="random"):
    """→ bytes, `length` of them."""

    length: int


class EncryptInto(msgspec.Struct, frozen=True):
    """As EncryptCall, for AEADs, with the ciphertext in memory of the caller. → Encrypted without a ciphertext.

    Attributes:
        target: writable, as long as the plaintext or longer, and perhaps where that lies; what is behind the
            ciphertext may be overwritten.
    """

    handle: int
    algorithm: str
    nonce: bytes
    plaintext: memoryview
    aad: bytes
    target: memoryview


class EncryptManyInto(msgspec.Struct, frozen=True):
    """As EncryptInto, for many messages: each is encrypted where it lies, and its tag put behind it. → None.

    Attributes:
        messages: each with as many bytes behind it as a tag has.
        aads: one a message, or none at all.
    """

    handle: int
    algorithm: str
    nonces: Sequence[bytes]
    messages: Sequence[memoryview]
    aads: Sequence[bytes]


class DecryptInto(msgspec.Struct, frozen=True):
    """As DecryptCall, for AEADs, with the plaintext in memory of the caller. → int, its length.

    Attributes:
        sealed: the ciphertext and behind it the tag. Only who is to get the plaintext may be able to change them
            meanwhile: a change after the tag was verified goes into the plaintext.
        target: as long as the ciphertext, and perhaps where that lies. Nobody else sees it: there may be plaintext
            in it before the tag is verified, and after a failure.
    """

    handle: int
    algorithm: str
    nonce: bytes
    sealed: memoryview
    aad: bytes
    target: memoryview


Travelling = (
    DescribeCall
    | GenerateCall
    | ImportCall
    | DeriveFromSecretCall
    | LoadCall
    | UnloadCall
    | DestroyCall
    | ReleaseOwnerCall
    | ListCall
    | SignCall
    | SignManyCall
    | VerifyCall
    | EncryptCall
    | DecryptCall
    | EncapsulateCall
    | DecapsulateCall
    | AgreeSecretCall
    | AgreeKeyCall
    | DeriveKeyCall
    | WrapCall
    | UnwrapCall
    | CopyCall
    | ExamineCall
    | AdoptCall
    | ExportCall
    | AttestCall
    | StreamOpenCall
    | StreamUpdateCall
    | StreamFinishCall
    | StreamCloseCall
    | DigestCall
    | RandomCall
)

"""What can be asked of a provider in another process."""

ProviderCall = Travelling | EncryptInto | EncryptManyInto | DecryptInto
"""What can be asked of a provider in this one: it reads and writes memory of the caller too."""

ProviderReply = (
    None
    | bytes
    | int
    | list[bytes]
    | Description
    | MadeKey
    | Encrypted
    | Encapsulated
    | ForeignKey
    | Attestation
    | StreamEnd
)

REPLIES: Mapping[type[Travelling], object] = MappingProxyType(
    {
        DescribeCall: Description,
        GenerateCall: MadeKey,
        ImportCall: MadeKey,
        DeriveFromSecretCall: MadeKey,
        LoadCall: int,
        UnloadCall: None,
        DestroyCall: None,
        ReleaseOwnerCall: None,
        ListCall: list[bytes],
        SignCall: bytes,
        SignManyCall: list[bytes],
        VerifyCall: None,
        EncryptCall: Encrypted,
        DecryptCall: bytes,
        EncapsulateCall: Encapsulated,
        DecapsulateCall: bytes,
        AgreeSecretCall: bytes,
        AgreeKeyCall: MadeKey,
        DeriveKeyCall: MadeKey,
        WrapCall: bytes,
        UnwrapCall: MadeKey,
        CopyCall: MadeKey,
        ExamineCall: ForeignKey,
        AdoptCall: MadeKey,
        ExportCall: bytes,
        AttestCall: Attestation,
        StreamOpenCall: None,
        StreamUpdateCall: bytes,
        StreamFinishCall: StreamEnd,
        StreamCloseCall: None,
        DigestCall: bytes,
        RandomCall: bytes,
    }
)
"""What each call that travels answers, as a type that a decoder takes."""
