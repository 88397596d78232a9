"""What the configuration says of this front end."""

from dataclasses import dataclass
from enum import StrEnum, unique


@unique
class TokenView(StrEnum):
    """How the service looks to an application: a token for each provider, or one token for all."""

    PROVIDERS = "providers"
    MERGED = "merged"


@unique
class TemplatePolicy(StrEnum):
    """What becomes of a template that asks for more than one key may do: less is granted, or it is refused."""

    ATTENUATE = "attenuate"
    REFUSE = "refuse"


@unique
class LoginPolicy(StrEnum):
    """NONE: the kernel says who the caller is, and whatever PIN is given is taken. PIN: one has to be given.

    OWN: every caller has PINs of their own for each token, and initialises it by them.
    """

    NONE = "none"
    PIN = "pin"
    OWN = "own"


@dataclass(frozen=True, slots=True, kw_only=True)
class P11KitSettings:
    """How the front end behaves; sizes in bytes, times in seconds.

    Attributes:
        tokens, templates, login: see each.
        pin: the PIN, where all give the same. Never shown.
        trust_stores: whose anchors are shown as trusted certificates.
        version: of the daemon.
        max_data: the most data of one call, and what a multi-part operation may collect.
        max_connections, max_connections_per_principal, max_in_flight: as of the native front end.
        max_sessions: PKCS#11 sessions of one application.
        timeout: that a use of a key may take.
    """

    tokens: TokenView
    templates: TemplatePolicy
    login: LoginPolicy
    pin: bytes
    trust_stores: tuple[str, ...] = ()
    version: str
    max_data: int
    max_connections: int
    max_connections_per_principal: int
    max_in_flight: int
    max_sessions: int
    timeout: float

    def __repr__(self) -> str:
        return f"P11KitSettings(tokens={self.tokens}, templates={self.templates}, login={self.login})"
