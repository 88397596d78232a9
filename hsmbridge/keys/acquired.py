"""Keys as the checks hand them out: what the engine needs to have a provider load and use one.

Made by `hsmbridge.keys.access` (slots) and `hsmbridge.keys.ephemeral` (a connection's own keys), by nothing else.
"""

from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from hsmbridge.core.identifiers import KeyId
from hsmbridge.core.key_types import KeyType, key_type
from hsmbridge.core.permissions import KeyOperationPermission
from hsmbridge.core.policy import NoncePolicy, Protection
from hsmbridge.keys.nonces import ChosenNonces, NonceSequence
from hsmbridge.storage.records import Origin, SlotId, SlotRecord, VersionRecord

NO_SLOT = SlotId(b"")


@dataclass(frozen=True, slots=True, kw_only=True)
class EphemeralKey:
    """A key that lives with a connection; no store knows it."""

    key_id: KeyId
    provider: str
    key_type: KeyType
    permissions: KeyOperationPermission
    origin: Origin
    reference: bytes = field(repr=False)
    public_key: bytes = field(repr=False)
    protection: Protection
    binding: bytes = field(default=b"", repr=False)
    nonce_policy: NoncePolicy = NoncePolicy.SERVICE


class Holder(Protocol):
    """Counts who holds an ephemeral key."""

    def give_back(self, hold: int) -> EphemeralKey | None:
        """A hold ends: the key where it was the last one, and the key is to be destroyed."""
        ...


class AcquiredKey(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A key that its holder may use for what it was acquired for.

    Attributes:
        slot_id: `NO_SLOT` for an ephemeral key.
        name: of the slot, for messages and logs; "" for an ephemeral key.
        version: 0 for an ephemeral key.
        permissions: those of the key itself, for LoadCall; not what its holder may do.
        slot: the record under which it was acquired, or None for an ephemeral key.
        nonces: the service's, of an ephemeral key; those of a slot come from `hsmbridge.keys.nonces.ServiceNonces`.
        chosen: of an ephemeral key whose nonces its caller chooses; those of a slot are remembered in the store.
    """

    key_id: KeyId
    slot_id: SlotId
    name: str
    version: int
    provider: str
    reference: bytes
    binding: bytes
    key_type: KeyType
    public_key: bytes
    permissions: KeyOperationPermission
    protection: Protection | None
    slot: SlotRecord | None = None
    nonces: NonceSequence | None = None
    chosen: ChosenNonces | None = None
    holder: Holder | None = None
    hold: int = 0

    def __repr__(self) -> str:
        return f"AcquiredKey({self.name or 'ephemeral'!s}, version={self.version}, provider={self.provider!r})"

    @property
    def nonce_policy(self) -> NoncePolicy:
        """Who chooses the nonces that it encrypts with."""
        if self.slot is not None:
            return self.slot.nonce_policy
        return NoncePolicy.SERVICE if self.chosen is None else self.chosen.policy

    def release(self) -> EphemeralKey | None:
        """End the use. An ephemeral key that nobody holds any more comes back, to be destroyed at its provider."""
        return None if self.holder is None else self.holder.give_back(self.hold)

    @classmethod
    def of_version(cls, record: SlotRecord, version: VersionRecord) -> "AcquiredKey":
        """A slot's version with no check at all: for looking whether its provider still has it."""
        return cls(
            key_id=version.key_id,
            slot_id=record.id,
            name=str(record.name),
            version=version.number,
            provider=version.provider,
            reference=version.reference,
            binding=record.binding(version),
            key_type=key_type(record.key_type),
            public_key=version.public_key,
            permissions=version.permissions,
            protection=version.protection,
            slot=record,
        )
