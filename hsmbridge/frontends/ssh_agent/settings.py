"""What the configuration says of this front end."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SshAgentSettings:
    """How the front end behaves; times in seconds.

    Attributes:
        slots: patterns of NAMESPACE/NAME that the keys here are among, where * stands for anything; none is all.
        forwarding: whether a connection that `ssh` forwards to another machine may sign.
        max_connections, max_connections_per_principal: as of the native front end.
        timeout: that a signature may take.
    """

    slots: tuple[str, ...]
    forwarding: bool
    max_connections: int
    max_connections_per_principal: int
    timeout: float
