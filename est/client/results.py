"""What operations of a client end with."""

import base64
import json
from dataclasses import dataclass, field

from cryptography import x509

from est import refusals


@dataclass(frozen=True, slots=True)
class Enrolled:
    """A certificate that was checked against key, request and trust.

    Attributes:
        chain: from the certificate's issuer up to the trust anchor.
        differences: how it differs from what was asked for; empty unless the client was told to accept that.
    """

    certificate: x509.Certificate
    chain: tuple[x509.Certificate, ...]
    differences: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ServerMadeKey:
    """A key pair that the server made; `pkcs8` is secret, and belongs into a slot at once."""

    enrolled: Enrolled
    pkcs8: bytes = field(repr=False)
    was_encrypted: bool = False


@dataclass(frozen=True, slots=True)
class Pending:
    """The server said 202: ask again, not before `not_before` (seconds since 1970), with the same request.

    It can be kept as text across restarts. `request` is empty where the request is linked to its connection; then it
    is signed anew. For full CMC it is the transaction and the token that the server gave.
    """

    operation: str
    server: str
    not_before: float
    first_asked: float
    key_id: str
    request: bytes = b""

    def to_json(self) -> str:
        """As text."""
        return json.dumps(
            {
                "operation": self.operation,
                "server": self.server,
                "not_before": self.not_before,
                "first_asked": self.first_asked,
                "key_id": self.key_id,
                "request": base64.b64encode(self.request).decode("ascii"),
            }
        )

    @classmethod
    def from_json(cls, text: str) -> "Pending":
        """Read what `to_json` wrote.

        Raises:
            RequestError: it is something else.
        """
        try:
            held = json.loads(text)
            return cls(
                operation=str(held["operation"]),
                server=str(held["server"]),
                not_before=float(held["not_before"]),
                first_asked=float(held["first_asked"]),
                key_id=str(held["key_id"]),
                request=base64.b64decode(held["request"], validate=True),
            )
        except (ValueError, KeyError, TypeError):
            raise refusals.unwanted("This is not a record of a pending request.") from None
