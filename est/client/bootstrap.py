"""First contact (RFC 7030 section 4.1.1): CA certificates from a server that nobody vouches for yet.

The fetched root is taken only with a fingerprint that came another way; the connection is closed, and the server
then has to prove itself by that root on a new one.
"""

import time
from collections.abc import Callable

from cryptography import x509

from est import refusals
from est.client.configuration import ClientConfiguration
from est.client.session import Session, not_found
from est.cms.certs_only import parse_certs_only
from est.tls.connection import connect
from est.trust import fingerprint
from est.trust.anchors import TrustAnchors
from est.trust.path import is_ca, is_self_signed
from est.trust.roll_over import CaCertificates, first_anchors

Confirm = Callable[[x509.Certificate], bool]
"""Asked whether a root is the right one."""


def bootstrap(
    configuration: ClientConfiguration, *, root_fingerprint: str = "", confirm: Confirm | None = None
) -> CaCertificates:
    """The CA certificates, confirmed by a fingerprint or by whoever `confirm` asks, and proved by the server.

    Raises:
        CertificateError: nothing fits the fingerprint, it was not confirmed, or the server does not lead to it.
    """
    if root_fingerprint:
        fingerprint.read_fingerprint(root_fingerprint)
    session = Session(configuration, provisional=True)
    try:
        reply = session.perform("cacerts")
        if reply.status != 200:
            raise not_found()
        received = parse_certs_only(session.decoded(reply)).certificates
    finally:
        session.close()
    root = _confirmed(received, root_fingerprint, confirm)
    result = first_anchors(received, root)
    _prove(configuration, result)
    return result


def _confirmed(
    received: tuple[x509.Certificate, ...], root_fingerprint: str, confirm: Confirm | None
) -> x509.Certificate:
    roots = [one for one in received if is_ca(one) and is_self_signed(one)]
    if root_fingerprint:
        found = fingerprint.find(roots, root_fingerprint)
        if found is None:
            raise refusals.untrusted("No root that the server sent has this fingerprint; it is not the right server.")
        return found
    for one in roots:
        if confirm is not None and confirm(one):
            return one
    raise refusals.untrusted("None of the roots that the server sent was confirmed.")


def _prove(configuration: ClientConfiguration, result: CaCertificates) -> None:
    anchors = TrustAnchors(result.anchors, result.intermediates, allow_cmc_ra=configuration.anchors.allow_cmc_ra)
    deadline = time.monotonic() + configuration.timeout
    address = configuration.address
    connect(address.host, address.port, anchors, limits=configuration.tls, deadline=deadline).close()
