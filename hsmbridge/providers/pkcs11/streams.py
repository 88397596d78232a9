"""Operations on data that comes in pieces, on a token: each in a session of its own, outside of the pool.

Signatures of schemes that hash first are made of a digest that is computed here, as tokens without the combined
mechanism want it anyway, and hold no session. AEADs only encrypt here: tokens differ in whether they give out
plaintext before the tag was verified, so the caller collects what is to be decrypted.

A mechanism list does not say what a token does in pieces (NSS softokn has AES-GCM at once only), so each row is tried
on a key of its own when it is first asked for.
"""

import logging
import secrets
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol, Self, TypeVar, cast

from pkcs11 import Object, Session
from pkcs11.exceptions import DeviceMemory, PKCS11Error, SessionCount

from hsmbridge.core.algorithms import Algorithm, KeyOperation, Kind, Scheme
from hsmbridge.core.calls import KeyTarget, StreamEnd
from hsmbridge.core.errors import (
    DecryptionFailed,
    HsmBridgeError,
    ProviderError,
    RequestError,
    SignatureInvalid,
    Status,
)
from hsmbridge.core.identifiers import new_key_id
from hsmbridge.core.key_types import KeyType
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.providers.pkcs11 import encryption, signatures
from hsmbridge.providers.pkcs11.errors import Cure
from hsmbridge.providers.pkcs11.login import open_session
from hsmbridge.providers.pkcs11.making import make_key
from hsmbridge.providers.pkcs11.mechanisms import mechanism_of, not_permitted
from hsmbridge.providers.pkcs11.multipart import Multipart
from hsmbridge.providers.pkcs11.objects import KeyObjects, Sought
from hsmbridge.providers.pkcs11.parameters import NO_PARAMETER, Parameter
from hsmbridge.providers.pkcs11.pool import Seat
from hsmbridge.providers.pkcs11.sessions import TokenSessions
from hsmbridge.providers.pkcs11.templates import Template
from hsmbridge.providers.streams import ProviderStream

SESSIONS: Final = 64
"""Sessions for streams at a time: closing one costs some tokens time in proportion to how many are open."""

_SAMPLE: Final = b"hsmbridge tries what the token does with data that comes in several pieces" * 3
_CIPHERS: Final = frozenset({Scheme.CBC, Scheme.CTR, Scheme.CFB})
_PASSING: Final = frozenset({Cure.NEW_SESSION, Cure.START_AGAIN})
_T = TypeVar("_T")
_log = logging.getLogger(__name__)


class _Handled(Protocol):
    handle: int


class TokenStreams:
    """Opens streams on one token."""

    def __init__(self, sessions: TokenSessions, fixed: Template) -> None:
        """Args: sessions of the token, and what makes a key on it unchangeable."""
        self._sessions = sessions
        self._fixed = fixed
        self._room = threading.BoundedSemaphore(SESSIONS)
        self._tried: dict[tuple[str, KeyOperation], bool] = {}

    def cipher(
        self, sought: Sought, row: Algorithm, operation: KeyOperation, nonce: bytes, aad: bytes
    ) -> ProviderStream:
        """Encrypt, or decrypt without authentication. Raises RequestError (NOT_SUPPORTED)."""
        mechanism = mechanism_of(row)
        encrypts = operation is KeyOperation.ENCRYPT
        if mechanism is None or not (row.scheme in _CIPHERS or (row.scheme is Scheme.GCM and encrypts)):
            raise at_once(row)
        encryption.check_nonce(row, nonce, aad)
        self._check_does(row, operation, lambda seat: _try_cipher(self._trial(seat, sought.row), row, operation))
        parameter = encryption.cipher_parameter(row, nonce, aad, 0)
        return self._with_key(sought, row, operation, mechanism, parameter)

    def mac(
        self, sought: Sought, row: Algorithm, operation: KeyOperation, plan: signatures.SigningPlan
    ) -> ProviderStream:
        """Compute or verify a MAC."""
        if plan.prepare is not None:
            raise at_once(row)
        self._check_does(row, operation, lambda seat: _try_mac(self._trial(seat, sought.row), plan, operation))
        return self._with_key(sought, row, operation, plan.mechanism, plan.parameter)

    def digest(self, row: Algorithm) -> ProviderStream:
        """Hash. Raises RequestError (NOT_SUPPORTED)."""
        mechanism = mechanism_of(row)
        if mechanism is None:
            raise at_once(row)
        self._check_does(row, KeyOperation.DIGEST, lambda seat: _try_digest(_Trial(self._sessions, seat), row))
        return self._opened(
            lambda make: self._sessions.run(lambda _: make(row, KeyOperation.DIGEST, mechanism, NO_PARAMETER, 0))
        )

    def _with_key(
        self, sought: Sought, row: Algorithm, operation: KeyOperation, mechanism: int, parameter: Parameter
    ) -> ProviderStream:
        def begin(make: "_Make") -> _TokenStream:
            def attempt(keys: KeyObjects) -> _TokenStream:
                return make(row, operation, mechanism, parameter, _handle(keys.secret))

            return self._sessions.use(sought, attempt)

        return self._opened(begin)

    def _opened(self, begin: "Callable[[_Make], _TokenStream]") -> ProviderStream:
        if not self._room.acquire(blocking=False):
            raise RequestError(Status.NOT_SUPPORTED, "The token has no session left for data that comes in pieces.")

        def make(
            row: Algorithm, operation: KeyOperation, mechanism: int, parameter: Parameter, key: int
        ) -> _TokenStream:
            return _TokenStream(self._sessions, row, operation, mechanism, parameter, key, self._room.release)

        try:
            return begin(make)
        except BaseException:
            self._room.release()
            raise

    def _check_does(self, row: Algorithm, operation: KeyOperation, attempt: Callable[[Seat], bool]) -> None:
        """Raises RequestError (NOT_SUPPORTED) where the token does not do in pieces what it does at once."""
        asked = row.name, operation
        found = self._tried.get(asked)
        if found is None:
            found = self._tried[asked] = self._does(attempt)
            if not found:
                _log.info("token %r: %s %s takes its data at once", self._sessions.label, operation, row.name)
        if not found:
            raise at_once(row)

    def _does(self, attempt: Callable[[Seat], bool]) -> bool:
        def outcome(seat: Seat) -> bool:
            try:
                return attempt(seat)
            except PKCS11Error as failure:
                if isinstance(failure, SessionCount | DeviceMemory) or self._sessions.cure(failure) in _PASSING:
                    raise  # that says nothing of what the token does
                return False
            except HsmBridgeError:
                return False

        with self._sessions.objects_lock:
            return self._sessions.run(outcome)

    def _trial(self, seat: Seat, key_row: KeyType) -> "_Trial":
        permissions = key_row.permissions & (P.SIGN | P.VERIFY | P.ENCRYPT | P.DECRYPT)
        target = KeyTarget(new_key_id(), key_row.name, int(permissions), label="probe", ephemeral=True)
        return _Trial(self._sessions, seat, key_row, make_key(seat.session, key_row, target, self._fixed))


class _Trial:
    """A key that is tried with, and then gone."""

    def __init__(
        self, sessions: TokenSessions, seat: Seat, key_row: KeyType | None = None, keys: KeyObjects | None = None
    ) -> None:
        self._sessions = sessions
        self._seat = seat
        self._key_row = key_row
        self._keys = keys

    @property
    def seat(self) -> Seat:
        return self._seat

    @property
    def key(self) -> tuple[KeyType, KeyObjects]:
        if self._key_row is None or self._keys is None:
            raise RequestError(Status.NOT_SUPPORTED)
        return self._key_row, self._keys

    def run(
        self, operation: KeyOperation, mechanism: int, parameter: Parameter, data: bytes, proof: bytes = b""
    ) -> bytes:
        """An operation over `data` in three pieces; the output, b"" for a proof that was accepted."""
        session = open_session(self._sessions.token)
        try:
            key = 0 if self._keys is None else _handle(self._keys.secret)
            multipart = self._sessions.module.multipart(session, operation, mechanism, parameter, key)
            output = b"".join([multipart.update(piece) for piece in (data[:7], data[7:64], data[64:])])
            if operation is KeyOperation.VERIFY:
                multipart.verify(proof)
                return output
            return output + multipart.finish()
        finally:
            with suppress(PKCS11Error):
                session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._keys is not None and self._keys.secret is not None:
            with suppress(PKCS11Error):
                self._keys.secret.destroy()


def _try_cipher(trial: _Trial, row: Algorithm, operation: KeyOperation) -> bool:
    with trial:
        key_row, keys = trial.key
        mechanism = mechanism_of(row)
        if mechanism is None:
            return False
        iv, aad = secrets.token_bytes(row.nonce_size), b"aad" if row.kind is Kind.AEAD else b""
        whole = encryption.encrypt(keys, row, key_row, iv, _SAMPLE, aad)
        parameter = encryption.cipher_parameter(row, iv, aad, 0)
        if operation is KeyOperation.ENCRYPT:
            return trial.run(operation, mechanism, parameter, _SAMPLE) == whole.ciphertext + whole.tag
        return trial.run(operation, mechanism, parameter, whole.ciphertext) == _SAMPLE


def _try_mac(trial: _Trial, plan: signatures.SigningPlan, operation: KeyOperation) -> bool:
    with trial:
        _, keys = trial.key
        whole = signatures.sign(keys, plan, _SAMPLE)
        output = trial.run(operation, plan.mechanism, plan.parameter, _SAMPLE, whole)
        return output == (whole if operation is KeyOperation.SIGN else b"")


def _try_digest(trial: _Trial, row: Algorithm) -> bool:
    mechanism = mechanism_of(row)
    if mechanism is None:
        return False
    whole = trial.seat.session.digest(_SAMPLE, mechanism=mechanism)
    return trial.run(KeyOperation.DIGEST, mechanism, NO_PARAMETER, _SAMPLE) == whole


class _TokenStream(ProviderStream):
    """One operation in a session of its own."""

    def __init__(
        self,
        sessions: TokenSessions,
        row: Algorithm,
        operation: KeyOperation,
        mechanism: int,
        parameter: Parameter,
        key: int,
        leave: Callable[[], None],
    ) -> None:
        # For who sits on a session of the pool: the module is not initialised again meanwhile.
        self._sessions = sessions
        self._row = row
        self._operation = operation
        self._generation = sessions.module.generation
        self._session: Session = open_session(sessions.token)
        self._leave = leave
        try:
            self._multipart: Multipart = sessions.module.multipart(self._session, operation, mechanism, parameter, key)
        except BaseException:
            self._session.close()
            raise

    def update(self, data: bytes) -> bytes:
        return self._aside(lambda: self._multipart.update(data))

    def finish(self, proof: bytes) -> StreamEnd:
        if self._operation is KeyOperation.VERIFY:
            if len(proof) != self._row.output_size:  # NSS softokn takes a MAC that was cut
                raise SignatureInvalid(Status.SIGNATURE_INVALID)
            self._aside(lambda: self._multipart.verify(proof))
            return StreamEnd(b"")
        output = self._aside(self._multipart.finish)
        if self._row.kind is not Kind.AEAD:
            return StreamEnd(output)
        cut = len(output) - self._row.tag_size
        if cut < 0:
            raise ProviderError(Status.PROVIDER_FAILED, origin=f"{self._row.name}: the token gave no tag")
        return StreamEnd(output[:cut], output[cut:])

    def close(self) -> None:
        try:
            with suppress(ProviderError):
                self._aside(self._close_session)
        finally:
            self._leave()

    def _close_session(self) -> None:
        with suppress(PKCS11Error):
            self._session.close()

    def _aside(self, work: Callable[[], _T]) -> _T:
        return self._sessions.aside(self._generation, work, self._verdict)

    def _verdict(self, failure: PKCS11Error) -> DecryptionFailed | SignatureInvalid | None:
        if self._operation is KeyOperation.VERIFY and self._sessions.quirks.refusals.data(failure):
            return SignatureInvalid(Status.SIGNATURE_INVALID)
        if self._operation is KeyOperation.DECRYPT and self._sessions.quirks.refusals.data(failure):
            return DecryptionFailed(Status.DECRYPTION_FAILED)
        return None


_Make = Callable[[Algorithm, KeyOperation, int, Parameter, int], _TokenStream]


def at_once(row: Algorithm) -> RequestError:
    """What is answered where the data must come at once."""
    return RequestError(Status.NOT_SUPPORTED, f"{row.name} takes its data at once on this token.")


def _handle(key: Object | None) -> int:
    if key is None:
        raise not_permitted("work on data in pieces")
    # python-pkcs11's own types do not tell of the attribute that its objects have.
    return cast(_Handled, key).handle
