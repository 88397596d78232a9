"""A key's persistent form: a TSS2 PRIVATE KEY with the name of the storage root key that wraps it.

The inner DER is the ASN.1 of draft-bottomley-tpm2-keys (object identifier 2.23.133.10.1.3, a loadable key), which
tpm2-openssl, tpm2-tools and tpm2-pytss read; the envelope is msgpack with a version of its own. Material is in here
only as the TPM wrapped it. An ephemeral key's reference holds no material.
"""

import hashlib
import secrets

import msgspec
from tpm2_pytss import TPM2B_PRIVATE, TPM2B_PUBLIC, TSS2_Exception
from tpm2_pytss.tsskey import TSSPrivKey

from hsmbridge.core.errors import ProviderError, RequestError, Status, StoreError

_VERSION = 1


class Reference(msgspec.Struct, frozen=True, array_like=True):
    """What the store keeps of a key.

    Attributes:
        version: of this layout.
        parent_name: of the storage root key, the TPM's identity.
        private_key: TSS2 PRIVATE KEY in DER; b"" for an ephemeral key.
        ephemeral: random, in place of the key, where it stays in the process that made it.
    """

    version: int
    parent_name: bytes
    private_key: bytes
    ephemeral: bytes = b""


_decoder = msgspec.msgpack.Decoder(Reference)


def encode(parent_name: bytes, private_key: bytes) -> bytes:
    """The reference of a persistent key."""
    return msgspec.msgpack.encode(Reference(_VERSION, parent_name, private_key))


def encode_ephemeral(parent_name: bytes) -> bytes:
    """The reference of a key whose wrapped material stays in this process; no two are the same."""
    return msgspec.msgpack.encode(Reference(_VERSION, parent_name, b"", secrets.token_bytes(16)))


def decode(reference: bytes) -> Reference:
    """Raises StoreError: STORE_TAMPERED for what was never written here, STORE_VERSION for a later layout."""
    try:
        decoded = _decoder.decode(reference)
    except msgspec.DecodeError as cause:
        raise tampered() from cause
    if decoded.version != _VERSION:
        raise StoreError(Status.STORE_VERSION)
    return decoded


def check_same_tpm(wrapped_by: bytes, present: bytes) -> None:
    """Raises ProviderError (WRONG_TOKEN) where another storage root key, by name, wrapped the key."""
    if wrapped_by != present:
        raise ProviderError(
            Status.WRONG_TOKEN,
            "This key was wrapped by another TPM, or before this one was cleared; no other TPM can use it.",
        )


def private_key_der(private: TPM2B_PRIVATE, public: TPM2B_PUBLIC, parent: int) -> bytes:
    """A TSS2 PRIVATE KEY with an empty password under a persistent parent."""
    return bytes(TSSPrivKey(private, public, empty_auth=True, parent=parent).to_der())


def private_key_parts(der: bytes) -> tuple[TPM2B_PRIVATE, TPM2B_PUBLIC]:
    """The wrapped private and the public area. Raises StoreError (STORE_TAMPERED)."""
    key = _parse(der)
    return key.private, key.public


def tss2_private_key_pem(reference: bytes) -> bytes:
    """The key of a reference as a TSS2 PRIVATE KEY file, which tpm2-openssl loads on the same TPM.

    Raises RequestError (NOT_SUPPORTED) for an ephemeral key, StoreError for what is no reference.
    """
    decoded = decode(reference)
    if not decoded.private_key:
        raise RequestError(Status.NOT_SUPPORTED, "An ephemeral key has no persistent form to write.")
    return bytes(_parse(decoded.private_key).to_pem())


def _parse(der: bytes) -> TSSPrivKey:
    try:
        key = TSSPrivKey.from_der(der)
    except (ValueError, TypeError, TSS2_Exception) as cause:
        raise tampered() from cause
    if not key.empty_auth:
        raise tampered()
    return key


def binding_digest(binding: bytes) -> bytes:
    """What ties a wrapped key to the store's record of it, as the 32 bytes of the key's authPolicy.

    The TPM authenticates the public area with the private one, so a blob moved to another slot is found out. No
    policy has this digest: a policy digest hashes something that begins with another one.
    """
    return hashlib.sha256(b"hsmbridge key binding\0" + binding).digest()


def is_bound(public: TPM2B_PUBLIC, binding: bytes) -> bool:
    """Whether a key was made for this binding."""
    area = public.publicArea
    return bytes(area.authPolicy) == binding_digest(binding)


def tampered() -> StoreError:
    """The error for a wrapped key that is not what was written."""
    return StoreError(
        Status.STORE_TAMPERED,
        "The wrapped key was changed outside of hsmbridge and is not used; restore it from a backup.",
    )
