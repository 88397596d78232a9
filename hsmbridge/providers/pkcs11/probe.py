"""What a token can do: the rows of the tables, less what its mechanism list lacks, less what fails when tried.

Everything is tried on session objects, which leave no trace, once per token and process. A row that the token
lists but cannot do becomes a note for the operator instead of a claim. On a token that takes no session objects
nothing can be tried and so nothing is claimed.
"""

import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

import msgspec
from pkcs11 import Attribute, Mechanism, Session
from pkcs11.exceptions import PKCS11Error, SessionClosed

from hsmbridge.core.algorithms import ALGORITHMS, Algorithm, KeyOperation, Kind, Scheme
from hsmbridge.core.calls import Claim, Description, KeyTarget, TokenIdentity
from hsmbridge.core.errors import HsmBridgeError
from hsmbridge.core.identifiers import new_key_id
from hsmbridge.core.key_types import KEY_TYPES, Family, KeyType
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.core.pkcs11_uri import token_uri
from hsmbridge.core.policy import Protection
from hsmbridge.providers.pkcs11 import mechanisms, wrapping_trials
from hsmbridge.providers.pkcs11.errors import Cure, ckr_name, cure_for
from hsmbridge.providers.pkcs11.importing import IMPORTED_FAMILIES, import_key, sample_private_key
from hsmbridge.providers.pkcs11.making import make_key
from hsmbridge.providers.pkcs11.objects import KeyObjects
from hsmbridge.providers.pkcs11.sessions import TokenSessions
from hsmbridge.providers.pkcs11.signatures import SigningPlans
from hsmbridge.providers.pkcs11.templates import Template
from hsmbridge.providers.pkcs11.trials import (
    OPERATIONS,
    STANDS_FOR_ITS_FAMILY,
    TRIALS,
    Bench,
    Sample,
    Wrong,
    try_digest,
)
from hsmbridge.providers.pkcs11.wrapping import Wrapping

_FIXED: tuple[Template, ...] = (
    # In this order: SoftHSM's C_DeriveKey sets nothing more once it has set MODIFIABLE.
    {Attribute.COPYABLE: False, Attribute.MODIFIABLE: False},
    {Attribute.MODIFIABLE: False},
)
_TRIED = P.SIGN | P.VERIFY | P.ENCRYPT | P.DECRYPT | P.DERIVE | P.ENCAPSULATE | P.DECAPSULATE
_WRAPS = (KeyOperation.WRAP, KeyOperation.UNWRAP)
_FAST_SLH_DSA = "SLH-DSA-SHA2-128f"


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What was found.

    Attributes:
        mechanisms: numbers of all that the token lists.
        claimed: the operations that it offers, by algorithm.
        fixed: the attributes that make an object unchangeable, as far as the token takes them.
        wrapped_points: it wants a peer's point in an OCTET STRING.
        plans: how it signs.
        wrapping: how it wraps.
        secrets: the types of secret keys that it holds.
    """

    description: Description
    mechanisms: frozenset[int]
    claimed: Mapping[str, frozenset[KeyOperation]]
    fixed: Template
    wrapped_points: bool
    plans: SigningPlans
    wrapping: Wrapping
    secrets: frozenset[str]


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
        self._quirks = sessions.quirks
        self._fixed: Template = {}
        self._bench = Bench(session, SigningPlans(offered), wrapped_points=False, refusals=self._quirks.refusals)
        self._samples: list[Sample] = []
        self._wrapping_samples: list[Sample] = []
        self._notes: list[str] = []

    def capabilities(self, identity: TokenIdentity) -> Capabilities:
        try:
            self._fixed = self._try_fixed()
            key_types = set(self._try_key_types())
            self._bench = replace(self._bench, wrapped_points=self._try_wrapped_points())
            self._bench = replace(self._bench, plans=self._try_flagged())
            used = {row.name for row in ALGORITHMS.values() if self._claims(row)}
            wrapping = {row.name for row in ALGORITHMS.values() if self._wraps(row)}
            key_types -= {one.row.name for one in self._samples if not self._is_of_use(one, used)}
            imports = tuple(name for name in KEY_TYPES if name in key_types and self._imports(KEY_TYPES[name]))
            private_types = frozenset(self._try_private_types(wrapping, key_types))
            random = self._problem(lambda: self._session.generate_random(256)) == ""
        finally:
            for one in (*self._samples, *self._wrapping_samples):
                self._problem(one.keys.destroy)
        if self._sessions.module.logged_in(self._session) is None:
            raise SessionClosed  # what was found says nothing of the token then
        claimed = dict(self._operations(used, wrapping))
        description = Description(
            scheme="pkcs11",
            token=identity,
            key_types=tuple(name for name in KEY_TYPES if name in key_types),
            imports=imports,
            claims=tuple(Claim(name, tuple(one.value for one in operations)) for name, operations in claimed.items()),
            random=random,
            lists=True,
            protection=Protection.TOKEN,
            notes=(*self._quirks.notes, *self._notes),
            adopts=True,
        )
        return Capabilities(
            description,
            self._offered,
            {name: frozenset(operations) for name, operations in claimed.items()},
            self._fixed,
            self._bench.wrapped_points,
            self._bench.plans,
            Wrapping(self._quirks, self._fixed, private_types, self._bench.wrapped_points),
            frozenset(name for name in key_types if KEY_TYPES[name].symmetric),
        )

    @staticmethod
    def _operations(used: set[str], wrapping: set[str]) -> Iterator[tuple[str, tuple[KeyOperation, ...]]]:
        for row in ALGORITHMS.values():
            operations = (OPERATIONS[row.kind] if row.name in used else ()) + (_WRAPS if row.name in wrapping else ())
            if operations:
                yield row.name, operations

    # --- key types -------------------------------------------------------------------------------------------------

    def _try_fixed(self) -> Template:
        quick = [row for row in self._offered_key_types() if row.family is not Family.RSA]
        for template in _FIXED:
            if Attribute.COPYABLE in template and self._quirks.session_copyable_only:
                continue
            if quick and not self._problem(partial(self._make_and_discard, quick[0], template)):
                return template
        self._notes.append("The token does not take CKA_MODIFIABLE: who has its PIN can change what keys may do.")
        return {}

    def _offered_key_types(self) -> list[KeyType]:
        return [row for row in KEY_TYPES.values() if row.key_gen in self._offered]

    def _try_key_types(self) -> Iterator[str]:
        rows = self._offered_key_types()
        for row in rows:
            if row.family not in STANDS_FOR_ITS_FAMILY and not self._problem(partial(self._keep, row, row)):
                yield row.name
        rsa = [row for row in rows if row.family is Family.RSA]
        if rsa:
            yield from self._try_rsa(rsa)
        slh_dsa = [row for row in rows if row.family is Family.SLH_DSA]
        if slh_dsa and not self._problem(partial(self._keep, KEY_TYPES[_FAST_SLH_DSA], KEY_TYPES[_FAST_SLH_DSA])):
            yield from (row.name for row in slh_dsa)

    def _try_rsa(self, rows: list[KeyType]) -> Iterator[str]:
        """One key of a size that is quickly made; for the other sizes the token's word is taken."""
        sizes = self._sessions.token.slot.get_mechanism_info(Mechanism.RSA_PKCS_KEY_PAIR_GEN)
        least, most = sizes.min_key_length or 0, sizes.max_key_length or 0
        small = self._small_rsa(rows[0], least)
        if not self._problem(partial(self._keep, rows[0], small)):
            yield from (row.name for row in rows if least <= row.bits <= most)

    def _small_rsa(self, row: KeyType, least: int = 0) -> KeyType:
        return replace(row, bits=max(self._quirks.small_rsa, least))

    def _imports(self, row: KeyType) -> bool:
        if not row.symmetric and row.family not in IMPORTED_FAMILIES:
            return False
        if row.family is Family.RSA and row.bits != min(
            one.bits for one in KEY_TYPES.values() if one.family is Family.RSA
        ):
            return self._imports(KEY_TYPES["RSA-2048"])
        return not self._problem(partial(self._import_and_discard, row))

    def _import_and_discard(self, row: KeyType) -> None:
        format_, material = ("raw", secrets.token_bytes(row.bytes)) if row.symmetric else sample_private_key(row)
        import_key(self._session, row, _target(row), format_, material, self._fixed).destroy()

    def _keep(self, row: KeyType, made_as: KeyType) -> None:
        self._samples.append(Sample(row, made_as, self._made(made_as, self._fixed)))

    def _make_and_discard(self, row: KeyType, fixed: Template) -> None:
        self._made(row, fixed).destroy()

    def _made(self, row: KeyType, fixed: Template) -> KeyObjects:
        return make_key(self._session, row, _target(row), fixed)

    # --- algorithms ------------------------------------------------------------------------------------------------

    def _claims(self, row: Algorithm) -> bool:
        if row.kind is Kind.KEY_WRAP or not mechanisms.is_known(row):
            return False
        if not self._offered.intersection(mechanisms.mechanisms_for(row)):
            return False
        if row.kind is Kind.DIGEST:
            problem = self._problem(lambda: try_digest(self._bench, row))
        else:
            sample = self._sample_for(row)
            if sample is None:
                return False
            if row.scheme is Scheme.SLH_DSA:
                row = ALGORITHMS[sample.row.name]
            problem = self._problem(lambda: TRIALS[row.kind](self._bench, row, sample))
        if problem:
            self._notes.append(f"{row.name} is not offered: the token lists it, but answered {problem} when tried.")
        return not problem

    def _sample_for(self, row: Algorithm) -> Sample | None:
        """The largest key of several, since tokens refuse short keys for long hashes."""
        fitting = [one for one in self._samples if row.takes(one.row)]
        if row.scheme is Scheme.SLH_DSA:
            fitting = [one for one in self._samples if one.row.family is Family.SLH_DSA]
        return max(fitting, key=lambda one: one.made_as.bits, default=None)

    def _is_of_use(self, sample: Sample, used: set[str]) -> bool:
        """Whether some algorithm takes this very key: SoftHSM makes secrets that are too short for all that it has."""
        fitting = [row for row in ALGORITHMS.values() if row.name in used and row.takes(sample.row)]
        return any(not self._problem(partial(TRIALS[row.kind], self._bench, row, sample)) for row in fitting)

    def _try_flagged(self) -> SigningPlans:
        """EdDSA rows for which the token wants CK_EDDSA_PARAMS."""
        flagged = set()
        for row in ALGORITHMS.values():
            sample = self._sample_for(row) if row.scheme is Scheme.EDDSA and row.ckm in self._offered else None
            if sample is not None and self._problem(partial(TRIALS[row.kind], self._bench, row, sample)):
                flagged.add(row.name)
        return SigningPlans(self._offered, frozenset(flagged), self._quirks.longest)

    def _try_wrapped_points(self) -> bool:
        """The standard says that a token takes a bare point; some want it wrapped."""
        row = ALGORITHMS["ECDH-P256"]
        sample = self._sample_for(row)
        if sample is None or row.ckm not in self._offered:
            return False
        return bool(self._problem(partial(TRIALS[row.kind], self._bench, row, sample)))

    # --- wrapping --------------------------------------------------------------------------------------------------

    def _wraps(self, row: Algorithm) -> bool:
        if row.scheme not in mechanisms.WRAPPING_SCHEMES:
            return False
        needed = mechanisms.RSA_AES_NEEDS if row.scheme is Scheme.RSA_AES_KEY_WRAP else (row.ckm,)
        if not all(self._quirks.renumbered.get(number or 0, number) in self._offered for number in needed):
            return False
        under = self._wrapping_sample(row)
        return under is not None and not self._problem(
            lambda: wrapping_trials.try_secret(self._session, self._quirks, row, under)
        )

    def _wrapping_sample(self, row: Algorithm) -> Sample | None:
        made = {one.row.name for one in self._samples}
        key_row = next((KEY_TYPES[name] for name in row.key_types if name in made), None)
        if key_row is None:
            return None
        for one in self._wrapping_samples:
            if one.row is key_row:
                return one
        as_row = self._small_rsa(key_row) if key_row.family is Family.RSA else key_row

        def keep() -> None:
            keys = wrapping_trials.wrapping_key(self._session, as_row, self._fixed)
            self._wrapping_samples.append(Sample(key_row, as_row, keys))

        return None if self._problem(keep) else self._wrapping_samples[-1]

    def _try_private_types(self, wrapping: set[str], key_types: set[str]) -> Iterator[str]:
        """Key pairs that come back from AES-KWP, or where it has none from an AEAD, with their public half."""
        kinds = (Scheme.KEY_WRAP_PADDED, Scheme.GCM)
        row = next((ALGORITHMS[name] for kind in kinds for name in wrapping if ALGORITHMS[name].scheme is kind), None)
        under = None if row is None else self._wrapping_sample(row)
        if row is None or under is None:
            return
        probing = Wrapping(self._quirks, self._fixed, frozenset(), self._bench.wrapped_points)
        for one in self._samples:
            if one.row.symmetric or one.row.name not in key_types or one.row.family is Family.SLH_DSA:
                continue
            if not self._problem(partial(wrapping_trials.try_private, probing, self._session, row, under, one.made_as)):
                family = [name for name in key_types if KEY_TYPES[name].family is one.row.family]
                yield from family if one.row.family is Family.RSA else [one.row.name]

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
        except Wrong:
            return "something else than it should"
        return ""


def _target(row: KeyType) -> KeyTarget:
    return KeyTarget(new_key_id(), row.name, permissions=row.permissions & _TRIED, label="probe", ephemeral=True)
