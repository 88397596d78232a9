"""What a reply of /cacerts does to the Explicit trust anchors (RFC 7030 section 4.1.3, RFC 4210 section 4.4).

The certificates come in any order: roots (OldWithOld, NewWithNew), the bridges between them (NewWithOld,
OldWithNew) and intermediates. A new root is taken by itself only if a bridge proves that the holder of a root already
trusted vouches for its key; any other root needs a confirmation from outside.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509

from est import keys, refusals
from est.trust.path import is_ca, is_self_signed, name_of, verify_path
from hsmbridge.core.errors import CertificateError


@dataclass(frozen=True, slots=True)
class CaCertificates:
    """What to trust from now on.

    Attributes:
        anchors: the Explicit trust anchors.
        intermediates: CA certificates, and bridges between roots, that lead to one of them.
        accepted: new roots that a trusted root vouches for.
        unconfirmed: new roots that nobody vouches for; they are not among the anchors.
    """

    anchors: tuple[x509.Certificate, ...]
    intermediates: tuple[x509.Certificate, ...]
    accepted: tuple[x509.Certificate, ...] = ()
    unconfirmed: tuple[x509.Certificate, ...] = ()

    def first_expiry(self) -> datetime:
        """When the first of them ends."""
        return min(one.not_valid_after_utc for one in (*self.anchors, *self.intermediates))


def first_anchors(received: Iterable[x509.Certificate], confirmed: x509.Certificate) -> CaCertificates:
    """The anchors after a first contact, in which one root was confirmed from outside.

    Raises:
        CertificateError: what was confirmed is no root.
    """
    if not (is_ca(confirmed) and is_self_signed(confirmed)):
        raise refusals.invalid_certificate("What was confirmed is not a root CA certificate.")
    return rolled_over(received, (confirmed,))


def rolled_over(
    received: Iterable[x509.Certificate], current: Iterable[x509.Certificate], at: datetime | None = None
) -> CaCertificates:
    """The anchors after a reply from a server that the current ones authenticated.

    Raises:
        CertificateError: a certificate in the reply is not a CA's, or nothing leads to a trusted root.
    """
    now = at or datetime.now(UTC)
    listed = tuple(dict.fromkeys(received))
    for one in listed:
        if not is_ca(one):
            raise refusals.invalid_certificate(f"{name_of(one)} is not a CA certificate; the reply is not used.")
    anchors = tuple(one for one in dict.fromkeys(current) if one.not_valid_after_utc > now)
    roots = tuple(one for one in listed if is_self_signed(one))
    others = tuple(one for one in listed if one not in roots)
    new = tuple(one for one in roots if one not in anchors)
    accepted = tuple(one for one in new if any(_vouches(bridge, one, others, anchors, now) for bridge in others))
    trusted = (*anchors, *accepted)
    if not any(one in trusted for one in roots) and not any(_leads(one, others, trusted, now) for one in others):
        raise refusals.untrusted("Nothing in the reply leads to a root that is trusted; confirm a fingerprint.")
    return CaCertificates(
        anchors=trusted,
        intermediates=tuple(one for one in others if _leads(one, others, trusted, now)),
        accepted=accepted,
        unconfirmed=tuple(one for one in new if one not in accepted),
    )


def _vouches(
    bridge: x509.Certificate,
    root: x509.Certificate,
    others: tuple[x509.Certificate, ...],
    anchors: tuple[x509.Certificate, ...],
    now: datetime,
) -> bool:
    """Whether `bridge` is NewWithOld for `root`."""
    same = bridge.subject == root.subject and keys.spki(bridge.public_key()) == keys.spki(root.public_key())
    return same and _leads(bridge, others, anchors, now)


def _leads(
    certificate: x509.Certificate,
    others: tuple[x509.Certificate, ...],
    anchors: tuple[x509.Certificate, ...],
    now: datetime,
) -> bool:
    if not anchors:
        return False
    try:
        verify_path(certificate, (one for one in others if one != certificate), anchors, now)
    except CertificateError:
        return False
    return True
