"""Everything a client is told before it connects; a value, so that it can be changed by `dataclasses.replace` only."""

from collections.abc import Callable
from dataclasses import dataclass, field

from est.client.address import EstAddress
from est.csr.demands import DemandPolicy
from est.csr.linking import Link
from est.http.authorization import Credentials
from est.tls.connection import ClientIdentity, TlsLimits
from est.trust.anchors import TrustAnchors


def _refuse_redirect(_origin: str) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class ClientConfiguration:
    """How a client behaves.

    Attributes:
        identity: for the TLS handshake; None for HTTP authentication alone.
        identities: where `identity` is None, to choose from by the CAs and signatures that the server asks for.
        credentials: sent only to a server that is authenticated and authorised, and only when it asks.
        timeout: seconds for one operation, all its connections and answers included.
        allow_redirect: asked before a redirect to another origin is followed; credentials never go there.
        lenient: read bodies that are DER or PEM in place of base64.
        wrap: the length of base64 lines in requests; 0 for one line.
        accept_differences: hand on a certificate whose names differ from the request; they are reported.
    """

    address: EstAddress
    anchors: TrustAnchors = field(default_factory=TrustAnchors)
    identity: ClientIdentity | None = None
    identities: tuple[ClientIdentity, ...] = ()
    credentials: Credentials | None = None
    tls: TlsLimits = field(default_factory=TlsLimits)
    link: Link = Link.WHEN_POSSIBLE
    timeout: float = 60.0
    allow_redirect: Callable[[str], bool] = _refuse_redirect
    lenient: bool = False
    wrap: int = 64
    demand_policy: DemandPolicy = field(default_factory=DemandPolicy)
    accept_differences: bool = False
