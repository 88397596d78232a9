"""The provider contract: what every back end does, and how a call reaches the method that does it.

A provider is blocking, plain and single-minded: bytes and handles in and out; it knows nothing of callers,
slots or sockets. Its methods may be called from several threads at once; what cannot be done at once it
serialises by itself. It raises HsmBridgeError with a status of the table: ProviderError where token or TPM failed,
RequestError (NOT_SUPPORTED, INVALID_ARGUMENT) where the call cannot be done, SignatureInvalid and
DecryptionFailed, and ProviderError (HANDLE_UNKNOWN) for a handle that it does not hold (any more).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from itertools import repeat
from types import MappingProxyType
from typing import TypeVar, cast

from hsmbridge.core import calls
from hsmbridge.core.algorithms import Algorithm, KeyOperation, algorithm
from hsmbridge.core.errors import HsmBridgeError, RequestError, Status
from hsmbridge.core.key_types import KeyType, key_type
from hsmbridge.core.params import KdfParameters, SignatureParameters
from hsmbridge.providers.streams import ProviderStream, ProviderStreams


class Provider(ABC):
    """A back end. The abstract methods are required; the others answer NOT_SUPPORTED until a provider has them."""

    @abstractmethod
    def describe(self) -> calls.Description:
        """What it can do: rows of the tables ∩ what the back end answered when asked. Quick after the first time."""

    @abstractmethod
    def generate(self, target: calls.KeyTarget) -> calls.MadeKey:
        """Make a random key under `target.key_id`. Durable when it returns, unless ephemeral."""

    @abstractmethod
    def load(self, key_id: bytes, row: KeyType, permissions: int, reference: bytes, binding: bytes) -> int:
        """A handle for a stored key; the same one when it is loaded already.

        Raises ProviderError: WRONG_TOKEN where another token than the key's is there, KEY_MATERIAL_MISSING where
        the right token does not hold it; StoreError (STORE_TAMPERED) where the reference or binding was changed.
        """

    @abstractmethod
    def unload(self, handle: int) -> None:
        """Forget a handle; an unknown one is fine."""

    @abstractmethod
    def destroy(self, key_id: bytes, row: KeyType, reference: bytes) -> None:
        """Remove every trace of the key, half-made or whole; one that is not there is fine.

        Raises ProviderError (WRONG_TOKEN) where `reference` says that the key lives on another token: nothing is
        removed then, for it could not be the right thing.
        """

    @abstractmethod
    def close(self) -> None:
        """Log out, forget every key, free the back end. No call follows."""

    def release_owner(self, owner: bytes) -> None:
        """Free at one stroke what somebody had who is gone: every ephemeral key made for him, every stream.

        An owner who has nothing (any more) is fine. Who keeps ephemeral keys does this for them too.
        """
        self.streams.close_owned(owner)

    def import_key(self, target: calls.KeyTarget, format_: str, material: bytes) -> calls.MadeKey:
        """Take a key given in the clear: "raw", "pkcs8" or "spki"."""
        raise _lacks("import keys")

    def derive_from_secret(self, secret: bytes, kdf: KdfParameters | None, target: calls.KeyTarget) -> calls.MadeKey:
        """Make a key from a secret that another provider yielded; with no KDF the secret is the key."""
        raise _lacks("make keys from secrets")

    def list_keys(self) -> list[bytes]:
        """The key ids of all persistent keys there that hsmbridge made."""
        raise _lacks("list its keys")

    def sign(self, handle: int, row: Algorithm, message: bytes, parameters: SignatureParameters) -> bytes:
        """A signature (ECDSA in DER) or a MAC."""
        raise _lacks(f"sign with {row.name}")

    def sign_many(
        self, handle: int, row: Algorithm, messages: Sequence[bytes], parameters: SignatureParameters
    ) -> list[bytes]:
        """As `sign`, for each message. A provider that can do better than one by one says so here."""
        return [self.sign(handle, row, message, parameters) for message in messages]

    def verify(
        self, handle: int, row: Algorithm, message: bytes, signature: bytes, parameters: SignatureParameters
    ) -> None:
        """Raises SignatureInvalid for whatever does not verify."""
        raise _lacks(f"verify {row.name}")

    def encrypt(self, handle: int, row: Algorithm, nonce: bytes, plaintext: bytes, aad: bytes) -> calls.Encrypted:
        """Encrypt with the nonce given; the ciphertext without its tag."""
        raise _lacks(f"encrypt with {row.name}")

    def decrypt(self, handle: int, row: Algorithm, nonce: bytes, ciphertext: bytes, aad: bytes, tag: bytes) -> bytes:
        """Raises DecryptionFailed whatever is wrong with the data."""
        raise _lacks(f"decrypt {row.name}")

    def encrypt_into(
        self, handle: int, row: Algorithm, nonce: bytes, plaintext: memoryview, aad: bytes, target: memoryview
    ) -> calls.Encrypted:
        """As `encrypt`, with the ciphertext in `target`, as EncryptInto says. For AEADs."""
        made = self.encrypt(handle, row, nonce, bytes(plaintext), aad)
        target[: len(made.ciphertext)] = made.ciphertext
        return calls.Encrypted(made.nonce, b"", made.tag)

    def encrypt_many_into(
        self,
        handle: int,
        row: Algorithm,
        nonces: Sequence[bytes],
        messages: Sequence[memoryview],
        aads: Sequence[bytes],
    ) -> None:
        """As `encrypt_into`, for each message, as EncryptManyInto says. For AEADs."""
        for nonce, message, aad in zip(nonces, messages, aads or repeat(b"", len(messages)), strict=True):
            made = self.encrypt(handle, row, nonce, bytes(message[: len(message) - row.tag_size]), aad)
            message[:] = made.ciphertext + made.tag

    def decrypt_into(
        self, handle: int, row: Algorithm, nonce: bytes, sealed: memoryview, aad: bytes, target: memoryview
    ) -> int:
        """As `decrypt`, with the plaintext in `target`, as DecryptInto says: its length. For AEADs."""
        end = len(sealed) - row.tag_size
        plaintext = self.decrypt(handle, row, nonce, bytes(sealed[:end]), aad, bytes(sealed[end:]))
        target[: len(plaintext)] = plaintext
        return len(plaintext)

    def encapsulate(self, handle: int, row: Algorithm) -> calls.Encapsulated:
        """A fresh shared secret and its ciphertext."""
        raise _lacks(f"encapsulate with {row.name}")

    def decapsulate(self, handle: int, row: Algorithm, ciphertext: bytes) -> bytes:
        """The shared secret. A ciphertext of wrong length raises DecryptionFailed."""
        raise _lacks(f"decapsulate {row.name}")

    def agree_secret(self, handle: int, row: Algorithm, peer_public_key: bytes) -> bytes:
        """The raw shared secret with the holder of `peer_public_key` (SPKI DER); INVALID_ARGUMENT for a bad one."""
        raise _lacks(f"yield a secret agreed by {row.name}")

    def agree_key(
        self,
        handle: int,
        row: Algorithm,
        peer_public_key: bytes,
        kdf: KdfParameters | None,
        target: calls.KeyTarget,
    ) -> calls.MadeKey:
        """A key agreed with a peer that stays in the provider."""
        raise _lacks(f"keep a key agreed by {row.name}")

    def derive_key(self, handle: int, kdf: KdfParameters, target: calls.KeyTarget) -> calls.MadeKey:
        """A key derived from another that stays in the provider."""
        raise _lacks(f"derive keys with {kdf.algorithm}")

    def wrap(self, handle: int, row: Algorithm, wrapped: int, iv: bytes, aad: bytes) -> bytes:
        """The key behind handle `wrapped`, encrypted under `handle`."""
        raise _lacks(f"wrap with {row.name}")

    def unwrap(
        self,
        handle: int,
        row: Algorithm,
        material: bytes,
        format_: str,
        iv: bytes,
        aad: bytes,
        target: calls.KeyTarget,
    ) -> calls.MadeKey:
        """Take in a wrapped key. Raises DecryptionFailed whatever is wrong with it."""
        raise _lacks(f"unwrap with {row.name}")

    def copy(self, handle: int, target: calls.KeyTarget) -> calls.MadeKey:
        """A second key of the same value, independent of the first: an ephemeral key becomes a persistent one."""
        raise _lacks("copy keys")

    def examine(self, uri: str, material: bytes) -> calls.ForeignKey:
        """A key that is there already and that hsmbridge did not make.

        Raises ProviderError: KEY_MATERIAL_MISSING where nothing is there, WRONG_TOKEN where it belongs to another;
        RequestError (INVALID_ARGUMENT) where uri or material name no key, or more than one.
        """
        raise _lacks("adopt keys")

    def adopt(self, target: calls.KeyTarget, uri: str, material: bytes) -> calls.MadeKey:
        """Take over, where it is, the key that `examine` found; its reference leads there from now on."""
        raise _lacks("adopt keys")

    def export(self, handle: int, format_: str, recipient: bytes) -> bytes:
        """The private key in a form that nobody reads in the clear."""
        raise _lacks(f"export keys as {format_}")

    def attest(self, handle: int, nonce: bytes, pcrs: tuple[int, ...]) -> calls.Attestation:
        """What the token states of the key, and of `pcrs` if any are named, signed together with the nonce."""
        raise _lacks("attest keys")

    def open_stream(
        self,
        handle: int,
        row: Algorithm,
        operation: KeyOperation,
        nonce: bytes,
        aad: bytes,
        parameters: SignatureParameters,
    ) -> ProviderStream:
        """Begin an operation on data that comes in pieces; `handle` is 0 for a digest.

        What cannot be streamed raises NOT_SUPPORTED: the data is then collected, and the whole of it given to `sign`,
        `decrypt` and so on. The decryption of an AEAD is never asked for: its plaintext must wait for the tag anyway.
        """
        raise _lacks(f"{operation} with {row.name} in pieces")

    @cached_property
    def streams(self) -> ProviderStreams:
        """The streams that are open."""
        return ProviderStreams()

    def digest(self, row: Algorithm, data: bytes) -> bytes:
        """The hash of `data`."""
        raise _lacks(f"compute {row.name}")

    def random(self, length: int) -> bytes:
        """`length` random bytes from the back end's own generator."""
        raise _lacks("give random bytes")


def _lacks(what: str) -> HsmBridgeError:
    return RequestError(Status.NOT_SUPPORTED, f"This provider cannot {what}.")


def _opened(provider: Provider, call: calls.StreamOpenCall) -> ProviderStream:
    row = algorithm(call.algorithm)
    operation = KeyOperation(call.operation)
    return provider.open_stream(call.handle, row, operation, call.nonce, call.aad, call.parameters)


_C = TypeVar("_C")
_Handler = Callable[[Provider, calls.ProviderCall], calls.ProviderReply]


def _entry(
    call: type[_C], act: Callable[[Provider, _C], calls.ProviderReply]
) -> tuple[type[calls.ProviderCall], _Handler]:
    # `act` is only ever given values of `call`, which the table finds it by.
    return cast(type[calls.ProviderCall], call), cast(_Handler, act)


_HANDLERS: Mapping[type[calls.ProviderCall], _Handler] = MappingProxyType(
    dict(
        (
            _entry(calls.DescribeCall, lambda p, c: p.describe()),
            _entry(calls.GenerateCall, lambda p, c: p.generate(c.target)),
            _entry(
                calls.LoadCall,
                lambda p, c: p.load(c.key_id, key_type(c.key_type), c.permissions, c.reference, c.binding),
            ),
            _entry(calls.UnloadCall, lambda p, c: p.unload(c.handle)),
            _entry(calls.DestroyCall, lambda p, c: p.destroy(c.key_id, key_type(c.key_type), c.reference)),
            _entry(calls.ImportCall, lambda p, c: p.import_key(c.target, c.format, c.material)),
            _entry(calls.DeriveFromSecretCall, lambda p, c: p.derive_from_secret(c.secret, c.kdf, c.target)),
            _entry(calls.ReleaseOwnerCall, lambda p, c: p.release_owner(c.owner)),
            _entry(calls.ListCall, lambda p, c: p.list_keys()),
            _entry(calls.SignCall, lambda p, c: p.sign(c.handle, algorithm(c.algorithm), c.message, c.parameters)),
            _entry(
                calls.SignManyCall,
                lambda p, c: p.sign_many(c.handle, algorithm(c.algorithm), c.messages, c.parameters),
            ),
            _entry(
                calls.VerifyCall,
                lambda p, c: p.verify(c.handle, algorithm(c.algorithm), c.message, c.signature, c.parameters),
            ),
            _entry(
                calls.EncryptCall,
                lambda p, c: p.encrypt(c.handle, algorithm(c.algorithm), c.nonce, c.plaintext, c.aad),
            ),
            _entry(
                calls.DecryptCall,
                lambda p, c: p.decrypt(c.handle, algorithm(c.algorithm), c.nonce, c.ciphertext, c.aad, c.tag),
            ),
            _entry(
                calls.EncryptInto,
                lambda p, c: p.encrypt_into(c.handle, algorithm(c.algorithm), c.nonce, c.plaintext, c.aad, c.target),
            ),
            _entry(
                calls.EncryptManyInto,
                lambda p, c: p.encrypt_many_into(c.handle, algorithm(c.algorithm), c.nonces, c.messages, c.aads),
            ),
            _entry(
                calls.DecryptInto,
                lambda p, c: p.decrypt_into(c.handle, algorithm(c.algorithm), c.nonce, c.sealed, c.aad, c.target),
            ),
            _entry(calls.EncapsulateCall, lambda p, c: p.encapsulate(c.handle, algorithm(c.algorithm))),
            _entry(
                calls.DecapsulateCall,
                lambda p, c: p.decapsulate(c.handle, algorithm(c.algorithm), c.ciphertext),
            ),
            _entry(
                calls.AgreeSecretCall,
                lambda p, c: p.agree_secret(c.handle, algorithm(c.algorithm), c.peer_public_key),
            ),
            _entry(
                calls.AgreeKeyCall,
                lambda p, c: p.agree_key(c.handle, algorithm(c.algorithm), c.peer_public_key, c.kdf, c.target),
            ),
            _entry(calls.DeriveKeyCall, lambda p, c: p.derive_key(c.handle, c.kdf, c.target)),
            _entry(calls.WrapCall, lambda p, c: p.wrap(c.handle, algorithm(c.algorithm), c.wrapped, c.iv, c.aad)),
            _entry(
                calls.UnwrapCall,
                lambda p, c: p.unwrap(c.handle, algorithm(c.algorithm), c.material, c.format, c.iv, c.aad, c.target),
            ),
            _entry(calls.CopyCall, lambda p, c: p.copy(c.handle, c.target)),
            _entry(calls.ExamineCall, lambda p, c: p.examine(c.uri, c.material)),
            _entry(calls.AdoptCall, lambda p, c: p.adopt(c.target, c.uri, c.material)),
            _entry(calls.ExportCall, lambda p, c: p.export(c.handle, c.format, c.recipient)),
            _entry(calls.AttestCall, lambda p, c: p.attest(c.handle, c.nonce, c.pcrs)),
            _entry(calls.StreamOpenCall, lambda p, c: p.streams.open(c.stream, lambda: _opened(p, c), c.owner)),
            _entry(calls.StreamUpdateCall, lambda p, c: p.streams.update(c.stream, c.data)),
            _entry(calls.StreamFinishCall, lambda p, c: p.streams.finish(c.stream, c.data, c.proof)),
            _entry(calls.StreamCloseCall, lambda p, c: p.streams.close(c.stream)),
            _entry(calls.DigestCall, lambda p, c: p.digest(algorithm(c.algorithm), c.data)),
            _entry(calls.RandomCall, lambda p, c: p.random(c.length)),
        )
    )
)


def perform(provider: Provider, call: calls.ProviderCall) -> calls.ProviderReply:
    """Do one call. Raises what the provider raises."""
    return _HANDLERS[type(call)](provider, call)


def claims(description: calls.Description, name: str, operation: KeyOperation) -> bool:
    """Whether a provider offers an operation of an algorithm."""
    return any(claim.algorithm == name and operation in claim.operations for claim in description.claims)
