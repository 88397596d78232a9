"""Keys on a PKCS#11 token: HSM, smart card, SoftHSM. The provider contract over python-pkcs11.

Bound to one token by its serial. It holds no key material; a key that nobody uses costs nothing, and opening
touches none.
"""

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from hsmbridge.core.algorithms import Algorithm, KeyOperation, Kind, Scheme, algorithm
from hsmbridge.core.calls import (
    OWN_REFERENCE,
    Description,
    Encapsulated,
    Encrypted,
    ForeignKey,
    KeyTarget,
    MadeKey,
    StreamEnd,
)
from hsmbridge.core.errors import ProviderError, RequestError, Status
from hsmbridge.core.key_types import KeyType, key_type
from hsmbridge.core.params import KdfParameters, SignatureParameters
from hsmbridge.core.policy import Protection
from hsmbridge.providers.base import Provider
from hsmbridge.providers.pkcs11 import adoption, agreement, derivation, encapsulation, encryption, signatures
from hsmbridge.providers.pkcs11.copying import copy_key
from hsmbridge.providers.pkcs11.importing import create_secret, import_key
from hsmbridge.providers.pkcs11.loaded import LoadedKey, LoadedKeys
from hsmbridge.providers.pkcs11.making import make_key
from hsmbridge.providers.pkcs11.mechanisms import WITHOUT_HASH, mechanism_of
from hsmbridge.providers.pkcs11.objects import KeyObjects, Reference, find_at, list_key_ids, remove_key
from hsmbridge.providers.pkcs11.pool import Seat
from hsmbridge.providers.pkcs11.probe import Capabilities
from hsmbridge.providers.pkcs11.public_keys import public_key_info
from hsmbridge.providers.pkcs11.sessions import TokenSessions
from hsmbridge.providers.pkcs11.streams import TokenStreams, at_once
from hsmbridge.providers.pkcs11.templates import secret_template
from hsmbridge.providers.pkcs11.wrapping import Material, Wrapped
from hsmbridge.providers.streams import HashedFirst, ProviderStream

RANDOM_CHUNK = 65536
_T = TypeVar("_T")


class Pkcs11Provider(Provider):
    """One token. `open_pkcs11` makes it; `close` gives back what that took."""

    def __init__(self, sessions: TokenSessions, capabilities: Capabilities, close: Callable[[], None]) -> None:
        self._sessions = sessions
        self._close = close
        self._can = capabilities
        self._refusals = sessions.quirks.refusals
        self._streams = TokenStreams(sessions, capabilities.fixed)
        self._loaded = LoadedKeys(sessions)
        self._closing = threading.Lock()

    # --- keys ------------------------------------------------------------------------------------------------------

    def describe(self) -> Description:
        return self._can.description

    def generate(self, target: KeyTarget) -> MadeKey:
        row = key_type(target.key_type)
        if row.name not in self._can.description.key_types:
            raise RequestError(Status.NOT_SUPPORTED, f"The token cannot make keys of type {row.name}.")
        return self._make(target, row, lambda seat: make_key(seat.session, row, target, self._can.fixed))

    def import_key(self, target: KeyTarget, format_: str, material: bytes) -> MadeKey:
        row = key_type(target.key_type)
        if row.name not in self._can.description.imports:
            raise RequestError(Status.NOT_SUPPORTED, f"The token cannot take in keys of type {row.name}.")
        return self._make(
            target, row, lambda seat: import_key(seat.session, row, target, format_, material, self._can.fixed)
        )

    def load(self, key_id: bytes, row: KeyType, permissions: int, reference: bytes, binding: bytes) -> int:
        return self._loaded.load(key_id, row, reference)

    def unload(self, handle: int) -> None:
        self._loaded.unload(handle)

    def destroy(self, key_id: bytes, row: KeyType, reference: bytes) -> None:
        told = self._loaded.reference(key_id, row, reference) if reference else None
        self._loaded.unload_key(key_id)
        known = self._sessions.destroy_ephemeral(key_id)
        if not known and (told is None or not told.run):
            place = None if told is None else told.place
            with self._sessions.objects_lock:
                if place is not None:
                    self._sessions.run(lambda seat: find_at(seat.session, place, row).destroy(), key_id)
                else:
                    self._sessions.run(lambda seat: remove_key(seat.session, key_id), key_id)
        self._sessions.forget(key_id)

    def release_owner(self, owner: bytes) -> None:
        if not owner:
            return
        # The keys first: what it costs SoftHSM to close any session grows with the objects that there are in all.
        released = self._sessions.release_owner(owner)
        self._loaded.drop(released)
        self._sessions.forget(*released)
        super().release_owner(owner)

    def list_keys(self) -> list[bytes]:
        with self._sessions.objects_lock:
            return self._sessions.run(lambda seat: list_key_ids(seat.session))

    def close(self) -> None:
        self.streams.close_all()
        self._loaded.clear()
        with self._closing:
            close, self._close = self._close, _nothing
        close()

    # --- signatures and MACs ---------------------------------------------------------------------------------------

    def sign(self, handle: int, row: Algorithm, message: bytes, parameters: SignatureParameters) -> bytes:
        held = self._holding(handle, row, KeyOperation.SIGN)
        plan = self._plan(held, row, parameters)
        return self._use(held, lambda keys: signatures.sign(keys, plan, message))

    def sign_many(
        self, handle: int, row: Algorithm, messages: Sequence[bytes], parameters: SignatureParameters
    ) -> list[bytes]:
        held = self._holding(handle, row, KeyOperation.SIGN)
        plan = self._plan(held, row, parameters)
        return self._use(held, lambda keys: [signatures.sign(keys, plan, message) for message in messages])

    def verify(
        self, handle: int, row: Algorithm, message: bytes, signature: bytes, parameters: SignatureParameters
    ) -> None:
        held = self._holding(handle, row, KeyOperation.VERIFY)
        plan = self._plan(held, row, parameters)
        self._use(held, lambda keys: signatures.verify(keys, plan, message, signature, self._refusals))

    # --- encryption ------------------------------------------------------------------------------------------------

    def encrypt(self, handle: int, row: Algorithm, nonce: bytes, plaintext: bytes, aad: bytes) -> Encrypted:
        held = self._holding(handle, row, KeyOperation.ENCRYPT)
        return self._use(held, lambda keys: encryption.encrypt(keys, row, held.row, nonce, plaintext, aad))

    def decrypt(self, handle: int, row: Algorithm, nonce: bytes, ciphertext: bytes, aad: bytes, tag: bytes) -> bytes:
        held = self._holding(handle, row, KeyOperation.DECRYPT)
        sealed = Encrypted(nonce, ciphertext, tag)
        return self._use(held, lambda keys: encryption.decrypt(keys, row, held.row, sealed, aad, self._refusals))

    # --- agreement -------------------------------------------------------------------------------------------------

    def agree_secret(self, handle: int, row: Algorithm, peer_public_key: bytes) -> bytes:
        held = self._holding(handle, row, KeyOperation.AGREE)
        peer = agreement.peer_point(held.row, peer_public_key, wrapped=self._can.wrapped_points)
        return self._use(held, lambda keys: agreement.agree_readable(keys, held.row, peer))

    def agree_key(
        self, handle: int, row: Algorithm, peer_public_key: bytes, kdf: KdfParameters | None, target: KeyTarget
    ) -> MadeKey:
        held = self._holding(handle, row, KeyOperation.AGREE)
        target_row = key_type(target.key_type)
        if target_row.name not in self._can.secrets:
            raise RequestError(
                Status.NOT_SUPPORTED, f"An agreed secret cannot become a key of type {target_row.name} on the token."
            )
        if kdf is None:
            agreement.check_holds(held.row, target_row)
        else:
            self._derives(kdf, target)
        peer = agreement.peer_point(held.row, peer_public_key, wrapped=self._can.wrapped_points)
        template = secret_template(target, self._can.fixed)

        def agree(seat: Seat) -> KeyObjects:
            with self._sessions.found(seat, held.sought) as keys:
                if kdf is None:
                    return KeyObjects(secret=agreement.agree(keys, peer, target_row, template))
                return KeyObjects(secret=agreement.agree_through(keys, held.row, peer, kdf, target_row, template))

        return self._make(target, target_row, agree)

    # --- key encapsulation -----------------------------------------------------------------------------------------

    def encapsulate(self, handle: int, row: Algorithm) -> Encapsulated:
        held = self._holding(handle, row, KeyOperation.ENCAPSULATE)
        return self._use(held, lambda keys: encapsulation.encapsulate(keys, row))

    def decapsulate(self, handle: int, row: Algorithm, ciphertext: bytes) -> bytes:
        held = self._holding(handle, row, KeyOperation.DECAPSULATE)
        return self._use(held, lambda keys: encapsulation.decapsulate(keys, row, ciphertext, self._refusals))

    # --- derivation ------------------------------------------------------------------------------------------------

    def derive_key(self, handle: int, kdf: KdfParameters, target: KeyTarget) -> MadeKey:
        held = self._holding(handle, algorithm(kdf.algorithm), KeyOperation.DERIVE)
        row = self._derives(kdf, target)
        template = secret_template(target, self._can.fixed)

        def derive(seat: Seat) -> KeyObjects:
            with self._sessions.found(seat, held.sought) as keys:
                return KeyObjects(secret=derivation.derive(keys.secret, kdf, row, template))

        return self._make(target, row, derive)

    def derive_from_secret(self, secret: bytes, kdf: KdfParameters | None, target: KeyTarget) -> MadeKey:
        row = key_type(target.key_type)
        fixed = self._can.fixed
        if kdf is not None:
            value_kdf = kdf
            row = self._derives(kdf, target)
            return self._make(
                target,
                row,
                lambda seat: derivation.derive_from_value(seat.session, secret, value_kdf, row, target, fixed),
            )
        if row.name not in self._can.secrets or row.name not in self._can.description.imports:
            raise RequestError(Status.NOT_SUPPORTED, f"The token cannot take a secret as a key of type {row.name}.")
        if len(secret) != row.bytes:
            raise RequestError(
                Status.INVALID_ARGUMENT,
                f"The secret has {len(secret)} bytes and a key of type {row.name} {row.bytes}; choose a key type of"
                " that size, or a KDF.",
            )
        template = secret_template(target, fixed)
        return self._make(
            target, row, lambda seat: KeyObjects(secret=create_secret(seat.session, row, secret, template))
        )

    # --- wrapping --------------------------------------------------------------------------------------------------

    def wrap(self, handle: int, row: Algorithm, wrapped: int, iv: bytes, aad: bytes) -> bytes:
        under = self._holding(handle, row, KeyOperation.WRAP)
        what = self._loaded.key(wrapped)

        def attempt(seat: Seat) -> bytes:
            with self._sessions.found(seat, what.sought) as key, self._sessions.found(seat, under.sought) as keys:
                return self._can.wrapping.wrap(seat.session, keys, row, under.row, Wrapped(key, what.row), iv, aad)

        with self._sessions.objects_lock:
            return self._sessions.run(attempt)

    def unwrap(
        self,
        handle: int,
        row: Algorithm,
        material: bytes,
        format_: str,
        iv: bytes,
        aad: bytes,
        target: KeyTarget,
    ) -> MadeKey:
        under = self._holding(handle, row, KeyOperation.UNWRAP)
        target_row = key_type(target.key_type)
        if target_row.symmetric and target_row.name not in self._can.secrets:
            raise RequestError(Status.NOT_SUPPORTED, f"The token cannot hold keys of type {target_row.name}.")
        self._can.wrapping.check_form(target_row, format_)
        whole = Material(material, iv, aad)

        def unwrap(seat: Seat) -> KeyObjects:
            with self._sessions.found(seat, under.sought) as keys:
                return self._can.wrapping.unwrap(seat.session, keys, row, under.row, whole, target, target_row)

        return self._make(target, target_row, unwrap)

    def copy(self, handle: int, target: KeyTarget) -> MadeKey:
        held = self._loaded.key(handle)
        if held.row.name != target.key_type:
            raise RequestError(Status.KEY_TYPE_MISMATCH, f"The key is not of type {target.key_type}.")
        sought, fixed = held.sought, self._can.fixed

        def copy(seat: Seat) -> KeyObjects:
            with self._sessions.found(seat, sought) as keys:
                return copy_key(keys, target, fixed)

        return self._make(target, held.row, copy)

    # --- keys of others --------------------------------------------------------------------------------------------

    def examine(self, uri: str, material: bytes) -> ForeignKey:
        if uri == OWN_REFERENCE:
            told = self._loaded.told(material)
            if told.place is None:
                raise RequestError(Status.INVALID_ARGUMENT, "This key was not adopted; hsmbridge made it.")
            sought = told.sought(key_type(told.key_type))
            with self._sessions.objects_lock:
                found = self._sessions.run(lambda seat: adoption.again(seat.session, sought))
            if found is None:
                raise ProviderError(Status.KEY_MATERIAL_MISSING)
            return found.foreign_key()
        return self._find(uri, material).foreign_key()

    def adopt(self, target: KeyTarget, uri: str, material: bytes) -> MadeKey:
        found = self._find(uri, material)
        adoption.check_target(found, target)
        if target.ephemeral:
            raise RequestError(Status.INVALID_ARGUMENT, "A key that is adopted stays where it is; it goes into a slot.")
        reference = Reference(
            serial=self._sessions.identity,
            key_id=target.key_id,
            key_type=found.row.name,
            has_public=found.has_public,
            place=found.place,
        )
        return MadeKey(msgspec.msgpack.encode(reference), found.public_key, Protection.TOKEN)

    def _find(self, uri: str, material: bytes) -> adoption.Found:
        if material:
            raise RequestError(Status.INVALID_ARGUMENT, "A key on a token is named by a PKCS#11 URI, not by a file.")
        wanted = adoption.wanted(uri, self._can.description.token)
        with self._sessions.objects_lock:
            return self._sessions.run(lambda seat: adoption.find(seat.session, wanted))

    # --- without a key ---------------------------------------------------------------------------------------------

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
            if operation not in self._can.claimed.get(row.name, ()):
                raise RequestError(Status.NOT_SUPPORTED, f"The token cannot compute {row.name}.")
            return self._streams.digest(row)
        held = self._holding(handle, row, operation)
        if row.kind is Kind.MAC:
            return self._streams.mac(held.sought, row, operation, self._plan(held, row, parameters))
        if row.kind is Kind.SIGNATURE:
            return self._hashed(held, handle, row, operation, parameters)
        return self._streams.cipher(held.sought, row, operation, nonce, aad)

    def _hashed(
        self, held: LoadedKey, handle: int, row: Algorithm, operation: KeyOperation, parameters: SignatureParameters
    ) -> ProviderStream:
        if row.scheme not in WITHOUT_HASH or parameters.digest_signing or parameters.external_mu:
            raise at_once(row)
        of_digest = msgspec.structs.replace(parameters, digest_signing=True)
        self._plan(held, row, of_digest)

        def finish(digest: bytes, proof: bytes) -> StreamEnd:
            if operation is KeyOperation.SIGN:
                return StreamEnd(self.sign(handle, row, digest, of_digest))
            self.verify(handle, row, digest, proof, of_digest)
            return StreamEnd(b"")

        return HashedFirst(row.hash, finish)

    def digest(self, row: Algorithm, data: bytes) -> bytes:
        mechanism = mechanism_of(row)
        if (
            row.scheme is not Scheme.HASH
            or mechanism is None
            or KeyOperation.DIGEST not in self._can.claimed.get(row.name, ())
        ):
            raise RequestError(Status.NOT_SUPPORTED, f"The token cannot compute {row.name}.")
        return self._sessions.run(lambda seat: seat.session.digest(data, mechanism=mechanism))

    def random(self, length: int) -> bytes:
        if length < 0:
            raise RequestError(Status.INVALID_ARGUMENT, "A number of random bytes is not negative.")
        sizes = [RANDOM_CHUNK] * (length // RANDOM_CHUNK)
        if length % RANDOM_CHUNK:
            sizes.append(length % RANDOM_CHUNK)
        return b"".join(self._sessions.run(lambda seat: [seat.session.generate_random(size * 8) for size in sizes]))

    # --- inside ----------------------------------------------------------------------------------------------------

    def _make(self, target: KeyTarget, row: KeyType, make: Callable[[Seat], KeyObjects]) -> MadeKey:
        tried = False

        def attempt(seat: Seat) -> tuple[bytes, bool]:
            nonlocal tried
            if tried:  # the failed attempt may have left a half
                remove_key(seat.session, target.key_id)
            tried = True
            made = make(seat)
            public = b"" if made.public is None else public_key_info(row, made.public)
            seat.keys[target.key_id] = made
            return public, made.private is None and made.secret is None

        with self._sessions.objects_lock:
            if target.ephemeral:
                (public_key, public_only), run = self._sessions.make_ephemeral(target.owner, target.key_id, attempt)
            else:
                (public_key, public_only), run = self._sessions.run(attempt, target.key_id), b""
        reference = Reference(
            serial=self._sessions.identity,
            key_id=target.key_id,
            key_type=row.name,
            has_public=bool(public_key),
            run=run,
            public_only=public_only,
        )
        return MadeKey(msgspec.msgpack.encode(reference), public_key, Protection.TOKEN)

    def _holding(self, handle: int, row: Algorithm, operation: KeyOperation) -> LoadedKey:
        held = self._loaded.key(handle)
        if operation not in self._can.claimed.get(row.name, ()):
            raise RequestError(Status.NOT_SUPPORTED, f"The token does not offer {row.name}.")
        if held.row.name not in row.key_types:
            raise RequestError(Status.KEY_TYPE_MISMATCH, f"{row.name} does not take a key of type {held.row.name}.")
        return held

    def _plan(self, held: LoadedKey, row: Algorithm, parameters: SignatureParameters) -> signatures.SigningPlan:
        if parameters.salt_length is not None:
            signatures.check_salt(row, held.row, parameters)
        return self._can.plans.plan(row, parameters)

    def _derives(self, kdf: KdfParameters, target: KeyTarget) -> KeyType:
        row = key_type(target.key_type)
        if KeyOperation.DERIVE not in self._can.claimed.get(kdf.algorithm, ()):
            raise derivation.unsupported(kdf)
        if row.name not in self._can.secrets:
            raise RequestError(Status.NOT_SUPPORTED, f"The token cannot derive keys of type {row.name}.")
        return row

    def _use(self, held: LoadedKey, attempt: Callable[[KeyObjects], _T]) -> _T:
        return self._sessions.use(held.sought, attempt)


def _nothing() -> None:
    """What a second `close` does."""
