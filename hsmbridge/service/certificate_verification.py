"""Whether a certificate leads to an anchor and is good for a purpose: RFC 5280 by the verifier of `cryptography`.

Path building and validation are the library's, with the profile of the web (CA/Browser Forum): RSA, ECDSA and ML-DSA.
It looks at no revocation; that is done here, by CRLs that the caller names. A CRL counts only where its issuer is in
the chain and signed it, and where it is in its time; what no valid CRL speaks of is refused, not passed.
"""

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import verification as v

from hsmbridge.core.certificates import CertificatePurpose, RevocationCheck
from hsmbridge.core.errors import CertificateError, RequestError, Status
from hsmbridge.service.certificate_reading import ReadCertificate, ReadCrl

_DEPTH_MAX = 8
_REASON_MAX = 300


def verify_chain(
    chain: Sequence[ReadCertificate],
    anchors: Sequence[ReadCertificate],
    purpose: CertificatePurpose,
    *,
    subject: str,
    time: datetime,
    intermediates: Sequence[ReadCertificate],
    crls: Sequence[ReadCrl],
    revocation: RevocationCheck,
) -> list[bytes]:
    """The way from the certificate to its anchor in DER, the certificate first.

    Args:
        chain: the certificate, then what was stored with it.
        subject: the DNS name or IP address of a server; "" with other purposes.

    Raises:
        CertificateError: CERTIFICATE_NOT_TRUSTED.
        RequestError: INVALID_ARGUMENT for a subject that is none, or that does not go with the purpose.
    """
    if bool(subject) is not (purpose is CertificatePurpose.SERVER):
        raise RequestError(
            Status.INVALID_ARGUMENT,
            "The certificate of a server is verified for a DNS name or IP address, and no other certificate is.",
        )
    if not anchors:
        raise _not_trusted("the trust store is empty")
    builder = v.PolicyBuilder().store(v.Store([one.certificate for one in anchors]))
    builder = builder.time(time).max_chain_depth(_DEPTH_MAX)
    if purpose is CertificatePurpose.ANY:
        builder = builder.extension_policies(ca_policy=v.ExtensionPolicy.webpki_defaults_ca(), ee_policy=_any_purpose())
    server = _server_verifier(builder, subject) if subject else None
    leaf = chain[0].certificate
    others = [one.certificate for one in (*chain[1:], *intermediates)]
    try:
        if server is None:
            found = builder.build_client_verifier().verify(leaf, others).chain
        else:
            found = server.verify(leaf, others)
    except (v.VerificationError, UnsupportedAlgorithm, ValueError, TypeError) as problem:
        raise _not_trusted(str(problem)[:_REASON_MAX]) from None
    if crls:
        below = found[:-1] if revocation is RevocationCheck.CHAIN else found[:1]
        for position, certificate in enumerate(below):
            if position + 1 < len(found):
                _check_revocation(certificate, found[position + 1], crls, time)
    return [certificate.public_bytes(Encoding.DER) for certificate in found]


def time_of(seconds: float) -> datetime:
    """The time of a verification; 0 is now. Raises RequestError (INVALID_ARGUMENT) where it is none."""
    if seconds == 0:
        return datetime.now(UTC)
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        raise RequestError(
            Status.INVALID_ARGUMENT, "The time of a verification is in seconds since 1970, or 0 for now."
        ) from None


def _any_purpose() -> v.ExtensionPolicy:
    policy = v.ExtensionPolicy.webpki_defaults_ee()
    for kind in (x509.ExtendedKeyUsage, x509.SubjectAlternativeName):
        policy = policy.may_be_present(kind, v.Criticality.AGNOSTIC, None)
    return policy


def _server_verifier(builder: v.PolicyBuilder, subject: str) -> v.ServerVerifier:
    name: x509.DNSName | x509.IPAddress
    try:
        try:
            name = x509.IPAddress(ipaddress.ip_address(subject))
        except ValueError:
            name = x509.DNSName(subject)
        return builder.build_server_verifier(name)
    except ValueError:
        raise RequestError(
            Status.INVALID_ARGUMENT, f"{subject[:80]!r} is neither a DNS name (in A-labels) nor an IP address."
        ) from None


def _check_revocation(
    certificate: x509.Certificate, issuer: x509.Certificate, crls: Sequence[ReadCrl], time: datetime
) -> None:
    """Refuse what is revoked, and what no CRL that counts speaks of. Raises CertificateError."""
    of_issuer = [one.crl for one in crls if one.crl.issuer == issuer.subject and _speaks_of(one.crl, certificate)]
    reason = "no CRL of its issuer was named"
    spoken = False
    for crl in of_issuer:
        problem = _problem(crl, issuer, time)
        if problem:
            reason = problem
            continue
        spoken = True
        entry = crl.get_revoked_certificate_by_serial_number(certificate.serial_number)
        if entry is not None and entry.revocation_date_utc <= time:
            raise _not_trusted(f"{_shown(certificate)} was revoked on {entry.revocation_date_utc:%Y-%m-%d}")
    if not spoken:
        raise _not_trusted(f"whether {_shown(certificate)} was revoked is not known: {reason}")


def _problem(crl: x509.CertificateRevocationList, issuer: x509.Certificate, time: datetime) -> str:
    """Why a CRL does not count, or ""."""
    if crl.last_update_utc > time:
        return "the CRL is of a later time"
    if crl.next_update_utc is not None and crl.next_update_utc < time:
        return "the CRL is out of date; import a newer one"
    usage = _extension(issuer, x509.KeyUsage)
    if isinstance(usage, x509.KeyUsage) and not usage.crl_sign:
        return "the issuer may not sign CRLs"
    try:
        # The library takes only what is an issuer's public key here; another kind of key is its TypeError.
        signed = crl.is_signature_valid(issuer.public_key())  # type: ignore[arg-type]
    except (ValueError, TypeError, UnsupportedAlgorithm):
        signed = False
    return "" if signed else "the CRL was not signed by the issuer"


def _speaks_of(crl: x509.CertificateRevocationList, certificate: x509.Certificate) -> bool:
    """Whether the scope of a CRL has the certificate."""
    try:
        point = crl.extensions.get_extension_for_class(x509.IssuingDistributionPoint).value
    except x509.ExtensionNotFound:
        return True
    constraints = _extension(certificate, x509.BasicConstraints)
    authority = isinstance(constraints, x509.BasicConstraints) and constraints.ca
    if point.relative_name is not None:
        return False
    if point.full_name is not None and not _names_point(certificate, point.full_name):
        return False
    return not (point.only_contains_user_certs if authority else point.only_contains_ca_certs)


def _names_point(certificate: x509.Certificate, names: Sequence[x509.GeneralName]) -> bool:
    """Whether a certificate says that it would be revoked in the CRL of this place (RFC 5280 section 6.3.3 (b))."""
    points = _extension(certificate, x509.CRLDistributionPoints)
    if not isinstance(points, x509.CRLDistributionPoints):
        return False
    return any(name in names for point in points for name in point.full_name or ())


def _extension(certificate: x509.Certificate, kind: type[x509.ExtensionType]) -> x509.ExtensionType | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _shown(certificate: x509.Certificate) -> str:
    return certificate.subject.rfc4514_string()[:120] or f"the certificate with serial {certificate.serial_number:x}"


def _not_trusted(reason: str) -> CertificateError:
    return CertificateError(Status.CERTIFICATE_NOT_TRUSTED, f"The certificate is not trusted: {reason}.")
