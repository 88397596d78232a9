"""Paths from a certificate to a trust anchor (RFC 5280 section 6), built and verified by pyca's verifier.

Which names or purposes a certificate must have is asked elsewhere. The verifier takes keys of RSA from 2048 bits, on
P-256, P-384 and P-521, and ML-DSA; a path over other keys is not trusted.
"""

from collections.abc import Iterable
from datetime import UTC, datetime

from cryptography import x509
from cryptography.x509 import verification

from est import refusals

MAX_DEPTH = 8
"""CA certificates between a certificate and its anchor."""


def verify_path(
    certificate: x509.Certificate,
    intermediates: Iterable[x509.Certificate],
    anchors: Iterable[x509.Certificate],
    at: datetime | None = None,
) -> tuple[x509.Certificate, ...]:
    """The path from `certificate` to one of `anchors`, both included.

    Args:
        at: when it must hold; now if None.

    Raises:
        CertificateError: there is no such path; the message says why.
    """
    trusted = list(anchors)
    if not trusted:
        raise refusals.untrusted("No trust anchor is configured; fetch and confirm the CA certificates first.")
    if certificate in trusted:
        return (certificate,)
    agnostic = verification.Criticality.AGNOSTIC
    any_extension = verification.ExtensionPolicy.permit_all()
    ca_policy = any_extension.require_present(x509.BasicConstraints, agnostic, None)
    verifier = (
        verification.PolicyBuilder()
        .store(verification.Store(trusted))
        .time(at or datetime.now(UTC))
        .max_chain_depth(MAX_DEPTH)
        .extension_policies(ca_policy=ca_policy, ee_policy=any_extension)
        .build_client_verifier()
    )
    try:
        return tuple(verifier.verify(certificate, list(intermediates)).chain)
    except verification.VerificationError as problem:
        raise refusals.untrusted(
            f"No path leads from the certificate of {name_of(certificate)} to a trust anchor: {problem}"
        ) from None


def is_ca(certificate: x509.Certificate) -> bool:
    """Whether its basic constraints say that it is a CA's."""
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, ValueError):
        return False


def is_self_signed(certificate: x509.Certificate) -> bool:
    """Whether it is signed by its own key."""
    return issued_by(certificate, certificate)


def issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether `issuer` signed it, by name and by signature."""
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def name_of(certificate: x509.Certificate) -> str:
    """A name to show to people."""
    return certificate.subject.rfc4514_string() or f"serial number {certificate.serial_number:x}"
