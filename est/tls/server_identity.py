"""Whether an authenticated server may act for EST (RFC 7030 section 3.6, RFC 9525).

Its certificate names the configured host; or, with an Explicit anchor and where the client opted in, it has the
extended key usage id-kp-cmcRA.
"""

import ipaddress

from cryptography import x509

from est import oids, refusals
from est.trust.anchors import TrustedBy


def authorise(certificate: x509.Certificate, host: str, trusted_by: TrustedBy, *, allow_cmc_ra: bool) -> str:
    """By what the server is authorised: "host" or "cmcRA".

    Raises:
        CertificateError: by nothing.
    """
    if names_host(certificate, host):
        return "host"
    if trusted_by is TrustedBy.EXPLICIT and allow_cmc_ra and is_cmc_ra(certificate):
        return "cmcRA"
    raise refusals.untrusted(f"The server's certificate does not name {host}; nothing was sent.")


def names_host(certificate: x509.Certificate, host: str) -> bool:
    """Whether a subject alternative name is that host: a DNS name, with one wildcard label at most, or an address."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return False
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return any(_same_name(one, host) for one in names.get_values_for_type(x509.DNSName))
    return address in names.get_values_for_type(x509.IPAddress)


def _same_name(pattern: str, host: str) -> bool:
    wanted, have = host.lower().rstrip(".").split("."), pattern.lower().rstrip(".").split(".")
    if have[0] == "*" and len(have) > 2:
        return len(wanted) == len(have) and wanted[1:] == have[1:]
    return wanted == have


def is_cmc_ra(certificate: x509.Certificate) -> bool:
    """Whether it has the extended key usage id-kp-cmcRA."""
    try:
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except (x509.ExtensionNotFound, ValueError):
        return False
    return x509.ObjectIdentifier(oids.CMC_RA) in usages
