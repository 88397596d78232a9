"""Where an EST server is: authority and label (RFC 7030 section 3.2.2)."""

from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from est import refusals
from est.http.paths import OPERATIONS, WELL_KNOWN


@dataclass(frozen=True, slots=True)
class EstAddress:
    """A server, and the label of one of its CAs or "". What the user wrote is what the certificate must name."""

    host: str
    port: int = 443
    label: str = ""

    def __post_init__(self) -> None:
        if not self.host or not 0 < self.port < 65536:
            raise refusals.unwanted("An EST server has a host name and a port.")
        if self.label in OPERATIONS or "/" in self.label:
            raise refusals.unwanted(f"{self.label!r} cannot be a label: it has a slash or is the name of an operation.")

    @classmethod
    def parse(cls, text: str, label: str = "") -> "EstAddress":
        """Read HOST, HOST:PORT or https://HOST:PORT, with or without /.well-known/est/LABEL.

        Raises:
            RequestError: it is something else.
        """
        try:
            parts = urlsplit(text if "://" in text else f"https://{text}")
            port = parts.port or 443
        except ValueError:
            raise refusals.unwanted(f"{text!r} is no address of an EST server.") from None
        if parts.scheme != "https" or parts.username or parts.query or not parts.hostname:
            raise refusals.unwanted(f"{text!r} is no https address of an EST server.")
        path = parts.path.rstrip("/")
        if path and path != WELL_KNOWN and not path.startswith(f"{WELL_KNOWN}/"):
            raise refusals.unwanted(f"An EST server is below {WELL_KNOWN}, not {path!r}.")
        return cls(parts.hostname, port, label or path.removeprefix(WELL_KNOWN).strip("/"))

    @property
    def authority(self) -> str:
        """Host and port as the Host header has them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == 443 else f"{host}:{self.port}"

    def target(self, operation: str) -> str:
        """The path of an operation."""
        label = f"/{quote(self.label, safe='')}" if self.label else ""
        return f"{WELL_KNOWN}{label}/{operation}"

    def __str__(self) -> str:
        return f"https://{self.authority}{WELL_KNOWN}" + (f"/{self.label}" if self.label else "")
