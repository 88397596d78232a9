"""Choosing among several certificates by what the server asks for (RFC 7030 section 3.3.2).

A first handshake, without a certificate, learns it; nothing else is sent over that connection, which proves nothing of
the server. ssl shows the messages of a handshake to a callback that is not documented; where there is none, the first
certificate is taken.
"""

import ssl
from collections.abc import Sequence

from est.tls.certificate_request import CertificateRequest, parse_certificate_request
from est.tls.connection import ClientIdentity, TlsLimits, client_context, handshake
from hsmbridge.core.errors import WireError

_CERTIFICATE_REQUEST = 13
_HEADER = 4
"""Octets before the body of a handshake message: its type and its length."""


def choose_identity(
    host: str, port: int, identities: Sequence[ClientIdentity], *, limits: TlsLimits, deadline: float
) -> ClientIdentity | None:
    """The first of `identities` that the server takes, or None if it takes none of them.

    Raises:
        WireError: no connection.
        ProviderError: OPERATION_TIMED_OUT.
    """
    requests: list[CertificateRequest] = []

    def watch(_conn: object, direction: str, version: int, content: int, kind: int, message: bytes) -> None:
        if direction == "read" and content == _HANDSHAKE and kind == _CERTIFICATE_REQUEST:
            tls13 = version == ssl.TLSVersion.TLSv1_3
            requests.append(parse_certificate_request(message[_HEADER:], tls13=tls13))

    context = client_context(limits)
    context.verify_mode = ssl.CERT_NONE
    if not hasattr(context, "_msg_callback"):
        return next(iter(identities), None)
    context._msg_callback = watch  # noqa: SLF001 - see above
    try:
        handshake(host, port, context, deadline).close()
    except WireError:
        # A server that insists on a certificate ends the handshake after it asked for one.
        if not requests:
            raise
    return requests[0].choose(identities) if requests else None


_HANDSHAKE = 22
