"""No certificate is handed on before it was checked: its key, its path, its time and its names."""

from collections.abc import Iterable, Sequence

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtensionOID

from est import keys, refusals
from est.asn1.template import ExtensionPart
from est.client.results import Enrolled
from est.csr.alternative_names import alternative_names_of
from est.trust.anchors import TrustAnchors
from est.trust.path import is_ca, verify_path

_SAN = ExtensionOID.SUBJECT_ALTERNATIVE_NAME.dotted_string


def check_received(
    received: Sequence[x509.Certificate],
    public_key: CertificatePublicKeyTypes,
    anchors: TrustAnchors,
    *,
    subject: bytes,
    extensions: Iterable[ExtensionPart],
    accept_differences: bool,
) -> Enrolled:
    """The certificate for our key among those received.

    Raises:
        CertificateError: none is for our key; or it leads to no Explicit anchor, is not valid now, is a CA's, or has
            other names than asked for.
    """
    wanted = keys.spki(public_key)
    ours = [one for one in received if keys.spki(one.public_key()) == wanted]
    if not ours:
        raise refusals.invalid_certificate("The server sent no certificate for our key; nothing was taken.")
    if len(ours) > 1:
        raise refusals.invalid_certificate("The server sent more than one certificate for our key; nothing was taken.")
    certificate = ours[0]
    if not anchors.explicit:
        raise refusals.untrusted("There are no Explicit trust anchors to check the certificate with; get them first.")
    others = [one for one in received if one is not certificate]
    path = verify_path(certificate, (*others, *anchors.intermediates), anchors.explicit)
    if is_ca(certificate):
        raise refusals.invalid_certificate("The server sent a CA certificate; it was not asked for.")
    differences = tuple(_differences(certificate, subject, extensions))
    if differences and not accept_differences:
        raise refusals.invalid_certificate(f"The certificate is not what was asked for: {'; '.join(differences)}.")
    return Enrolled(certificate, path[1:], differences)


def _differences(certificate: x509.Certificate, subject: bytes, extensions: Iterable[ExtensionPart]) -> Iterable[str]:
    asked_subject = _name(subject)
    if asked_subject is not None and asked_subject != certificate.subject:
        yield (
            f"its subject is '{certificate.subject.rfc4514_string()}', asked for was '{asked_subject.rfc4514_string()}'"
        )
    asked = next((part for part in extensions if part.oid == _SAN and part.value is not None), None)
    held = _alternative_names(certificate)
    if asked is None or asked.value is None:
        if held and asked_subject is not None and list(asked_subject):
            yield "it has alternative names that were not asked for"
        return
    asked_names = alternative_names_of(asked.value)
    missing, more = asked_names - held, held - asked_names
    if missing:
        yield f"{len(missing)} alternative name(s) are missing"
    if more:
        yield f"it has {len(more)} alternative name(s) that were not asked for"


def _name(der: bytes) -> x509.Name | None:
    try:
        name = x509.Name.from_bytes(der)
    except ValueError:
        raise refusals.malformed("The name that was asked for cannot be read.") from None
    return name if list(name) else None


def _alternative_names(certificate: x509.Certificate) -> frozenset[bytes]:
    try:
        held = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return frozenset()
    return alternative_names_of(held.public_bytes())
