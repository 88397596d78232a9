"""SignedData with one signer (RFC 5652 section 5): signed by a `Key`, verified against a certificate or a bare key.

Whether the signer is one to trust is asked of `est.trust`, never here.
"""

import hashlib
import hmac
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from asn1crypto import cms, core
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from est import keys, oids, refusals
from est.asn1.der import read
from est.cms.certs_only import certificates_in

_OID_OF_DIGEST = {name: oid for oid, name in oids.DIGESTS.items()}


@dataclass(frozen=True, slots=True)
class Signed:
    """A SignedData whose signature was verified.

    Attributes:
        signer: the certificate that the signature fits, or None if it was verified with a bare key.
    """

    content_type: str
    content: bytes
    certificates: tuple[x509.Certificate, ...]
    signer: x509.Certificate | None


def dump_signed(
    content_type: str,
    content: bytes,
    key: keys.Key,
    certificate: x509.Certificate | None = None,
    extra: Iterable[x509.Certificate] = (),
) -> bytes:
    """Sign `content`. Without a certificate the signer is named by the key identifier of its public key (RFC 5272
    section 4.2 has the new key sign so).
    """
    public_key = key.signer.public_key()
    choice = keys.choose_signature(public_key)
    digest = choice.digest or "sha512"
    algorithm = {"algorithm": _OID_OF_DIGEST[digest]}
    attributes = cms.CMSAttributes(
        [
            {"type": oids.CONTENT_TYPE, "values": [content_type]},
            {"type": oids.MESSAGE_DIGEST, "values": [hashlib.new(digest, content).digest()]},
        ]
    )
    # What is signed is the SET OF with its universal tag (section 5.4).
    signature = keys.sign(key.signer, choice, bytes(attributes.dump()))
    signer = {
        "version": "v1" if certificate else "v3",
        "sid": _identifier(certificate, public_key),
        "digest_algorithm": algorithm,
        "signed_attrs": attributes,
        "signature_algorithm": {"algorithm": choice.oid},
        "signature": signature,
    }
    carried = [*([certificate] if certificate else []), *extra]
    data = cms.SignedData(
        {
            "version": "v3",
            "digest_algorithms": [algorithm],
            "encap_content_info": {"content_type": content_type, "content": core.ParsableOctetString(content)},
            "signer_infos": [signer],
        }
    )
    if carried:
        data["certificates"] = [
            cms.CertificateChoices.load(one.public_bytes(serialization.Encoding.DER)) for one in carried
        ]
    return bytes(cms.ContentInfo({"content_type": "signed_data", "content": data}).dump())


def _identifier(certificate: x509.Certificate | None, public_key: CertificatePublicKeyTypes) -> cms.SignerIdentifier:
    if certificate is None:
        return cms.SignerIdentifier("subject_key_identifier", key_identifier(public_key))
    issuer = cms.Name.load(certificate.issuer.public_bytes())
    return cms.SignerIdentifier(
        "issuer_and_serial_number", {"issuer": issuer, "serial_number": certificate.serial_number}
    )


def key_identifier(public_key: CertificatePublicKeyTypes) -> bytes:
    """The key identifier of RFC 5280 section 4.2.1.2, first method."""
    return x509.SubjectKeyIdentifier.from_public_key(public_key).digest


def parse_signed(
    der: bytes,
    bare_key: Callable[[bytes], CertificatePublicKeyTypes | None] | None = None,
    known: Iterable[x509.Certificate] = (),
) -> Signed:
    """Read a SignedData and verify its one signature.

    Args:
        bare_key: given the content, finds the key to verify with where no certificate is the signer's.
        known: certificates that may be the signer's beside those that the message carries.

    Raises:
        WireError: it cannot be read, has not one signer, or the signature does not fit.
    """
    parts = read("signed message", der, lambda: _parts(der))
    certificates = (*parts.certificates, *known)
    signer = next((one for one in certificates if parts.names(one)), None)
    public_key = signer.public_key() if signer else (bare_key(parts.content) if bare_key else None)
    if public_key is None:
        raise refusals.malformed("The message does not carry the certificate of its signer.")
    parts.check(public_key)
    return Signed(parts.content_type, parts.content, parts.certificates, signer)


@dataclass(frozen=True, slots=True)
class _Parts:
    content_type: str
    content: bytes
    certificates: tuple[x509.Certificate, ...]
    issuer_and_serial: tuple[bytes, int] | None
    key_identifier: bytes
    digest_oid: str
    signature_oid: str
    signature: bytes
    attributes: bytes
    """The signed attributes as a SET OF, or b"" if there are none."""
    attributes_type: str
    attributes_digest: bytes

    def names(self, certificate: x509.Certificate) -> bool:
        """Whether the signer is named as the holder of that certificate."""
        if self.issuer_and_serial is not None:
            return (certificate.issuer.public_bytes(), certificate.serial_number) == self.issuer_and_serial
        return key_identifier(certificate.public_key()) == self.key_identifier

    def check(self, public_key: CertificatePublicKeyTypes) -> None:
        """Verify the signature over the content.

        Raises:
            WireError: it does not fit.
        """
        digest = oids.DIGESTS.get(self.digest_oid)
        if digest is None:
            raise refusals.malformed(f"The message is signed over the digest {self.digest_oid}, which is not known.")
        message = self.content
        if self.attributes:
            made = hashlib.new(digest, self.content).digest()
            if self.attributes_type != self.content_type or not hmac.compare_digest(made, self.attributes_digest):
                raise refusals.malformed("The signed attributes are of another content.")
            message = self.attributes
        elif self.content_type != oids.DATA:
            raise refusals.malformed("The message has no signed attributes, which its content type needs.")
        choice = keys.choose_signature(public_key, digest)
        if self.signature_oid not in {choice.oid, keys.key_type_oid(public_key)}:
            raise refusals.malformed(f"The signature algorithm {self.signature_oid} does not fit the signer's key.")
        try:
            keys.verify(public_key, choice, self.signature, message)
        except InvalidSignature:
            raise refusals.malformed("The signature of the message does not fit.") from None


def _parts(der: bytes) -> _Parts:
    info = cms.ContentInfo.load(der, strict=True)
    if info["content_type"].native != "signed_data":
        raise refusals.malformed("The message is not a SignedData.")
    data = info["content"]
    if len(data["signer_infos"]) != 1:
        raise refusals.malformed("The message has not exactly one signer.")
    signer = data["signer_infos"][0]
    attributes = (
        {one["type"].dotted: one["values"] for one in signer["signed_attrs"]} if len(signer["signed_attrs"]) else {}
    )
    sid = signer["sid"]
    named = sid.name == "issuer_and_serial_number"
    return _Parts(
        content_type=str(data["encap_content_info"]["content_type"].dotted),
        content=bytes(data["encap_content_info"]["content"]),
        certificates=certificates_in(data),
        issuer_and_serial=(bytes(sid.chosen["issuer"].dump()), int(sid.chosen["serial_number"].native))
        if named
        else None,
        key_identifier=b"" if named else bytes(sid.chosen.native),
        digest_oid=str(signer["digest_algorithm"]["algorithm"].dotted),
        signature_oid=str(signer["signature_algorithm"]["algorithm"].dotted),
        signature=bytes(signer["signature"].native),
        attributes=bytes(signer["signed_attrs"].untag().dump()) if attributes else b"",
        attributes_type=_single(attributes, oids.CONTENT_TYPE, lambda one: str(one.dotted)),
        attributes_digest=_single(attributes, oids.MESSAGE_DIGEST, lambda one: bytes(one.native)),
    )


_T = TypeVar("_T", str, bytes)


def _single(attributes: Mapping[str, cms.SetOfAny], type_: str, take: Callable[[core.Asn1Value], _T]) -> _T:
    values = attributes.get(type_)
    if values is None:
        return take(core.ObjectIdentifier("0.0")) if type_ == oids.CONTENT_TYPE else take(core.OctetString(b""))
    if len(values) != 1:
        raise refusals.malformed("A signed attribute that has one value has another number of them.")
    return take(values[0])
