"""What the service keeps for one connection: who is at its other end, and which ids it gave out."""

from dataclasses import dataclass, field

from hsmbridge.keys.resources import ConnectionResources


@dataclass(slots=True, eq=False)
class Session:
    """One connection of one principal."""

    principal: str
    resources: ConnectionResources = field(default_factory=ConnectionResources)
