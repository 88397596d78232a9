"""The certs-only message: a SignedData without signers that carries certificates (RFC 5272 section 4.1).

What it says is not signed; trust in the certificates comes from elsewhere.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from asn1crypto import cms, core
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import pkcs7

from est import refusals
from est.asn1.der import read

MAX_CERTIFICATES = 64
"""Certificates read from one message."""

UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
"""By what pyca shows that it cannot read a part of a certificate or request."""


@dataclass(frozen=True, slots=True)
class CertsOnly:
    """What a certs-only message carried, in its order."""

    certificates: tuple[x509.Certificate, ...]
    crls: tuple[x509.CertificateRevocationList, ...] = ()


def parse_certs_only(der: bytes) -> CertsOnly:
    """Read a certs-only message.

    Raises:
        WireError: not a SignedData, signed by somebody, or without a certificate that can be read.
        LimitError: too many certificates.
    """

    def take() -> CertsOnly:
        info = cms.ContentInfo.load(der, strict=True)
        if info["content_type"].native != "signed_data":
            raise refusals.malformed("The message is not a SignedData; certificates come in one without signers.")
        content = info["content"]
        if len(content["signer_infos"]):
            raise refusals.malformed("The message has a signer; a certs-only message has none.")
        return CertsOnly(certificates_in(content), _crls(content))

    return read("certs-only message", der, take)


def certificates_in(content: cms.SignedData) -> tuple[x509.Certificate, ...]:
    """The X.509 certificates of a SignedData, each once, in their order."""
    held = content["certificates"]
    encoded = [bytes(one.chosen.dump()) for one in held if one.name == "certificate"] if _there(held) else []
    if len(encoded) > MAX_CERTIFICATES:
        raise refusals.too_large(f"The message has {len(encoded)} certificates; at most {MAX_CERTIFICATES} are read.")
    return tuple(load_certificate(one) for one in dict.fromkeys(encoded))


def load_certificate(der: bytes) -> x509.Certificate:
    """A certificate every part of which can be read; pyca alone reads parts when they are asked for.

    Raises:
        WireError: a part cannot be read.
    """
    try:
        certificate = x509.load_der_x509_certificate(der)
        for part in (certificate.subject, certificate.issuer, certificate.public_key(), certificate.extensions):
            del part
    except UNREADABLE:
        raise refusals.malformed("A certificate cannot be read.") from None
    return certificate


def _crls(content: cms.SignedData) -> tuple[x509.CertificateRevocationList, ...]:
    held = content["crls"]
    if not _there(held):
        return ()
    return tuple(x509.load_der_x509_crl(bytes(one.chosen.dump())) for one in held if one.name != "other")


def _there(value: object) -> bool:
    return not isinstance(value, core.Void)


def dump_certs_only(certificates: Iterable[x509.Certificate]) -> bytes:
    """Write a certs-only message."""
    return pkcs7.serialize_certificates(list(certificates), serialization.Encoding.DER)
