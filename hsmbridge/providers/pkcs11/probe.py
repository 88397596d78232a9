"""What a token can do: the rows of the tables, less what its mechanism list lacks, less what fails when tried.

Everything is tried on session objects, which leave no trace, once per token and process. A row that the token
lists but cannot do becomes a note for the operator instead of a claim. On a token that takes no session objects
nothing can be tried and so nothing is claimed.
"""

import secrets
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from pkcs11 import Attribute, Mechanism, Session
from pkcs11.exceptions import PKCS11Error, SessionClosed

from hsmbridge.core.algorithms import ALGORITHMS, Algorithm, Kind, Scheme
from hsmbridge.core.calls import Claim, Description, KeyTarget, TokenIdentity
from hsmbridge.core.errors import DecryptionFailed, HsmBridgeError, SignatureInvalid
from hsmbridge.core.identifiers import new_key_id
from hsmbridge.core.key_types import KEY_TYPES, Family, KeyType
from hsmbridge.core.params import DEFAULT_SIGNATURE
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.core.pkcs11_uri import token_uri
from hsmbridge.core.policy import Protection
from hsmbridge.providers.pkcs11 import agreement, encryption, mechanisms, signatures
from hsmbridge.providers.pkcs11.errors import Cure, ckr_name, cure_for
from hsmbridge.providers.pkcs11.making import import_secret, make_key
from hsmbridge.providers.pkcs11.objects import KeyObjects
from hsmbridge.providers.pkcs11.public_keys import public_key_info
from hsmbridge.providers.pkcs11.quirks import Quirks, quirks_of
from hsmbridge.providers.pkcs11.sessions import TokenSessions
from hsmbridge.providers.pkcs11.templates import Template

_FIXED: tuple[Template, ...] = (
    # In this order: SoftHSM's C_DeriveKey sets nothing more once it has set MODIFIABLE.
    {Attribute.COPYABLE: False, Attribute.MODIFIABLE: False},
    {Attribute.MODIFIABLE: False},
)
_TRIED = P.SIGN | P.VERIFY | P.ENCRYPT | P.DECRYPT | P.DERIVE
_SAMPLE = b"hsmbridge tries what the token says"


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What was found.

    Attributes:
        mechanisms: numbers of all that the token lists.
        claimed: the algorithms that it offers.
        fixed: the attributes that make an object unchangeable, as far as the token takes them.
        wrapped_points: it wants a peer's point in an OCTET STRING.
    """

    description: Description
    mechanisms: frozenset[int]
    claimed: frozenset[str]
    fixed: Template
    wrapped_points: bool


_found: dict[tuple[str, ...], Capabilities] = {}
_found_lock = threading.Lock()


def probed(sessions: TokenSessions) -> Capabilities:
    """What the token behind these sessions can do; tried once per process."""
    identity = identity_of(sessions)
    key = (sessions.module.path, identity.serial, identity.label, identity.model, identity.firmware)
    with _found_lock:
        known = _found.get(key)
        if known is None:
            offered = frozenset(int(mechanism) for mechanism in sessions.token.slot.get_mechanisms())
            known = _found[key] = sessions.run(
                lambda seat: _Trial(seat.session, sessions, offered).capabilities(identity)
            )
        return known


def identity_of(sessions: TokenSessions) -> TokenIdentity:
    """What the token says of itself."""
    token = sessions.token
    identity = TokenIdentity(
        label=token.label,
        serial=sessions.serial,
        manufacturer=token.manufacturer_id,
        model=token.model,
        firmware=".".join(str(part) for part in token.firmware_version),
    )
    return msgspec.structs.replace(identity, uri=token_uri(identity))


class _Trial:
    """One session's trial."""

    def __init__(self, session: Session, sessions: TokenSessions, offered: frozenset[int]) -> None:
        self._session = session
        self._sessions = sessions
        self._offered = offered
        self._quirks: Quirks = quirks_of(sessions.token)
        self._plans = signatures.SigningPlans(offered)
        self._fixed: Template = {}
        self._wrapped_points = False
        self._keys: list[tuple[KeyType, KeyType, KeyObjects]] = []
        self._notes: list[str] = []

    def capabilities(self, identity: TokenIdentity) -> Capabilities:
        try:
            self._fixed = self._try_fixed()
            key_types = set(self._try_key_types())
            self._wrapped_points = self._try_wrapped_points()
            claimed = [row for row in ALGORITHMS.values() if self._claims(row)]
            key_types -= {row.name for row, key_row, keys in self._keys if not self._is_of_use(key_row, keys, claimed)}
            imports = tuple(name for name in KEY_TYPES if name in key_types and self._imports(KEY_TYPES[name]))
            random = self._problem(lambda: self._session.generate_random(256)) == ""
        finally:
            for _, _, keys in self._keys:
                self._problem(partial(_discard, keys))
        if self._sessions.module.logged_in(self._session) is None:
            raise SessionClosed  # what was found says nothing of the token then
        description = Description(
            scheme="pkcs11",
            token=identity,
            key_types=tuple(name for name in KEY_TYPES if name in key_types),
            imports=imports,
            claims=tuple(Claim(row.name, tuple(one.value for one in row.operations)) for row in claimed),
            random=random,
            lists=True,
            protection=Protection.TOKEN,
            notes=(*self._quirks.notes, *self._notes),
        )
        return Capabilities(
            description,
            self._offered,
            frozenset(row.name for row in claimed),
            self._fixed,
            self._wrapped_points,
        )

    # --- key types -------------------------------------------------------------------------------------------------

    def _try_fixed(self) -> Template:
        quick = [row for row in self._offered_key_types() if row.family is not Family.RSA]
        for template in _FIXED:
            if quick and not self._problem(partial(self._make_and_discard, quick[0], template)):
                return template
        self._notes.append("The token does not take CKA_MODIFIABLE: who has its PIN can change what keys may do.")
        return {}

    def _offered_key_types(self) -> list[KeyType]:
        return [row for row in KEY_TYPES.values() if row.key_gen in self._offered]

    def _try_key_types(self) -> Iterator[str]:
        rows = self._offered_key_types()
        for row in rows:
            if row.family is not Family.RSA and not self._problem(partial(self._keep, row, row)):
                yield row.name
        rsa = [row for row in rows if row.family is Family.RSA]
        if rsa:
            yield from self._try_rsa(rsa)

    def _try_rsa(self, rows: list[KeyType]) -> Iterator[str]:
        """One key of a size that is quickly made; for the other sizes the token's word is taken."""
        sizes = self._sessions.token.slot.get_mechanism_info(Mechanism.RSA_PKCS_KEY_PAIR_GEN)
        least, most = sizes.min_key_length or 0, sizes.max_key_length or 0
        small = replace(rows[0], bits=max(self._quirks.small_rsa, least))
        if not self._problem(partial(self._keep, rows[0], small)):
            yield from (row.name for row in rows if least <= row.bits <= most)

    def _imports(self, row: KeyType) -> bool:
        return row.symmetric and not self._problem(partial(self._import_and_discard, row))

    def _import_and_discard(self, row: KeyType) -> None:
        material = secrets.token_bytes(row.bytes)
        _discard(import_secret(self._session, row, _target(row), "raw", material, self._fixed))

    def _keep(self, row: KeyType, made_as: KeyType) -> None:
        self._keys.append((row, made_as, self._made(made_as, self._fixed)))

    def _make_and_discard(self, row: KeyType, fixed: Template) -> None:
        _discard(self._made(row, fixed))

    def _made(self, row: KeyType, fixed: Template) -> KeyObjects:
        return make_key(self._session, row, _target(row), fixed)

    # --- algorithms ------------------------------------------------------------------------------------------------

    def _claims(self, row: Algorithm) -> bool:
        if not mechanisms.is_known(row) or not self._offered.intersection(mechanisms.mechanisms_for(row)):
            return False
        if row.kind is Kind.DIGEST:
            problem = self._problem(lambda: self._try_digest(row))
        else:
            # The largest of several: tokens refuse short keys for long hashes.
            fitting = [entry for entry in self._keys if row.takes(entry[0])]
            if not fitting:
                return False
            _, key_row, keys = max(fitting, key=lambda entry: entry[1].bits)
            problem = self._problem(lambda: _TRIALS[row.kind](self, row, key_row, keys))
        if problem:
            self._notes.append(f"{row.name} is not offered: the token lists it, but answered {problem} when tried.")
        return not problem

    def _is_of_use(self, key_row: KeyType, keys: KeyObjects, claimed: list[Algorithm]) -> bool:
        """Whether some algorithm takes this very key: SoftHSM makes secrets that are too short for all that it has."""
        fitting = [row for row in claimed if row.takes(key_row)]
        return any(not self._problem(partial(_TRIALS[row.kind], self, row, key_row, keys)) for row in fitting)

    def try_signature(self, row: Algorithm, key_row: KeyType, keys: KeyObjects) -> None:
        plan = self._plans.plan(row, DEFAULT_SIGNATURE)
        signature = signatures.sign(keys, plan, _SAMPLE)
        signatures.verify(keys, plan, _SAMPLE, signature)
        try:
            signatures.verify(keys, plan, _SAMPLE[:-1], signature)
        except SignatureInvalid:
            return
        raise _Wrong

    def try_encryption(self, row: Algorithm, key_row: KeyType, keys: KeyObjects) -> None:
        nonce, aad = secrets.token_bytes(row.nonce_size), b"aad" if row.kind is Kind.AEAD else b""
        sealed = encryption.encrypt(keys, row, key_row, nonce, _SAMPLE, aad)
        if encryption.decrypt(keys, row, key_row, nonce, sealed.ciphertext, aad, sealed.tag) != _SAMPLE:
            raise _Wrong
        if row.kind is not Kind.AEAD:
            return
        try:
            encryption.decrypt(keys, row, key_row, nonce, sealed.ciphertext, b"other", sealed.tag)
        except DecryptionFailed:
            return
        raise _Wrong

    def try_agreement(self, row: Algorithm, key_row: KeyType, keys: KeyObjects) -> None:
        if row.scheme is not Scheme.ECDH or keys.public is None:
            raise _Wrong
        ours = load_der_public_key(public_key_info(key_row, keys.public))
        if not isinstance(ours, ec.EllipticCurvePublicKey):
            raise _Wrong
        peer = ec.generate_private_key(ours.curve)
        spki = peer.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        point = agreement.peer_point(key_row, spki, wrapped=self._wrapped_points)
        if agreement.agree_readable(keys, key_row, point) != peer.exchange(ec.ECDH(), ours):
            raise _Wrong

    def _try_digest(self, row: Algorithm) -> None:
        mechanism, expected = mechanisms.mechanism_of(row), mechanisms.hashed(row, _SAMPLE)
        if mechanism is None or self._session.digest(_SAMPLE, mechanism=mechanism) != expected:
            raise _Wrong

    def _try_wrapped_points(self) -> bool:
        """The standard says that a token takes a bare point; some want it wrapped."""
        row = ALGORITHMS["ECDH-P256"]
        for _, key_row, keys in self._keys:
            if row.takes(key_row) and row.ckm in self._offered:
                return bool(self._problem(partial(self.try_agreement, row, key_row, keys)))
        return False

    def _problem(self, act: Callable[[], object]) -> str:
        """What went wrong, or "". Raises where it says nothing of the token's abilities."""
        try:
            act()
        except PKCS11Error as failure:
            if cure_for(failure) is Cure.START_AGAIN:
                raise
            return ckr_name(failure)
        except HsmBridgeError as failure:
            return failure.status.name
        except ValueError as failure:  # python-pkcs11 could not make sense of an attribute
            return type(failure).__name__
        except _Wrong:
            return "something else than it should"
        return ""


class _Wrong(Exception):
    """The token answered, but not what is right."""


_TRIALS: dict[Kind, Callable[[_Trial, Algorithm, KeyType, KeyObjects], None]] = {
    Kind.SIGNATURE: _Trial.try_signature,
    Kind.MAC: _Trial.try_signature,
    Kind.AEAD: _Trial.try_encryption,
    Kind.CIPHER: _Trial.try_encryption,
    Kind.PUBLIC_KEY_ENCRYPTION: _Trial.try_encryption,
    Kind.KEY_AGREEMENT: _Trial.try_agreement,
}


def _target(row: KeyType) -> KeyTarget:
    return KeyTarget(new_key_id(), row.name, permissions=row.permissions & _TRIED, label="probe", ephemeral=True)


def _discard(keys: KeyObjects) -> None:
    for item in (keys.private, keys.secret, keys.public):
        if item is not None:
            item.destroy()
