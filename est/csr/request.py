"""A request in two steps: planned from wishes and demands before anything is sent, signed when the connection stands.

A plan is data. It was checked against what the key can do, and can be signed any number of times: again after a
reconnect, with the value that links it to the new TLS connection (RFC 7030 section 3.5).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from asn1crypto import core, csr
from asn1crypto import x509 as x509_
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtensionOID

from est import keys, oids, refusals
from est.asn1.change_subject_name import ChangedNames, dump_change_subject_name
from est.asn1.csrattrs import Attribute, dump_attribute
from est.asn1.der import octets, read
from est.asn1.template import ExtensionPart, KeyPart, NamePart, extension_attribute
from est.cms.signed import key_identifier
from est.csr.demands import Demands

_SAN = ExtensionOID.SUBJECT_ALTERNATIVE_NAME.dotted_string
_SKI = ExtensionOID.SUBJECT_KEY_IDENTIFIER.dotted_string


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the client wants in its certificate.

    Attributes:
        subject: the name, as DER, byte for byte.
        extensions: those to ask for, with values.
        attributes: further attributes of the request.
    """

    subject: bytes = b"\x30\x00"
    extensions: tuple[ExtensionPart, ...] = ()
    attributes: tuple[Attribute, ...] = ()

    @classmethod
    def of(cls, subject: x509.Name | None = None, names: Sequence[x509.GeneralName] = ()) -> "Wishes":
        """Wishes for a name and alternative names."""
        extensions: tuple[ExtensionPart, ...] = ()
        if names:
            critical = subject is None or not list(subject)
            extensions = (ExtensionPart(_SAN, critical, x509.SubjectAlternativeName(names).public_bytes()),)
        return cls((subject or x509.Name([])).public_bytes(), extensions)

    @classmethod
    def like(cls, certificate: x509.Certificate) -> "Wishes":
        """The same name and alternative names as a certificate has, byte for byte (RFC 7030 section 4.2.2)."""
        der = certificate.public_bytes(serialization.Encoding.DER)

        def take() -> bytes:
            return bytes(x509_.Certificate.load(der)["tbs_certificate"]["subject"].dump())

        extensions = tuple(
            ExtensionPart(_SAN, one.critical, one.value.public_bytes())
            for one in certificate.extensions
            if one.oid == ExtensionOID.SUBJECT_ALTERNATIVE_NAME
        )
        return cls(read("certificate", der, take), extensions)

    @classmethod
    def of_request(cls, request: x509.CertificateSigningRequest) -> "Wishes":
        """The names that a request asks for, byte for byte."""
        der = request.public_bytes(serialization.Encoding.DER)

        def take() -> bytes:
            return bytes(csr.CertificationRequest.load(der)["certification_request_info"]["subject"].dump())

        extensions = tuple(
            ExtensionPart(_SAN, one.critical, one.value.public_bytes())
            for one in request.extensions
            if one.oid == ExtensionOID.SUBJECT_ALTERNATIVE_NAME
        )
        return cls(read("request", der, take), extensions)

    @property
    def alternative_names(self) -> bytes:
        """The GeneralNames that are asked for, DER; b"" if none are."""
        return next((one.value for one in self.extensions if one.oid == _SAN and one.value is not None), b"")


def change_subject_name(wishes: Wishes) -> Attribute:
    """The attribute that asks for other names in a renewed certificate (RFC 7030 section 4.2.2)."""
    subject = b"" if wishes.subject == Wishes().subject else wishes.subject
    if not subject and not wishes.alternative_names:
        raise refusals.unwanted("A change of names needs a new name.")
    names = ChangedNames(subject, wishes.alternative_names)
    return Attribute(oids.CMC_CHANGE_SUBJECT_NAME, (dump_change_subject_name(names),))


@dataclass(frozen=True, slots=True)
class Plan:
    """A request that only needs its signature.

    Attributes:
        digest: what the signature is over, or None for the key's own choice.
        link_demanded: the server wants it linked to the TLS connection.
    """

    subject: bytes
    extensions: tuple[ExtensionPart, ...]
    attributes: tuple[Attribute, ...] = ()
    digest: str | None = None
    link_demanded: bool = False

    def with_attributes(self, *attributes: Attribute) -> "Plan":
        """The same plan with more attributes."""
        return replace(self, attributes=(*self.attributes, *attributes))


def plan(wishes: Wishes, demands: Demands, public_key: CertificatePublicKeyTypes) -> Plan:
    """Join wishes and demands, and check that this key can satisfy them.

    Raises:
        RequestError: the key or the wishes cannot satisfy a demand; the message names it.
    """
    if demands.key is not None:
        _check_key(demands.key, public_key)
    return Plan(
        subject=wishes.subject if demands.subject is None else _filled_subject(demands.subject, wishes.subject),
        extensions=_joined_extensions(wishes, demands, public_key),
        attributes=wishes.attributes,
        digest=_digest(demands.digests, public_key),
        link_demanded=demands.challenge_password,
    )


def _check_key(wanted: KeyPart, public_key: CertificatePublicKeyTypes) -> None:
    have = keys.key_type_oid(public_key)
    if wanted.algorithm != have:
        name = _KEY_NAMES.get(wanted.algorithm, wanted.algorithm)
        raise refusals.unsupported(
            f"The server demands a key of type {name}; this key is {_KEY_NAMES.get(have, have)}."
        )
    if wanted.curve and isinstance(public_key, ec.EllipticCurvePublicKey):
        name = oids.CURVES.get(wanted.curve, wanted.curve)
        if public_key.curve.name != name:
            raise refusals.unsupported(f"The server demands the curve {name}; this key is on {public_key.curve.name}.")
    if wanted.bits and isinstance(public_key, rsa.RSAPublicKey) and public_key.key_size != wanted.bits:
        raise refusals.unsupported(
            f"The server demands an RSA key of {wanted.bits} bits; this key has {public_key.key_size}."
        )


_KEY_NAMES = {
    oids.RSA_ENCRYPTION: "RSA",
    oids.EC_PUBLIC_KEY: "EC",
    oids.ED25519: "Ed25519",
    oids.ED448: "Ed448",
    oids.ML_DSA_44: "ML-DSA-44",
    oids.ML_DSA_65: "ML-DSA-65",
    oids.ML_DSA_87: "ML-DSA-87",
    oids.X25519: "X25519",
    oids.X448: "X448",
    oids.ML_KEM_768: "ML-KEM-768",
    oids.ML_KEM_1024: "ML-KEM-1024",
}


def _digest(wanted: tuple[str, ...], public_key: CertificatePublicKeyTypes) -> str | None:
    if not keys.can_sign(public_key):
        return None
    usual = keys.choose_signature(public_key).digest
    if usual is None or not wanted or usual in wanted:
        return usual
    return wanted[0]


def _filled_subject(template: tuple[tuple[NamePart, ...], ...], own: bytes) -> bytes:
    def take() -> dict[str, bytes]:
        name = x509_.Name.load(own, strict=True)
        return {str(pair["type"].dotted): bytes(pair["value"].dump()) for relative in name.chosen for pair in relative}

    have = read("name", own, take)
    relatives = []
    for parts in template:
        pairs = []
        for part in parts:
            value = part.value if part.value is not None else have.get(part.type)
            if value is None:
                raise refusals.unsupported(f"The server demands a name with the attribute {part.type}; none was given.")
            pairs.append(_sequence(bytes(core.ObjectIdentifier(part.type).dump()) + value))
        relatives.append(_tagged(0x31, b"".join(sorted(pairs))))
    return _sequence(b"".join(relatives))


def _sequence(content: bytes) -> bytes:
    return _tagged(0x30, content)


def _tagged(tag: int, content: bytes) -> bytes:
    length = len(content)
    if length < 0x80:
        return bytes([tag, length]) + content
    octets_ = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(octets_)]) + octets_ + content


def _joined_extensions(
    wishes: Wishes, demands: Demands, public_key: CertificatePublicKeyTypes
) -> tuple[ExtensionPart, ...]:
    own = {part.oid: part for part in wishes.extensions}
    joined: dict[str, ExtensionPart] = {}
    for part in demands.extensions:
        joined[part.oid] = part if part.value is not None else _filled(part, own, public_key)
    for oid in demands.optional_extensions:
        if oid == _SKI and oid not in joined:
            joined[oid] = ExtensionPart(_SKI, False, _own_key_identifier(public_key))
    for oid, part in own.items():
        joined.setdefault(oid, part)
    return tuple(joined.values())


def _filled(part: ExtensionPart, own: dict[str, ExtensionPart], public_key: CertificatePublicKeyTypes) -> ExtensionPart:
    if part.oid in own:
        return replace(own[part.oid], critical=part.critical or own[part.oid].critical)
    if part.oid == _SKI:
        return ExtensionPart(_SKI, part.critical, _own_key_identifier(public_key))
    raise refusals.unsupported(f"The server demands the extension {part.oid}; give a value for it.")


def _own_key_identifier(public_key: CertificatePublicKeyTypes) -> bytes:
    return octets(key_identifier(public_key))


def sign_request(planned: Plan, key: keys.Key, challenge: str = "") -> bytes:
    """Sign the request now; `challenge` becomes its challengePassword.

    Raises:
        RequestError: the key cannot sign, or signs what nobody can verify.
    """
    public_key = key.signer.public_key()
    info = _request_info(planned, public_key, challenge)
    choice = keys.choose_signature(public_key, planned.digest)
    algorithm = csr.SignedDigestAlgorithm({"algorithm": choice.oid})
    if choice.oid in _RSA_SIGNATURES:
        algorithm["parameters"] = core.Null()
    signature = keys.sign(key.signer, choice, info)
    der = _sequence(info + bytes(algorithm.dump()) + bytes(core.OctetBitString(signature).dump()))
    if not x509.load_der_x509_csr(der).is_signature_valid:
        raise refusals.unsupported("The key's signature does not fit its public key; nothing was sent.")
    return der


def unsigned_request(planned: Plan, public_key: CertificatePublicKeyTypes, challenge: str = "") -> bytes:
    """The request of a key that does not sign, for full CMC, which proves its possession otherwise.

    In the signature's place is what RFC 5272 appendix C and RFC 6402 put there: id-alg-noSignature, and a digest that
    nobody need look at.
    """
    info = _request_info(planned, public_key, challenge)
    algorithm = csr.SignedDigestAlgorithm({"algorithm": oids.NO_SIGNATURE, "parameters": core.Null()})
    value = octets(hashlib.sha1(info, usedforsecurity=False).digest())
    return _sequence(info + bytes(algorithm.dump()) + bytes(core.OctetBitString(value).dump()))


def is_unsigned(request: x509.CertificateSigningRequest) -> bool:
    """Whether it is one of those that `unsigned_request` makes."""
    return request.signature_algorithm_oid.dotted_string == oids.NO_SIGNATURE


def _request_info(planned: Plan, public_key: CertificatePublicKeyTypes, challenge: str) -> bytes:
    attributes = list(planned.attributes)
    if planned.extensions:
        attributes.append(extension_attribute(planned.extensions))
    if challenge:
        if len(challenge) > 255:
            raise refusals.unwanted("A challengePassword has at most 255 characters.")
        value = bytes(core.PrintableString(challenge).dump())
        attributes.append(Attribute(oids.CHALLENGE_PASSWORD, (value,)))
    return _sequence(
        b"\x02\x01\x00"
        + planned.subject
        + keys.spki(public_key)
        + _tagged(0xA0, b"".join(sorted(dump_attribute(one) for one in attributes)))
    )


_RSA_SIGNATURES = frozenset({oids.SHA256_WITH_RSA, oids.SHA384_WITH_RSA, oids.SHA512_WITH_RSA})
