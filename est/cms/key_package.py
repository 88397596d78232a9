"""Server-generated keys (RFC 7030 section 4.4.2): AsymmetricKeyPackage (RFC 5958) in a SignedData in an EnvelopedData.

AsymmetricKeyPackage ::= SEQUENCE SIZE (1..MAX) OF OneAsymmetricKey
"""

from asn1crypto import cms, core
from cryptography import x509

from est import oids, refusals
from est.asn1.der import SequenceOf, read
from est.cms.enveloped import Opener, Recipient, SharedKey, open_sealed, seal
from est.cms.signed import Signed, dump_signed, parse_signed
from est.keys import Key


class _KeyPackage(SequenceOf):
    _child_spec = core.Any


def seal_key(pkcs8: bytes, recipient: Recipient | SharedKey, signer: Key, certificate: x509.Certificate) -> bytes:
    """A private key (PKCS#8) signed by the server and encrypted for the recipient."""
    package = bytes(_KeyPackage([core.Any.load(pkcs8)]).dump())
    return seal(oids.SIGNED_DATA, dump_content(dump_signed(oids.KEY_PACKAGE, package, signer, certificate)), recipient)


def dump_content(content_info: bytes) -> bytes:
    """The content of a ContentInfo alone, as it stands inside another (RFC 5652 section 6.3)."""
    return read(
        "signed message", content_info, lambda: bytes(cms.ContentInfo.load(content_info)["content"].untag().dump())
    )


def open_key(der: bytes, opener: Opener) -> tuple[bytes, Signed]:
    """The private key (PKCS#8) in a sealed key package, and who signed it.

    Whoever calls has to ask whether the signer may, and drop the octets as soon as the key is where it belongs.

    Raises:
        WireError: it cannot be read, or its signature does not fit.
        DecryptionFailed: none of the keys opens it.
    """
    opened = open_sealed(der, opener)
    if opened.content_type != oids.SIGNED_DATA:
        raise refusals.malformed("The encrypted content is not signed; a server signs the keys it makes.")
    signed = parse_signed(_as_content_info(opened.content))
    if signed.content_type != oids.KEY_PACKAGE:
        raise refusals.malformed("The signed content is not a key package.")

    def take() -> bytes:
        package = _KeyPackage.load(signed.content, strict=True)
        if len(package) != 1:
            raise refusals.malformed("The key package has not exactly one key.")
        return bytes(package[0].dump())

    return read("key package", signed.content, take), signed


def _as_content_info(content: bytes) -> bytes:
    """Put a SignedData into a ContentInfo again; some senders leave it in one."""

    def take() -> bytes:
        first = core.Sequence.load(content)[0]
        if isinstance(first, core.ObjectIdentifier):
            return content
        data = cms.SignedData.load(content, strict=True)
        return bytes(cms.ContentInfo({"content_type": "signed_data", "content": data}).dump())

    return read("signed key package", content, take)
