"""Keys as PKCS#11 objects: the attributes of slots, versions and ephemeral keys, and matching them with templates.

Everything comes from what the service says of a key; nothing here asks it. Values of private and secret keys are
sensitive whatever a template asked for.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Protocol

from hsmbridge.core import messages as m
from hsmbridge.core.algorithms import Algorithm
from hsmbridge.core.identifiers import CryptoResourceId
from hsmbridge.core.key_types import Family, KeyType, key_type
from hsmbridge.core.lifecycle import USABLE, KeyVersionState
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.core.policy import Role
from hsmbridge.frontends.p11kit.names import key_name
from hsmbridge.frontends.p11kit.numbers import Cka, Cko
from hsmbridge.frontends.p11kit.public_keys import public_attributes
from hsmbridge.wire.p11kit_attributes import Attribute, AttributeKind, AttributeValue, kind_of

_SECRETS: Final = frozenset(
    (
        *(Cka.VALUE, Cka.PRIVATE_EXPONENT, Cka.PRIME_1, Cka.PRIME_2),
        *(Cka.EXPONENT_1, Cka.EXPONENT_2, Cka.COEFFICIENT),
    )
)
PERMISSIONS: Final[Mapping[Cko, Mapping[Cka, P]]] = {
    Cko.PUBLIC_KEY: {Cka.ENCRYPT: P.ENCRYPT, Cka.VERIFY: P.VERIFY, Cka.WRAP: P.WRAP},
    Cko.PRIVATE_KEY: {
        Cka.DECRYPT: P.DECRYPT,
        Cka.SIGN: P.SIGN,
        Cka.UNWRAP: P.UNWRAP,
        Cka.DERIVE: P.DERIVE,
        Cka.EXTRACTABLE: P.EXPORT,
    },
    Cko.SECRET_KEY: {
        Cka.ENCRYPT: P.ENCRYPT,
        Cka.DECRYPT: P.DECRYPT,
        Cka.SIGN: P.SIGN,
        Cka.VERIFY: P.VERIFY,
        Cka.WRAP: P.WRAP,
        Cka.UNWRAP: P.UNWRAP,
        Cka.DERIVE: P.DERIVE,
        Cka.EXTRACTABLE: P.EXPORT,
    },
}
"""By class, the attribute that stands for each permission."""

_SERVING: Final = (KeyVersionState.ACTIVE, KeyVersionState.ROTATED)
_ID_SIZE = 20
_OF_PUBLIC_KEYS: Final = P.ENCRYPT | P.VERIFY | P.WRAP | P.ENCAPSULATE | P.GENERATE


KEPT_ATTRIBUTES: Final = frozenset((Cka.LABEL, Cka.ID, Cka.SUBJECT))
"""What an application may set and change of a key that it administers; they are kept with the slot."""


@dataclass(frozen=True, slots=True)
class Origin:
    """What an object stands for: a version of a slot, an ephemeral key of the connection, or a certificate.

    Attributes:
        slot: NAMESPACE/NAME, or "".
        created: of the slot; another slot of the same name was made at another time.
        version: its number, 0 for an ephemeral key.
        resource: of an ephemeral key.
        certificate: NAMESPACE/NAME, or "".
    """

    slot: str = ""
    created: float = 0.0
    version: int = 0
    resource: CryptoResourceId | None = None
    certificate: str = ""


class PkcsObject(Protocol):
    """One PKCS#11 object.

    Attributes:
        origin: what it stands for.
        kind: its class.
        provider: whose token it is on, "" for every token.
        label, id: CKA_LABEL, CKA_ID.
        session: the handle of the PKCS#11 session that it dies with, 0 for what lasts.
    """

    origin: Origin
    kind: Cko
    provider: str
    label: bytes
    id: bytes
    session: int

    @property
    def on_token(self) -> bool:
        """Whether it lasts."""
        ...

    @property
    def private(self) -> bool:
        """CKA_PRIVATE: only for who has logged in, where there is a login."""
        ...

    @property
    def attributes(self) -> Mapping[int, AttributeValue]:
        """What can be read of it; numbers that travel as bytes are little-endian already."""
        ...

    def is_secret(self, attribute: int, /) -> bool:
        """Whether an attribute is there, and never told (CKR_ATTRIBUTE_SENSITIVE)."""
        ...


class ReadableObject:
    """What objects have alike that last, and that whoever may see them may read and nobody changes."""

    @property
    def on_token(self) -> bool:
        """It lasts."""
        return True

    @property
    def private(self) -> bool:
        """No login is needed to see it."""
        return False

    def is_secret(self, _: int, /) -> bool:
        """Nothing of it is."""
        return False


def matches(one: PkcsObject, template: Sequence[Attribute], offered: int) -> bool:
    """Whether every attribute of a template is one of an object's, with the same value."""
    attributes = one.attributes
    for type_, wanted in template:
        value = attributes.get(type_)
        if value is None or wanted is None:
            return False
        if kind_of(offered, type_) is AttributeKind.BYTE:
            if bool(value) != bool(wanted):
                return False
        elif value != wanted:
            return False
    return True


@dataclass(eq=False)
class KeyObject:
    """A key.

    Attributes:
        origin: the key that it stands for.
        kind: its class.
        row: the key type.
        provider: whose token it is on.
        permissions: what the caller may do with it.
        label, id: CKA_LABEL, CKA_ID.
        spki: the public key, DER, or b"".
        active: its version is the one that new signatures are made with.
        generated: it was made where it is.
        kept: it could never leave, wrapped or not.
        alone: there is no other half: a public key that was imported, or a secret key.
        session: the handle of the PKCS#11 session that an ephemeral key dies with, 0 for a slot's.
        subject: CKA_SUBJECT, of an asymmetric key.
        administered: by the caller, who may change some attributes and destroy it.
        algorithms: the names that its slot allows; empty allows all.
    """

    origin: Origin
    kind: Cko
    row: KeyType
    provider: str
    permissions: P
    label: bytes
    id: bytes
    spki: bytes
    active: bool = True
    generated: bool = False
    kept: bool = False
    alone: bool = False
    session: int = 0
    subject: bytes = b""
    administered: bool = True
    algorithms: tuple[str, ...] = ()

    @property
    def on_token(self) -> bool:
        """Whether it is in a slot."""
        return self.origin.resource is None

    @property
    def private(self) -> bool:
        """CKA_PRIVATE: only for who has logged in, where there is a login."""
        return self.kind is not Cko.PUBLIC_KEY

    @cached_property
    def attributes(self) -> Mapping[int, AttributeValue]:
        """What can be read of it; numbers that travel as bytes are little-endian already."""
        values: dict[int, AttributeValue] = {
            Cka.CLASS: int(self.kind),
            Cka.TOKEN: int(self.on_token),
            Cka.PRIVATE: int(self.private),
            Cka.MODIFIABLE: int(self.administered),
            Cka.COPYABLE: int(not self.on_token),
            Cka.DESTROYABLE: bytes([self.administered]),
            Cka.LABEL: self.label,
            Cka.ID: self.id,
            Cka.KEY_TYPE: 0x10 if self.row.ckk is None else self.row.ckk,
            Cka.START_DATE: b"",
            Cka.END_DATE: b"",
            Cka.DERIVE: 0,
            Cka.LOCAL: int(self.generated),
        }
        for attribute, permission in PERMISSIONS[self.kind].items():
            values[attribute] = int(permission in self.permissions)
        values |= self._asymmetric() if self.kind is not Cko.SECRET_KEY else {Cka.VALUE_LEN: self.row.bytes}
        if self.private:
            values |= {
                Cka.SENSITIVE: 1,
                Cka.ALWAYS_SENSITIVE: int(self.generated),
                Cka.NEVER_EXTRACTABLE: int(self.kept),
                Cka.WRAP_WITH_TRUSTED: 0,
            }
        else:
            values |= {Cka.TRUSTED: 0}
        return values

    def _asymmetric(self) -> dict[int, AttributeValue]:
        values: dict[int, AttributeValue] = {Cka.SUBJECT: self.subject}
        public = dict(public_attributes(self.row, self.spki))
        if self.kind is Cko.PUBLIC_KEY:
            values[Cka.VERIFY_RECOVER] = 0
            if self.row.family is Family.RSA:
                values[Cka.MODULUS_BITS] = self.row.bits
        else:
            public.pop(Cka.VALUE, None)
            values |= {Cka.SIGN_RECOVER: 0, Cka.ALWAYS_AUTHENTICATE: 0}
        values.update(public)
        return values

    def is_secret(self, attribute: int, /) -> bool:
        """Whether an attribute is there, and never told (CKR_ATTRIBUTE_SENSITIVE)."""
        return self.private and attribute in _SECRETS

    def serves(self, row: Algorithm, permission: P) -> bool:
        """Whether its slot allows an algorithm for this use; what exists may be verified and decrypted longest."""
        if permission is P.VERIFY:
            return not self.algorithms or row.name in self.algorithms
        if permission is P.DECRYPT:
            return row.decrypts(self.algorithms)
        return row.makes(self.algorithms)


def objects_of(slot: m.SlotInfo, principal: str) -> Iterator[KeyObject]:
    """The objects of a slot as a principal sees it: for each version that still serves, its key or its two halves."""
    row = key_type(slot.key_type)
    name = key_name(slot.name, principal, slot.attributes)
    mask, administered = P.NONE, False
    for entry in slot.access:
        if entry.principal == principal:
            mask = P(entry.permissions) & P(slot.permissions)
            administered = entry.role is Role.ADMINISTER
    for version in sorted(slot.versions, key=lambda one: (one.state != KeyVersionState.ACTIVE, -one.number)):
        if version.state not in _SERVING or version.unavailable:
            continue
        state = KeyVersionState(version.state)
        permissions = mask & P(version.permissions) & USABLE[state]
        key_id = name.id if name.id is not None else stable_id(version.public_key, f"{slot.name}\0{slot.created}")
        origin = Origin(slot.name, slot.created, version.number)
        kinds = _kinds(row, slot, version)
        for kind in kinds:
            yield KeyObject(
                origin=origin,
                kind=kind,
                row=row,
                provider=version.provider,
                permissions=permissions,
                label=name.label,
                id=key_id,
                spki=version.public_key,
                active=state is KeyVersionState.ACTIVE,
                generated=version.origin == "generated",
                kept=version.origin == "generated" and P.EXPORT not in P(version.permissions) | P(slot.permissions),
                alone=len(kinds) == 1,
                subject=slot.attributes.get(Cka.SUBJECT, b""),
                administered=administered,
                algorithms=slot.algorithms,
            )


def _kinds(row: KeyType, slot: m.SlotInfo, version: m.VersionInfo) -> tuple[Cko, ...]:
    if row.symmetric:
        return (Cko.SECRET_KEY,)
    if version.origin == "imported" and not P(slot.permissions) & ~_OF_PUBLIC_KEYS:
        # Whether its private half came along is not told; where nothing may be done with it, it does not matter.
        return (Cko.PUBLIC_KEY,)
    return (Cko.PRIVATE_KEY, Cko.PUBLIC_KEY)


def stable_id(spki: bytes, otherwise: str) -> bytes:
    """A CKA_ID for a key that nobody gave one: always the same for the same public key, or the same slot."""
    return hashlib.sha256(spki or otherwise.encode()).digest()[:_ID_SIZE]
