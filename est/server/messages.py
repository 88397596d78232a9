"""What passes between the listener and the operations: a request, who sent it over which connection, a response."""

from dataclasses import dataclass, field

from cryptography import x509


@dataclass(frozen=True, slots=True)
class Peer:
    """The other side of a connection.

    Attributes:
        certificates: its verified certificate and those it sent with it; empty if it has none.
        bindings: values that name the connection.
    """

    certificates: tuple[x509.Certificate, ...] = ()
    bindings: tuple[bytes, ...] = ()

    @property
    def certificate(self) -> x509.Certificate | None:
        """The certificate that it authenticated with."""
        return self.certificates[0] if self.certificates else None


@dataclass(frozen=True, slots=True)
class ServerRequest:
    """A request; names of header fields in lower case."""

    method: str
    target: str
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class ServerResponse:
    """A response; a body in bytes as it goes out."""

    status: int
    type: str = "text/plain; charset=utf-8"
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
