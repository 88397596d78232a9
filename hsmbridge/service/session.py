"""What the service keeps for one connection: who is at its other end, and which ids it gave out."""

import secrets
from dataclasses import dataclass, field

import msgspec

from hsmbridge.core.algorithms import Algorithm
from hsmbridge.engine.lanes import Lane
from hsmbridge.keys.access import AcquiredKey, SlotEntry, SlotView
from hsmbridge.keys.certificate_ids import CertificateIds
from hsmbridge.keys.ephemeral import LIMIT
from hsmbridge.keys.resources import ConnectionResources
from hsmbridge.service.open_contexts import CONTEXTS_MAX, OpenContexts
from hsmbridge.service.shared_memory import SharedMemory
from hsmbridge.service.shares import BYTES_MAX, KEYS_MAX, Shares


class Plan:
    """How one use of a slot was granted and is done; good as long as the slot is seen as it was then.

    Attributes:
        entry, view: the slot, and what was known of it when the use was granted.
        key, version: the key version that serves.
        row: the algorithm.
        handle: the key's, at its provider.
        lane: the way there.
    """

    __slots__ = ("entry", "handle", "key", "lane", "row", "version", "view")

    def __init__(
        self, entry: SlotEntry, view: SlotView, key: AcquiredKey, row: Algorithm, handle: int, lane: Lane
    ) -> None:
        self.entry = entry
        self.view = view
        self.key = key
        self.version = key.version
        self.row = row
        self.handle = handle
        self.lane = lane


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """What may be had at once.

    Attributes:
        keys, contexts: by one connection: ephemeral keys that are alive, contexts that are open.
        principal_keys, principal_bytes: by all connections of a principal, as Shares says.
    """

    keys: int = LIMIT
    contexts: int = CONTEXTS_MAX
    principal_keys: int = KEYS_MAX
    principal_bytes: int = BYTES_MAX


DEFAULT_LIMITS = SessionLimits()
"""Where the configuration says nothing."""


@dataclass(slots=True, eq=False)
class Session:
    """One connection of one principal.

    Attributes:
        owner: by which providers know what they have for this connection.
        used: the providers that were asked to have something for it.
        shares: what it has together with the principal's other connections.
        memory: what it shares with its client, or None.
        plans: by kind of request, number of the slot's id, algorithm, and version asked for (0: any); filled by the
            short way.
    """

    principal: str
    shares: Shares = field(default_factory=Shares)
    resources: ConnectionResources = field(default_factory=ConnectionResources)
    memory: SharedMemory | None = None
    certificates: CertificateIds = field(default_factory=CertificateIds)
    contexts: OpenContexts = field(default_factory=OpenContexts)
    owner: bytes = field(default_factory=lambda: secrets.token_bytes(16))
    used: set[str] = field(default_factory=set)
    plans: dict[tuple[type[msgspec.Struct], int, str, int], Plan] = field(default_factory=dict)
