"""The provider contract over a TPM 2.0.

A command that fails for the TPM's state alone is sent once more on a fresh connection (`device`), so that a restarted
TPM is not noticed. Hashing for signatures is done here in software: a key without the RESTRICTED attribute signs any
digest, and a chip hashes slowly. A key's binding and its uses are in its public area, which the TPM authenticates.
What does more than use a key stands in modules of its own: adoption, attestation, duplication, importing.

What adding an algorithm takes: its row with a `tpm_alg` in `hsmbridge.core.algorithms`, and nothing here where its
scheme is in `schemes.COMMANDS`.
"""

from contextlib import suppress
from threading import Lock

import msgspec
from tpm2_pytss import TPM2_RC, TPM2B_PRIVATE, TPM2B_PUBLIC, TPM2B_SENSITIVE_CREATE, TSS2_Exception

from hsmbridge.core import calls
from hsmbridge.core.algorithms import Algorithm, KeyOperation, Kind, Scheme
from hsmbridge.core.errors import HsmBridgeError, ProviderError, RequestError, Status, StoreError
from hsmbridge.core.key_types import KeyType, key_type
from hsmbridge.core.params import SignatureParameters
from hsmbridge.core.permissions import permissions_from_bits
from hsmbridge.core.policy import Protection
from hsmbridge.providers.base import Provider
from hsmbridge.providers.owned_keys import OwnedKeys
from hsmbridge.providers.streams import ProviderStream
from hsmbridge.providers.tpm import (
    abilities,
    adoption,
    agreement,
    attestation,
    duplication,
    encryption,
    importing,
    references,
    sequences,
    signatures,
    streams,
)
from hsmbridge.providers.tpm.cache import StateLost, persistent_object
from hsmbridge.providers.tpm.device import Opened, Tpm
from hsmbridge.providers.tpm.errors import base_code
from hsmbridge.providers.tpm.held_keys import HeldKey, HeldKeys, Place
from hsmbridge.providers.tpm.key_use import KeyUse, key_use
from hsmbridge.providers.tpm.references import Reference, check_same_tpm
from hsmbridge.providers.tpm.schemes import hash_id
from hsmbridge.providers.tpm.settings import TpmSettings
from hsmbridge.providers.tpm.templates import fits, public_template


def open_tpm(settings: TpmSettings) -> "TpmProvider":
    """Connect to a TPM, free its slots where no resource manager does, and see to its storage root key.

    Raises ProviderError (TOKEN_NOT_PRESENT, PIN_LOCKED), RequestError (INVALID_CONFIGURATION).
    """
    return TpmProvider(settings, Tpm(settings))


class TpmProvider(Provider):
    """Keys in one TPM, which has one owner: this object. Thread-safe; the TPM does one thing at a time."""

    def __init__(self, settings: TpmSettings, tpm: Tpm) -> None:
        self._settings = settings
        self._tpm = tpm
        self._lock = Lock()
        """Over the keys held; never waits for the TPM."""
        self._keys = HeldKeys()
        self._ephemeral: dict[bytes, tuple[bytes, Reference]] = {}
        """By key id: the reference that was answered, and the one with the key, which stays here."""
        self._owned = OwnedKeys()
        self._described: calls.Description | None = None
        self._offered: frozenset[tuple[str, str]] = frozenset()
        """Algorithm and operation, as described."""

    def describe(self) -> calls.Description:
        """What it can do, asked once of each TPM; the dictionary-attack state in the notes is always that of now."""
        described = self._known()
        with suppress(HsmBridgeError):
            notes = self._tpm.run(lambda opened: abilities.notes(opened, self._settings))
            if notes != described.notes:
                described = self._described = msgspec.structs.replace(described, notes=notes)
        return described

    def _known(self) -> calls.Description:
        described = self._described
        if described is None or described.token.serial != self._tpm.serial:
            described = self._tpm.run(lambda opened: abilities.describe(opened, self._settings))
            self._offered = frozenset(
                (claim.algorithm, name) for claim in described.claims for name in claim.operations
            )
            self._described = described
        return described

    def close(self) -> None:
        with self._lock:
            self._keys.clear()
            self._ephemeral.clear()
            self._owned.clear()
        self._tpm.close()

    # Keys

    def generate(self, target: calls.KeyTarget) -> calls.MadeKey:
        row = key_type(target.key_type)
        if row.name not in self._known().key_types:
            raise RequestError(Status.NOT_SUPPORTED, f"This TPM makes no keys of type {row.name}.")
        template = public_template(row, permissions_from_bits(target.permissions), target.binding)
        sensitive = TPM2B_SENSITIVE_CREATE()

        def command(opened: Opened) -> tuple[Reference, bytes]:
            opened.keys.make_room()
            private, public, creation, *_ = opened.esapi.create(opened.root.handle, sensitive, template)
            made = creation.creationData
            if bytes(made.parentName) != opened.root.name:
                raise StateLost  # else the key would be recorded under another TPM than the one that wrapped it
            return self._wrapped(opened, private, public), _spki(row, public)

        return self._made(target, *self._tpm.run(command))

    def import_key(self, target: calls.KeyTarget, format_: str, material: bytes) -> calls.MadeKey:
        row = key_type(target.key_type)
        if row.name not in self._known().imports:
            raise RequestError(Status.NOT_SUPPORTED, f"This TPM takes no keys of type {row.name}.")
        if format_ == adoption.DUPLICATE_FORMAT:
            return self._adopt(target, adoption.find_duplicate(self._tpm, self._settings.srk_handle, material))
        permissions = permissions_from_bits(target.permissions)
        brought = importing.Brought(row, permissions, target.binding, format_, material)

        def command(opened: Opened) -> tuple[Reference, bytes]:
            private, public = brought.import_into(opened)
            return self._wrapped(opened, private, public), _spki(row, public)

        return self._made(target, *self._tpm.run(command, importing.refused))

    def copy(self, handle: int, target: calls.KeyTarget) -> calls.MadeKey:
        key = self._keys.get(handle)
        if not key.reference.private_key:
            raise RequestError(Status.NOT_SUPPORTED, "A key in the TPM's own memory is there once and has no copies.")
        adoption.check_target(key.public, target)
        return self._made(target, references.rebound(key.reference, target.binding), _spki(key.row, key.public))

    def examine(self, uri: str, material: bytes) -> calls.ForeignKey:
        if uri == calls.OWN_REFERENCE:
            uri, material = references.place(material)
        return adoption.examine(adoption.find(self._tpm, self._settings.srk_handle, uri, material))

    def adopt(self, target: calls.KeyTarget, uri: str, material: bytes) -> calls.MadeKey:
        return self._adopt(target, adoption.find(self._tpm, self._settings.srk_handle, uri, material))

    def export(self, handle: int, format_: str, recipient: bytes) -> bytes:
        key = self._keys.get(handle)
        if format_ == adoption.DUPLICATE_FORMAT:
            return duplication.duplicate(self._tpm, key, recipient)
        if format_ != abilities.TSS2_FORMAT:
            raise RequestError(
                Status.NOT_SUPPORTED, f"A TPM key is exported as {' or '.join(abilities.EXPORTS)}, no other way."
            )
        if recipient:
            raise RequestError(
                Status.INVALID_ARGUMENT,
                f"Only its own TPM loads a {abilities.TSS2_FORMAT} file, so there is no recipient to name.",
            )
        return references.tss2_private_key_pem(references.encode(key.reference))

    def attest(self, handle: int, nonce: bytes, pcrs: tuple[int, ...] = ()) -> calls.Attestation:
        return attestation.attest(self._tpm, self._keys.get(handle), nonce, pcrs)

    def load(self, key_id: bytes, row: KeyType, permissions: int, reference: bytes, binding: bytes) -> int:
        place: Place = (row.name, binding, reference)
        with self._lock:
            known = self._keys.find(key_id, place)
        if known is not None:
            return known.handle
        key = self._read(key_id, row, reference, binding)

        def command(opened: Opened) -> None:
            check_same_tpm(key.parent_name, opened.root.name)
            opened.keys.acquire(key)

        self._tpm.run(command, _load_verdict)
        with self._lock:
            quicker = self._keys.find(key_id, place)
            if quicker is None:
                self._keys.add(key, place)
                return key.handle
        self._tpm.release(key.handle)
        return quicker.handle

    def unload(self, handle: int) -> None:
        with self._lock:
            self._keys.remove(handle)
        self._tpm.release(handle)

    def destroy(self, key_id: bytes, row: KeyType, reference: bytes) -> None:
        if reference:
            self._check_destroyable(reference)
        with self._lock:
            self._owned.discard(key_id)
            handles = self._forget(key_id)
        self._tpm.release(*handles)

    def release_owner(self, owner: bytes) -> None:
        super().release_owner(owner)
        with self._lock:
            handles = [handle for key_id in self._owned.take(owner) for handle in self._forget(key_id)]
        self._tpm.release(*handles)

    # Use of keys

    def sign(self, handle: int, row: Algorithm, message: bytes, parameters: SignatureParameters) -> bytes:
        use = self._use(handle, row, KeyOperation.SIGN)
        if row.kind is Kind.MAC:
            return signatures.mac(use, message, parameters)
        return signatures.sign(use, message, parameters)

    def verify(
        self, handle: int, row: Algorithm, message: bytes, signature: bytes, parameters: SignatureParameters
    ) -> None:
        use = self._use(handle, row, KeyOperation.VERIFY)
        if row.kind is Kind.MAC:
            signatures.verify_mac(use, message, signature, parameters)
        else:
            signatures.verify(use, message, signature, parameters)

    def encrypt(self, handle: int, row: Algorithm, nonce: bytes, plaintext: bytes, aad: bytes) -> calls.Encrypted:
        use = self._use(handle, row, KeyOperation.ENCRYPT)
        if row.scheme is Scheme.RSAES_OAEP:
            return encryption.encrypt_oaep(use, nonce, plaintext, aad)
        return encryption.encrypt_cfb(use, nonce, plaintext, aad)

    def decrypt(self, handle: int, row: Algorithm, nonce: bytes, ciphertext: bytes, aad: bytes, tag: bytes) -> bytes:
        use = self._use(handle, row, KeyOperation.DECRYPT)
        if row.scheme is Scheme.RSAES_OAEP:
            return encryption.decrypt_oaep(use, nonce, ciphertext, aad, tag)
        return encryption.decrypt_cfb(use, nonce, ciphertext, aad, tag)

    def agree_secret(self, handle: int, row: Algorithm, peer_public_key: bytes) -> bytes:
        return agreement.agree_secret(self._use(handle, row, KeyOperation.AGREE), peer_public_key)

    # Without keys

    def open_stream(
        self,
        handle: int,
        row: Algorithm,
        operation: KeyOperation,
        nonce: bytes,
        aad: bytes,
        parameters: SignatureParameters,
    ) -> ProviderStream:
        if row.kind is Kind.DIGEST:
            self._check_offered(row, operation)
            return streams.digest(self._tpm, row)
        use = self._use(handle, row, operation)
        if row.kind is Kind.MAC:
            return streams.mac(use, operation, parameters)
        if row.kind is Kind.SIGNATURE:
            return streams.signature(use, operation, parameters)
        return streams.cipher(use, operation, nonce, aad)

    def digest(self, row: Algorithm, data: bytes) -> bytes:
        self._check_offered(row, KeyOperation.DIGEST)
        hash_ = hash_id(row)
        return self._tpm.run(lambda opened: sequences.digest(opened, hash_, data))

    def random(self, length: int) -> bytes:
        if length < 0:
            raise RequestError(Status.INVALID_ARGUMENT, "A number of random bytes is not negative.")
        done = bytearray()

        def command(opened: Opened) -> bytes:
            wanted = min(length - len(done), opened.limits.digest)
            return bytes(opened.esapi.get_random(wanted, session1=opened.secrecy.covering))

        while len(done) < length:
            done += self._tpm.run(command)
        return bytes(done)

    # Inside

    def _use(self, handle: int, row: Algorithm, operation: KeyOperation) -> KeyUse:
        key = self._keys.get(handle)
        self._check_offered(row, operation)
        return key_use(self._tpm, key, row)

    def _check_offered(self, row: Algorithm, operation: KeyOperation) -> None:
        if self._described is None:
            self._known()
        if (row.name, operation) not in self._offered:
            raise RequestError(Status.NOT_SUPPORTED, f"This TPM cannot {operation} with {row.name}.")

    def _wrapped(self, opened: Opened, private: TPM2B_PRIVATE, public: TPM2B_PUBLIC) -> Reference:
        der = references.private_key_der(private, public, self._settings.srk_handle)
        return references.wrapped_reference(opened.root.name, der)

    def _adopt(self, target: calls.KeyTarget, found: adoption.Found) -> calls.MadeKey:
        adoption.check_target(found.public, target)
        return self._made(target, found.reference(target.binding, self._settings.srk_handle), found.public_key())

    def _made(self, target: calls.KeyTarget, complete: Reference, spki: bytes) -> calls.MadeKey:
        if not target.ephemeral:
            return calls.MadeKey(references.encode(complete), spki, Protection.TOKEN)
        reference = references.encode_ephemeral(complete.parent_name)
        with self._lock:
            self._ephemeral[target.key_id] = reference, complete
            self._owned.add(target.owner, target.key_id)
        return calls.MadeKey(reference, spki, Protection.TOKEN)

    def _forget(self, key_id: bytes) -> list[int]:
        """Drop what is held of a key, for who holds the lock; the handles, which the TPM may still know."""
        self._ephemeral.pop(key_id, None)
        handles = self._keys.handles_of(key_id)
        for handle in handles:
            self._keys.remove(handle)
        return handles

    def _read(self, key_id: bytes, row: KeyType, reference: bytes, binding: bytes) -> HeldKey:
        complete = references.decode(reference)
        if complete.ephemeral:
            with self._lock:
                known, complete = self._ephemeral.get(key_id, (b"", complete))
            if known != reference:
                raise ProviderError(Status.KEY_MATERIAL_MISSING, "The ephemeral key is gone; make a new one.")
        private = None
        if complete.persistent:
            public = self._tpm.run(lambda opened: _persistent_public(opened, complete))
        else:
            private, public = references.private_key_parts(complete.private_key)
        if not fits(public, row) or not references.is_bound(public, binding, complete.foreign):
            raise references.tampered()
        with self._lock:
            handle = self._keys.new_handle()
        return HeldKey(handle, key_id, row, complete, binding, private, public)

    def _check_destroyable(self, reference: bytes) -> None:
        try:
            parent_name = references.decode(reference).parent_name
        except StoreError:
            return  # no key of ours: there is nothing in a TPM that it could name
        self._tpm.run(lambda opened: check_same_tpm(parent_name, opened.root.name))


def _spki(row: KeyType, public: TPM2B_PUBLIC) -> bytes:
    return b"" if row.symmetric else bytes(public.to_der())


def _persistent_public(opened: Opened, reference: Reference) -> TPM2B_PUBLIC:
    check_same_tpm(reference.parent_name, opened.root.name)
    _, public = persistent_object(opened.esapi, reference.persistent, reference.name)
    return public


def _load_verdict(failure: TSS2_Exception) -> HsmBridgeError | None:
    code = base_code(failure)
    if code & TPM2_RC.FMT1 and code not in (TPM2_RC.AUTH_FAIL, TPM2_RC.BAD_AUTH):
        # This TPM wrapped the key, so it would take back what it gave.
        return references.tampered()
    return None
