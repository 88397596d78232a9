"""A key's persistent form: a TSS2 PRIVATE KEY with the name of the storage root key, by which a TPM is known.

The inner DER is what tpm2-openssl, tpm2-tools and tpm2-pytss read (`tss2_file`); the envelope is msgpack with a
version of its own. Material is in here only as the TPM wrapped it. An ephemeral key's reference holds no material.

What ties a key to its slot is in its public area (`policies`), which the TPM authenticates. A key that was made by
somebody else keeps the public area it has: there the digest of the binding stands in the envelope, and is worth as
much as the store's own authentication of its rows.
"""

import secrets
from hmac import compare_digest

import msgspec
from tpm2_pytss import TPM2B_PRIVATE, TPM2B_PUBLIC

from hsmbridge.core.errors import HsmBridgeError, ProviderError, RequestError, Status, StoreError
from hsmbridge.providers.tpm.parents import STORAGE_ROOT
from hsmbridge.providers.tpm.policies import binding_digest, duplicable_digest
from hsmbridge.providers.tpm.tss2_file import Tss2Key, Tss2Kind, from_file, to_der, to_pem

_VERSION = 1
_SHORT_ARRAYS = range(0x93, 0x99)


class Reference(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """What the store keeps of a key.

    Attributes:
        version: of this layout.
        parent_name: of the storage root key, the TPM's identity.
        private_key: TSS2 PRIVATE KEY in DER; b"" for an ephemeral key, and for one in the TPM's own memory.
        ephemeral: random, in place of the key, where it stays in the process that made it.
        foreign: `binding_digest` for a key whose public area somebody else made, else b"".
        parent: the handle of a parent that is not the storage root key, or STORAGE_ROOT.
        persistent: the handle of a key in the TPM's own memory, or 0.
        name: of that key.
    """

    version: int
    parent_name: bytes
    private_key: bytes
    ephemeral: bytes = b""
    foreign: bytes = b""
    parent: int = STORAGE_ROOT
    persistent: int = 0
    name: bytes = b""


_decoder = msgspec.msgpack.Decoder(Reference)


def wrapped_reference(
    parent_name: bytes, private_key: bytes, *, foreign: bytes = b"", parent: int = STORAGE_ROOT
) -> Reference:
    """Of a key that is in the store, wrapped."""
    return Reference(_VERSION, parent_name, private_key, foreign=foreign, parent=parent)


def persistent_reference(parent_name: bytes, handle: int, name: bytes, foreign: bytes) -> Reference:
    """Of a key that is in the TPM's own memory."""
    return Reference(_VERSION, parent_name, b"", foreign=foreign, persistent=handle, name=name)


def rebound(reference: Reference, binding: bytes) -> Reference:
    """The same wrapped key for another place in the store."""
    return msgspec.structs.replace(reference, foreign=binding_digest(binding))


def encode(reference: Reference) -> bytes:
    """The bytes that the store keeps."""
    return msgspec.msgpack.encode(reference)


def encode_ephemeral(parent_name: bytes) -> bytes:
    """The reference of a key whose wrapped material stays in this process; no two are the same."""
    return encode(Reference(_VERSION, parent_name, b"", secrets.token_bytes(16)))


def is_reference(material: bytes) -> bool:
    """Whether material looks like a reference and not like DER or PEM: a msgpack array of a few fields."""
    return bool(material) and material[0] in _SHORT_ARRAYS


_PERSISTENT_HANDLES = range(0x81000000, 0x82000000)
"""TPM 2.0 Library part 2, section 7.4: handles of type TPM_HT_PERSISTENT."""


def decode(reference: bytes) -> Reference:
    """Raises StoreError: STORE_TAMPERED for what was never written here, STORE_VERSION for a later layout."""
    try:
        decoded = _decoder.decode(reference)
    except msgspec.DecodeError as cause:
        raise tampered() from cause
    if decoded.version != _VERSION:
        raise StoreError(Status.STORE_VERSION)
    if decoded.persistent and decoded.persistent not in _PERSISTENT_HANDLES:
        raise tampered()
    return decoded


def place(reference: bytes) -> tuple[str, bytes]:
    """Where the key of a reference is, as ExamineCall names it: its persistent handle, or its TSS2 PRIVATE KEY."""
    decoded = decode(reference)
    if decoded.persistent:
        return f"{decoded.persistent:#x}", b""
    return "", decoded.private_key


def check_same_tpm(wrapped_by: bytes, present: bytes) -> None:
    """Raises ProviderError (WRONG_TOKEN) where another storage root key, by name, wrapped the key."""
    if wrapped_by != present:
        raise ProviderError(
            Status.WRONG_TOKEN,
            "This key was wrapped by another TPM, or before this one was cleared; no other TPM can use it.",
        )


def private_key_der(private: TPM2B_PRIVATE, public: TPM2B_PUBLIC, parent: int) -> bytes:
    """A TSS2 PRIVATE KEY with an empty password under a parent."""
    return to_der(Tss2Key(Tss2Kind.LOADABLE, parent, public, private))


def private_key_parts(der: bytes) -> tuple[TPM2B_PRIVATE, TPM2B_PUBLIC]:
    """The wrapped private and the public area. Raises StoreError (STORE_TAMPERED)."""
    key = _read(der)
    return key.private, key.public


def tss2_private_key_pem(reference: bytes) -> bytes:
    """The key of a reference as a TSS2 PRIVATE KEY file, which tpm2-openssl loads on the same TPM.

    Raises RequestError (NOT_SUPPORTED) for an ephemeral key, StoreError for what is no reference.
    """
    decoded = decode(reference)
    if not decoded.private_key:
        raise RequestError(
            Status.NOT_SUPPORTED,
            "Only a key that the store holds wrapped can be written to a file: not an ephemeral one, and not one in"
            " the TPM's own memory.",
        )
    return to_pem(_read(decoded.private_key))


def is_bound(public: TPM2B_PUBLIC, binding: bytes, foreign: bytes) -> bool:
    """Whether a key was made, or taken in, for this binding."""
    if foreign:
        return compare_digest(foreign, binding_digest(binding))
    area = public.publicArea
    return bytes(area.authPolicy) in {binding_digest(binding), duplicable_digest(binding)}


def is_duplicable(public: TPM2B_PUBLIC, binding: bytes) -> bool:
    """Whether a key was made here with a policy that permits its duplication."""
    area = public.publicArea
    return bytes(area.authPolicy) == duplicable_digest(binding)


def tampered() -> StoreError:
    """The error for a wrapped key that is not what was written."""
    return StoreError(
        Status.STORE_TAMPERED,
        "The wrapped key was changed outside of hsmbridge and is not used; restore it from a backup.",
    )


def _read(der: bytes) -> Tss2Key:
    try:
        key = from_file(der)
    except HsmBridgeError as cause:
        raise tampered() from cause
    if key.kind is not Tss2Kind.LOADABLE:
        raise tampered()
    return key
