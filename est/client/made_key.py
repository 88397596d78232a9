"""The reply to /serverkeygen (RFC 7030 section 4.4.2): a private key, in the clear or sealed, and its certificate."""

from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from est import keys, refusals
from est.client.session import Reply
from est.cms.certs_only import parse_certs_only
from est.cms.enveloped import Opener
from est.cms.key_package import open_key
from est.http import media_type
from est.http.multipart import parse_multipart
from est.http.payload import decode
from est.trust.anchors import TrustAnchors
from est.trust.path import verify_path


@dataclass(frozen=True, slots=True)
class SentKey:
    """What the server sent; that the certificate is of the key is not checked yet.

    Attributes:
        pkcs8: the private key, DER.
        encrypted: it was sealed for us.
    """

    pkcs8: bytes
    encrypted: bool
    certificates: tuple[x509.Certificate, ...]

    @property
    def public_key(self) -> CertificatePublicKeyTypes:
        """Of the private key. Raises WireError where that is none."""
        try:
            private = serialization.load_der_private_key(self.pkcs8, None)
        except (ValueError, TypeError):
            raise refusals.malformed("The key that the server sent is no PKCS#8 private key.") from None
        return keys.SoftwareKey(private).signer.public_key()

    def __repr__(self) -> str:
        return f"<SentKey, encrypted: {self.encrypted}>"


def read_made_key(
    reply: Reply, opener: Opener | None, anchors: TrustAnchors, *, allow_plain: bool, lenient: bool
) -> SentKey:
    """The key and the certificates of a reply.

    Args:
        opener: with what a sealed key is opened.
        anchors: they vouch for whoever signed a sealed key.
        allow_plain: take a key that is protected by TLS alone.
        lenient: take parts that are not base64.

    Raises:
        AccessError: the key came in the clear and that was not allowed.
        CertificateError: nobody trusted signed it.
        RequestError: there is nothing to open it with.
        WireError: the reply cannot be read.
    """
    pkcs8, encrypted, received = b"", False, tuple[x509.Certificate, ...]()
    for part in parse_multipart(reply.type, reply.body):
        if part.type.name == media_type.PKCS8:
            if not allow_plain:
                raise refusals.denied("The server sent the private key without encryption; it was not taken.")
            pkcs8 = decode(part.body, lenient=lenient)
        elif part.type.name == media_type.PKCS7 and part.type.smime_type == "server-generated-key":
            pkcs8, encrypted = _opened(decode(part.body, lenient=lenient), opener, anchors), True
        elif part.type.name == media_type.PKCS7:
            received = parse_certs_only(decode(part.body, lenient=lenient)).certificates
    if not pkcs8 or not received:
        raise refusals.malformed("The reply lacks the key or the certificate.")
    return SentKey(pkcs8, encrypted, received)


def _opened(der: bytes, opener: Opener | None, anchors: TrustAnchors) -> bytes:
    if opener is None:
        raise refusals.unwanted("The server sent an encrypted key, and there is nothing to open it with.")
    pkcs8, signed = open_key(der, opener)
    if signed.signer is None:
        raise refusals.untrusted("Nobody signed the key that the server sent.")
    verify_path(signed.signer, (*signed.certificates, *anchors.intermediates), anchors.explicit)
    return pkcs8
