"""What the store holds, as values: slots with their versions and access entries.

Plain frozen data: nothing here reads or writes, and nothing decides who may do what (`hsmbridge.keys`). A slot's
record is always whole: row, versions and access list stand under one MAC and are loaded together.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum, unique
from typing import NewType

import msgspec

from hsmbridge.core.identifiers import KeyId, QualifiedName, new_key_id
from hsmbridge.core.lifecycle import KeyVersionState
from hsmbridge.core.permissions import KeyOperationPermission
from hsmbridge.core.policy import NoncePolicy, Protection, Role

SlotId = NewType("SlotId", bytes)
"""16 random bytes that name a slot for good; a slot made later under the same name has another."""
SLOT_ID_LENGTH = 16

_BINDING_LABEL = "hsmbridge key 1"


@unique
class SlotState(StrEnum):
    """Where a slot stands. PENDING: its first version is being made; the name is taken, nobody sees it yet."""

    PENDING = "pending"
    LIVE = "live"
    DESTROYING = "destroying"
    DESTROYED = "destroyed"


@unique
class Origin(StrEnum):
    """How a key came to be."""

    GENERATED = "generated"
    IMPORTED = "imported"
    DERIVED = "derived"
    AGREED = "agreed"
    ENCAPSULATED = "encapsulated"
    UNWRAPPED = "unwrapped"
    ADOPTED = "adopted"


@unique
class Durability(StrEnum):
    """What nonce leases and remembered nonces survive. Slot changes survive a loss of power whatever it says."""

    POWER_LOSS = "power-loss"
    PROCESS_CRASH = "process-crash"


@dataclass(frozen=True, slots=True)
class AccessEntry:
    """What one principal may do with a slot; `permissions` is a mask within the slot's ceiling."""

    principal: str
    role: Role
    permissions: KeyOperationPermission


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionRecord:
    """One key version.

    Attributes:
        key_id: chosen before the key existed; CKA_ID on a token.
        number: from 1, as callers see it.
        provider: instance name of the provider that holds the key.
        token: serial of the token that the key was begun on; the sweep acts on no other.
        fell_back_from: the preferred provider that was not available when the key was made, or "".
        owner: incarnation of the process that makes the key, while CREATING, else "".
        reference: what the provider needs to load the key; b"" before it is made and after it is destroyed.
        public_key: SubjectPublicKeyInfo in DER, or b"".
        protection: where the material lives; None until it is made.
        created, changed: seconds since 1970, UTC.
    """

    key_id: KeyId
    number: int
    state: KeyVersionState
    provider: str
    permissions: KeyOperationPermission
    created: float
    changed: float
    token: str = ""
    fell_back_from: str = ""
    origin: Origin = Origin.GENERATED
    owner: str = ""
    reference: bytes = field(default=b"", repr=False)
    public_key: bytes = field(default=b"", repr=False)
    protection: Protection | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSlot:
    """A slot to be made; `hsmbridge.keys.slots.plan_slot` builds it from a request and checks it."""

    name: QualifiedName
    key_type: str
    providers: tuple[str, ...]
    permissions: KeyOperationPermission
    creator: str
    algorithms: tuple[str, ...] = ()
    nonce_policy: NoncePolicy = NoncePolicy.SERVICE
    fallback: bool = False
    sign_and_decrypt: bool = False
    derive_to_software: bool = False
    imported_wrapping_key: bool = False
    attributes: tuple[tuple[int, bytes], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NewVersion:
    """A version to be made. Its key id is fixed here, before any provider is asked."""

    provider: str
    permissions: KeyOperationPermission
    origin: Origin = Origin.GENERATED
    token: str = ""
    fell_back_from: str = ""
    key_id: KeyId = field(default_factory=new_key_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotRecord:
    """A slot with everything that stands under its MAC.

    Attributes:
        permissions: the ceiling.
        algorithms: those allowed; empty allows every one that takes the key type.
        creator: the principal that made it.
        generation: raised by each change that a caller can notice (rotate, revoke, destroy, access, permissions).
        revision: raised by every change.
        versions: by number. access: by principal.
        attributes: what applications keep with it, by PKCS#11 number; see `hsmbridge.keys.attributes`.
    """

    id: SlotId
    name: QualifiedName
    state: SlotState
    key_type: str
    providers: tuple[str, ...]
    permissions: KeyOperationPermission
    algorithms: tuple[str, ...]
    nonce_policy: NoncePolicy
    fallback: bool
    sign_and_decrypt: bool
    derive_to_software: bool
    imported_wrapping_key: bool
    creator: str
    generation: int
    revision: int
    created: float
    versions: tuple[VersionRecord, ...]
    access: tuple[AccessEntry, ...]
    attributes: tuple[tuple[int, bytes], ...] = ()

    @property
    def active(self) -> VersionRecord | None:
        """The one ACTIVE version."""
        return next(self.in_state(KeyVersionState.ACTIVE), None)

    def in_state(self, *states: KeyVersionState) -> Iterator[VersionRecord]:
        """The versions in any of `states`, oldest first."""
        return (version for version in self.versions if version.state in states)

    def version(self, number: int) -> VersionRecord | None:
        """The version of that number."""
        return next((version for version in self.versions if version.number == number), None)

    def by_key_id(self, key_id: KeyId) -> VersionRecord | None:
        """The version of that key id."""
        return next((version for version in self.versions if version.key_id == key_id), None)

    def entry_for(self, principal: str) -> AccessEntry | None:
        """The access entry of a principal."""
        return next((entry for entry in self.access if entry.principal == principal), None)

    def binding(self, version: VersionRecord) -> bytes:
        """What a provider authenticates with the material: slot, number, key type and key id of the version.

        Permissions are left out on purpose: they stand under the row's MAC, so that taking one away
        re-encrypts nothing.
        """
        return msgspec.msgpack.encode((_BINDING_LABEL, self.id, version.number, self.key_type, version.key_id))


@dataclass(frozen=True, slots=True)
class SlotListing:
    """Slots found, and the names of those whose record was changed outside of hsmbridge."""

    records: tuple[SlotRecord, ...]
    tampered: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A version whose making or destroying was begun and not ended."""

    slot: SlotRecord
    version: VersionRecord
