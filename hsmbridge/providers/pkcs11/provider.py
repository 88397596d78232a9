"""Keys on a PKCS#11 token: HSM, smart card, SoftHSM. The provider contract over python-pkcs11.

Bound to one token by its serial. It holds no key material; a key that nobody uses costs nothing, and opening
touches none.
"""

import itertools
import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
from hsmbridge.core.errors import ProviderError, RequestError, Status, StoreError
from hsmbridge.core.key_types import KeyType, key_type
from hsmbridge.core.params import KdfParameters, SignatureParameters
from hsmbridge.core.policy import Protection
from hsmbridge.providers.base import Provider
from hsmbridge.providers.pkcs11 import adoption, agreement, derivation, encapsulation, encryption, signatures
from hsmbridge.providers.pkcs11.copying import copy_key
from hsmbridge.providers.pkcs11.importing import create_secret, import_key
from hsmbridge.providers.pkcs11.making import make_key
from hsmbridge.providers.pkcs11.mechanisms import WITHOUT_HASH, mechanism_of
from hsmbridge.providers.pkcs11.objects import KeyObjects, Reference, Sought, find_at, list_key_ids, remove_key
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


@dataclass(frozen=True, slots=True)
class _Held:
    """A loaded key."""

    sought: Sought
    reference: bytes

    @property
    def row(self) -> KeyType:
        return self.sought.row

    def is_as(self, row: KeyType, reference: bytes) -> bool:
        return self.row is row and self.reference == reference


class Pkcs11Provider(Provider):
    """One token. `open_pkcs11` makes it; `close` gives back what that took."""

    def __init__(self, sessions: TokenSessions, capabilities: Capabilities, close: Callable[[], None]) -> None:
        self._sessions = sessions
        self._close = close
        self._can = capabilities
        self._refusals = sessions.quirks.refusals
        self._streams = TokenStreams(sessions, capabilities.fixed)
        # Random, so that a handle of another run means nothing here.
        self._handles = itertools.count(secrets.randbits(60))
        self._held: dict[int, _Held] = {}
        self._by_id: dict[bytes, int] = {}
        self._lock = threading.Lock()

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
        known = self._by_id.get(key_id)
        if known is not None:
            held = self._held.get(known)
            if held is not None and held.is_as(row, reference) and not held.sought.ephemeral:
                return known
        told = self._reference(key_id, row, reference)
        if not told.run:
            self._sessions.seek(told.sought(row))
        with self._lock:
            if told.run and not self._sessions.ephemeral.lives(key_id, told.run):
                raise _ended()
            known = self._by_id.get(key_id)
            if known is None:
                known = next(self._handles)
                self._held[known] = _Held(told.sought(row), reference)
                self._by_id[key_id] = known
            return known

    def unload(self, handle: int) -> None:
        with self._lock:
            held = self._held.pop(handle, None)
            if held is not None:
                self._by_id.pop(held.sought.key_id, None)
        if held is not None:
            self._sessions.forget(held.sought.key_id)

    def destroy(self, key_id: bytes, row: KeyType, reference: bytes) -> None:
        told = self._reference(key_id, row, reference) if reference else None
        handle = self._by_id.get(key_id)
        if handle is not None:
            self.unload(handle)
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
        with self._lock:
            for key_id in self._by_id.keys() & released:
                del self._held[self._by_id.pop(key_id)]
        self._sessions.forget(*released)
        super().release_owner(owner)

    def list_keys(self) -> list[bytes]:
        with self._sessions.objects_lock:
            return self._sessions.run(lambda seat: list_key_ids(seat.session))

    def close(self) -> None:
        self.streams.close_all()
        with self._lock:
            self._held.clear()
            self._by_id.clear()
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
        what = self._held.get(wrapped)
        if what is None:
            raise ProviderError(Status.HANDLE_UNKNOWN)

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
        held = self._held.get(handle)
        if held is None:
            raise ProviderError(Status.HANDLE_UNKNOWN)
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
            told = self._told(material)
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
        self, held: _Held, handle: int, row: Algorithm, operation: KeyOperation, parameters: SignatureParameters
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

    def _reference(self, key_id: bytes, row: KeyType, reference: bytes) -> Reference:
        told = self._told(reference)
        if told.key_id != key_id or told.key_type != row.name:
            raise _tampered("is of another key")
        return told

    def _told(self, reference: bytes) -> Reference:
        try:
            told = msgspec.msgpack.decode(reference, type=Reference)
        except msgspec.DecodeError:
            raise _tampered("cannot be read") from None
        if told.version != 1:
            raise StoreError(Status.STORE_VERSION)
        if told.serial != self._sessions.identity:
            raise ProviderError(
                Status.WRONG_TOKEN,
                f"This key is on the token with serial {told.serial!r}; connected is"
                f" {self._sessions.label!r} with serial {self._sessions.serial!r}. Connect the right one.",
            )
        return told

    def _holding(self, handle: int, row: Algorithm, operation: KeyOperation) -> _Held:
        held = self._held.get(handle)
        if held is None:
            raise ProviderError(Status.HANDLE_UNKNOWN)
        if operation not in self._can.claimed.get(row.name, ()):
            raise RequestError(Status.NOT_SUPPORTED, f"The token does not offer {row.name}.")
        if held.row.name not in row.key_types:
            raise RequestError(Status.KEY_TYPE_MISMATCH, f"{row.name} does not take a key of type {held.row.name}.")
        return held

    def _plan(self, held: _Held, row: Algorithm, parameters: SignatureParameters) -> signatures.SigningPlan:
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

    def _use(self, held: _Held, attempt: Callable[[KeyObjects], _T]) -> _T:
        return self._sessions.use(held.sought, attempt)


def _nothing() -> None:
    """What a second `close` does."""


def _ended() -> ProviderError:
    return ProviderError(
        Status.KEY_MATERIAL_MISSING,
        "This key was ephemeral, and has been destroyed or has ended with the provider that made it.",
    )


def _tampered(what: str) -> StoreError:
    return StoreError(Status.STORE_TAMPERED, f"The reference of this key {what}; restore the store from a backup.")
