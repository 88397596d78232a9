"""Subject alternative names compared one by one, each by its DER: order does not count, form does."""

import ipaddress

from asn1crypto import x509
from cryptography import x509 as pyca

from est import refusals
from est.asn1.der import read


def alternative_names_of(der: bytes) -> frozenset[bytes]:
    """The names in a subject alternative name extension, each as DER.

    Raises:
        WireError: it cannot be read.
    """

    def take() -> frozenset[bytes]:
        return frozenset(bytes(one.dump()) for one in x509.GeneralNames.load(der, strict=True))

    return read("alternative names", der, take)


def subject_alternative_name(der: bytes) -> pyca.SubjectAlternativeName:
    """The extension for GeneralNames: DNS names, IP addresses, mail addresses and URIs.

    Raises:
        WireError: they cannot be read.
        RequestError: a name of another kind is among them.
    """

    def take() -> pyca.SubjectAlternativeName:
        return pyca.SubjectAlternativeName([_general_name(one) for one in x509.GeneralNames.load(der, strict=True)])

    return read("alternative names", der, take)


def _general_name(name: x509.GeneralName) -> pyca.GeneralName:
    # As it stands, without what asn1crypto makes of internationalised names.
    contents = bytes(name.chosen.contents)
    match name.name:
        case "dns_name":
            return pyca.DNSName(contents.decode("ascii"))
        case "rfc822_name":
            return pyca.RFC822Name(contents.decode("ascii"))
        case "uniform_resource_identifier":
            return pyca.UniformResourceIdentifier(contents.decode("ascii"))
        case "ip_address":
            return pyca.IPAddress(ipaddress.ip_address(contents))
        case _:
            raise refusals.unsupported("Only DNS names, addresses and URIs are given as other names.")
