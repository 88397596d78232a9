"""The value that names a TLS connection: tls-unique (RFC 5929) of TLS 1.2, tls-exporter (RFC 9266) of either version.

ssl gives octets for tls-unique over TLS 1.3 too, which mean nothing there; they are refused here.
"""

import ssl

from est.csr.linking import Link
from est.refusals import unsupported
from est.tls.libssl import export_keying_material, has_extended_master_secret

_EXPORTER_LABEL = b"EXPORTER-Channel-Binding"


def binding_value(sock: ssl.SSLSocket, link: Link, *, demanded: bool = False) -> bytes:
    """The value to link a request with, or b"" if it is to be sent without.

    Args:
        demanded: the server asks for a link.

    Raises:
        RequestError: a link is required, and this connection has no value for it.
    """
    if link is Link.NONE and not demanded:
        return b""
    if link is Link.EXPORTER:
        value = export_keying_material(sock, _EXPORTER_LABEL, 32)
        if not value:
            raise unsupported("This Python does not give the value of tls-exporter.")
        return value
    if sock.version() == "TLSv1.3":
        if link is Link.REQUIRE or demanded:
            raise unsupported("TLS 1.3 has no tls-unique; limit the connection to TLS 1.2, or agree on tls-exporter.")
        return b""
    if has_extended_master_secret(sock) is False:
        if link is Link.REQUIRE or demanded:
            raise unsupported("The server does not do the extended master secret; tls-unique names nothing then.")
        return b""
    return sock.get_channel_binding("tls-unique") or b""


def binding_values(sock: ssl.SSLSocket) -> tuple[bytes, ...]:
    """Every value that a client may have linked its request with, as the server sees them."""
    values = [export_keying_material(sock, _EXPORTER_LABEL, 32)]
    if sock.version() != "TLSv1.3" and has_extended_master_secret(sock) is not False:
        values.append(sock.get_channel_binding("tls-unique") or b"")
    return tuple(one for one in values if one)
