"""What a server reads in a request that x509 of pyca does not show: attributes by type, whatever their values."""

from asn1crypto import core, csr
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from est import oids
from est.asn1.csrattrs import Attribute
from est.asn1.der import octets_of, read


def attributes_of(request: x509.CertificateSigningRequest) -> tuple[Attribute, ...]:
    """Every attribute of a request.

    Raises:
        WireError: they cannot be read.
    """
    der = request.public_bytes(serialization.Encoding.DER)

    def take() -> tuple[Attribute, ...]:
        info = csr.CertificationRequest.load(der, strict=True)["certification_request_info"]
        return tuple(
            Attribute(
                str(one["type"].dotted),
                tuple(bytes(value.dump()) for value in core.SetOf.load(one["values"].dump(), spec=core.Any)),
            )
            for one in info["attributes"]
        )

    return read("attributes of the request", der, take)


def challenge_password(request: x509.CertificateSigningRequest) -> str:
    """The challengePassword, or "" if there is none."""
    value = attribute_value(request, oids.CHALLENGE_PASSWORD)
    return read("challengePassword", value, lambda: str(core.load(value).native)) if value else ""


def octet_attribute(request: x509.CertificateSigningRequest, type_: str) -> bytes:
    """The octets of an attribute that is an OCTET STRING, or b"" if there is none."""
    value = attribute_value(request, type_)
    return read("attribute of the request", value, lambda: octets_of(value)) if value else b""


def attribute_value(request: x509.CertificateSigningRequest, type_: str) -> bytes:
    """The first value of an attribute as DER, or b"" if there is none."""
    return next((one.values[0] for one in attributes_of(request) if one.type == type_ and one.values), b"")
