"""Keys on a PKCS#11 token: HSM, smart card, SoftHSM. The provider contract over python-pkcs11.

Bound to one token by its serial. It holds no key material; a key that nobody uses costs nothing, and opening
touches none.
"""

import itertools
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from hsmbridge.core.algorithms import Algorithm, Scheme
from hsmbridge.core.calls import Description, Encrypted, KeyTarget, MadeKey
from hsmbridge.core.errors import ProviderError, RequestError, Status, StoreError
from hsmbridge.core.key_types import KeyType, key_type
from hsmbridge.core.params import KdfParameters, SignatureParameters
from hsmbridge.core.policy import Protection
from hsmbridge.providers.base import Provider
from hsmbridge.providers.pkcs11 import agreement, encryption, signatures
from hsmbridge.providers.pkcs11.making import import_secret, make_key
from hsmbridge.providers.pkcs11.mechanisms import mechanism_of
from hsmbridge.providers.pkcs11.objects import KeyObjects, Reference, list_key_ids, remove_key
from hsmbridge.providers.pkcs11.pool import Seat
from hsmbridge.providers.pkcs11.probe import Capabilities
from hsmbridge.providers.pkcs11.public_keys import public_key_info
from hsmbridge.providers.pkcs11.sessions import TokenSessions
from hsmbridge.providers.pkcs11.templates import secret_template

RANDOM_CHUNK = 65536
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Held:
    """A loaded key."""

    key_id: bytes
    row: KeyType
    reference: bytes
    ephemeral: bool

    def is_as(self, row: KeyType, reference: bytes) -> bool:
        return self.row is row and self.reference == reference


class Pkcs11Provider(Provider):
    """One token. `open_pkcs11` makes it; `close` gives back what that took."""

    def __init__(self, sessions: TokenSessions, capabilities: Capabilities, close: Callable[[], None]) -> None:
        self._sessions = sessions
        self._close = close
        self._can = capabilities
        self._plans = signatures.SigningPlans(capabilities.mechanisms)
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
            target, row, lambda seat: import_secret(seat.session, row, target, format_, material, self._can.fixed)
        )

    def load(self, key_id: bytes, row: KeyType, permissions: int, reference: bytes, binding: bytes) -> int:
        known = self._by_id.get(key_id)
        if known is not None:
            held = self._held.get(known)
            if held is not None and held.is_as(row, reference) and not held.ephemeral:
                return known
        told = self._reference(key_id, row, reference)
        if told.run and not self._sessions.is_this_run(told.run):
            raise _ended()
        try:
            self._sessions.seek(key_id, ephemeral=bool(told.run))
        except ProviderError as failure:
            if failure.status is Status.HANDLE_UNKNOWN:
                raise _ended() from failure
            raise
        with self._lock:
            known = self._by_id.get(key_id)
            if known is None:
                known = next(self._handles)
                self._held[known] = _Held(key_id, row, reference, bool(told.run))
                self._by_id[key_id] = known
            return known

    def unload(self, handle: int) -> None:
        with self._lock:
            held = self._held.pop(handle, None)
            if held is not None:
                self._by_id.pop(held.key_id, None)
        if held is not None:
            self._sessions.forget(held.key_id)

    def destroy(self, key_id: bytes, row: KeyType, reference: bytes) -> None:
        run = self._reference(key_id, row, reference).run if reference else b""
        handle = self._by_id.get(key_id)
        if handle is not None:
            self.unload(handle)
        with self._sessions.objects_lock:
            if not run:
                self._sessions.run(lambda seat: remove_key(seat.session, key_id), key_id)
            elif self._sessions.is_this_run(run):
                self._sessions.run_ephemeral(lambda seat: remove_key(seat.session, key_id))
        self._sessions.forget(key_id)

    def list_keys(self) -> list[bytes]:
        with self._sessions.objects_lock:
            return self._sessions.run(lambda seat: list_key_ids(seat.session))

    def close(self) -> None:
        with self._lock:
            self._held.clear()
            self._by_id.clear()
            close, self._close = self._close, _nothing
        close()

    # --- signatures and MACs ---------------------------------------------------------------------------------------

    def sign(self, handle: int, row: Algorithm, message: bytes, parameters: SignatureParameters) -> bytes:
        held = self._holding(handle, row)
        plan = self._plan(held, row, parameters)
        return self._use(held, lambda keys: signatures.sign(keys, plan, message))

    def verify(
        self, handle: int, row: Algorithm, message: bytes, signature: bytes, parameters: SignatureParameters
    ) -> None:
        held = self._holding(handle, row)
        plan = self._plan(held, row, parameters)
        self._use(held, lambda keys: signatures.verify(keys, plan, message, signature))

    # --- encryption ------------------------------------------------------------------------------------------------

    def encrypt(self, handle: int, row: Algorithm, nonce: bytes, plaintext: bytes, aad: bytes) -> Encrypted:
        held = self._holding(handle, row)
        return self._use(held, lambda keys: encryption.encrypt(keys, row, held.row, nonce, plaintext, aad))

    def decrypt(self, handle: int, row: Algorithm, nonce: bytes, ciphertext: bytes, aad: bytes, tag: bytes) -> bytes:
        held = self._holding(handle, row)
        return self._use(held, lambda keys: encryption.decrypt(keys, row, held.row, nonce, ciphertext, aad, tag))

    # --- agreement -------------------------------------------------------------------------------------------------

    def agree_secret(self, handle: int, row: Algorithm, peer_public_key: bytes) -> bytes:
        held = self._agreeing(handle, row)
        peer = agreement.peer_point(held.row, peer_public_key, wrapped=self._can.wrapped_points)
        return self._use(held, lambda keys: agreement.agree_readable(keys, held.row, peer))

    def agree_key(
        self, handle: int, row: Algorithm, peer_public_key: bytes, kdf: KdfParameters | None, target: KeyTarget
    ) -> MadeKey:
        held = self._agreeing(handle, row)
        if kdf is not None:
            raise RequestError(
                Status.NOT_SUPPORTED,
                f"The token cannot apply {kdf.algorithm} to an agreed secret; take the secret itself as the key,"
                " or a slot that says derive_to_software.",
            )
        target_row = key_type(target.key_type)
        agreement.check_holds(held.row, target_row)
        peer = agreement.peer_point(held.row, peer_public_key, wrapped=self._can.wrapped_points)
        template = secret_template(target, self._can.fixed)

        def agree(seat: Seat) -> KeyObjects:
            keys = self._sessions.objects(seat, held.key_id, ephemeral=held.ephemeral)
            return KeyObjects(secret=agreement.agree(keys, peer, target_row, template))

        return self._make(target, target_row, agree)

    # --- without a key ---------------------------------------------------------------------------------------------

    def digest(self, row: Algorithm, data: bytes) -> bytes:
        mechanism = mechanism_of(row)
        if row.scheme is not Scheme.HASH or mechanism is None or row.name not in self._can.claimed:
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

        def attempt(seat: Seat) -> bytes:
            nonlocal tried
            if tried:  # the failed attempt may have left a half
                remove_key(seat.session, target.key_id)
            tried = True
            made = make(seat)
            public = b"" if made.public is None else public_key_info(row, made.public)
            if not target.ephemeral:  # those are used in other sessions than the one that they live in
                seat.keys[target.key_id] = made
            return public

        with self._sessions.objects_lock:
            if target.ephemeral:
                public_key, run = self._sessions.run_ephemeral(attempt)
            else:
                public_key, run = self._sessions.run(attempt, target.key_id), b""
        reference = Reference(
            serial=self._sessions.serial,
            key_id=target.key_id,
            key_type=row.name,
            has_public=bool(public_key),
            run=run,
        )
        return MadeKey(msgspec.msgpack.encode(reference), public_key, Protection.TOKEN)

    def _reference(self, key_id: bytes, row: KeyType, reference: bytes) -> Reference:
        try:
            told = msgspec.msgpack.decode(reference, type=Reference)
        except msgspec.DecodeError:
            raise _tampered("cannot be read") from None
        if told.version != 1:
            raise StoreError(Status.STORE_VERSION)
        if told.key_id != key_id or told.key_type != row.name:
            raise _tampered("is of another key")
        if told.serial != self._sessions.serial:
            raise ProviderError(
                Status.WRONG_TOKEN,
                f"This key is on the token with serial {told.serial!r}; connected is"
                f" {self._sessions.label!r} with serial {self._sessions.serial!r}. Connect the right one.",
            )
        return told

    def _holding(self, handle: int, row: Algorithm) -> _Held:
        held = self._held.get(handle)
        if held is None:
            raise ProviderError(Status.HANDLE_UNKNOWN)
        if row.name not in self._can.claimed:
            raise RequestError(Status.NOT_SUPPORTED, f"The token does not offer {row.name}.")
        if held.row.name not in row.key_types:
            raise RequestError(Status.KEY_TYPE_MISMATCH, f"{row.name} does not take a key of type {held.row.name}.")
        return held

    def _plan(self, held: _Held, row: Algorithm, parameters: SignatureParameters) -> signatures.SigningPlan:
        if parameters.salt_length is not None:
            signatures.check_salt(row, held.row, parameters)
        return self._plans.plan(row, parameters)

    def _agreeing(self, handle: int, row: Algorithm) -> _Held:
        held = self._holding(handle, row)
        if row.scheme is not Scheme.ECDH:
            raise RequestError(Status.NOT_SUPPORTED, f"This provider cannot agree with {row.name}.")
        return held

    def _use(self, held: _Held, attempt: Callable[[KeyObjects], _T]) -> _T:
        return self._sessions.use(held.key_id, attempt, ephemeral=held.ephemeral)


def _nothing() -> None:
    """What a second `close` does."""


def _ended() -> ProviderError:
    return ProviderError(
        Status.KEY_MATERIAL_MISSING,
        "This key was ephemeral, and has been destroyed or has ended with the provider that made it.",
    )


def _tampered(what: str) -> StoreError:
    return StoreError(Status.STORE_TAMPERED, f"The reference of this key {what}; restore the store from a backup.")
