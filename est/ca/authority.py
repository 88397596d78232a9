"""A CA: issues by profile what a request asks for, revokes, and signs CRLs (RFC 5280). It knows nothing of HTTP."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, mlkem, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtensionOID

from est import keys, oids, refusals
from est.asn1.template import KeyPart
from est.ca.profile import USAGES, Profile
from est.ca.record import Issued, Record
from est.csr.request import is_unsigned
from hsmbridge.core.public_keys import is_possible

BACKDATE = timedelta(minutes=5)
"""Certificates begin that much before now, for clocks that are behind; less for those that live shortly."""


@dataclass(frozen=True, slots=True)
class Issuer:
    """A CA's key and its certificates: its own first, then those above it up to the root."""

    key: keys.Key
    chain: tuple[x509.Certificate, ...]

    @property
    def certificate(self) -> x509.Certificate:
        """The CA's own certificate."""
        return self.chain[0]


@dataclass(frozen=True, slots=True)
class Names:
    """The names of a certificate."""

    subject: x509.Name
    alternative: x509.SubjectAlternativeName | None = None


def new_root(key: keys.Key, name: str, lifetime: timedelta = timedelta(days=3650)) -> Issuer:
    """A root: signs itself."""
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    certificate = _ca_certificate(subject, key.signer.public_key(), subject, key, lifetime, None)
    return Issuer(key, (certificate,))


def new_intermediate(above: Issuer, key: keys.Key, name: str, lifetime: timedelta = timedelta(days=1825)) -> Issuer:
    """A CA below another."""
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    issuer = above.certificate.subject
    certificate = _ca_certificate(subject, key.signer.public_key(), issuer, above.key, lifetime, 0)
    return Issuer(key, (certificate, *above.chain))


def bridge(signer: Issuer, vouched: x509.Certificate, lifetime: timedelta = timedelta(days=365)) -> x509.Certificate:
    """NewWithOld or OldWithNew (RFC 4210 section 4.4): the key of one root under the signature of the other."""
    return _ca_certificate(
        vouched.subject, vouched.public_key(), signer.certificate.subject, signer.key, lifetime, None
    )


def _ca_certificate(
    subject: x509.Name,
    public_key: CertificatePublicKeyTypes,
    issuer: x509.Name,
    key: keys.Key,
    lifetime: timedelta,
    path_length: int | None,
) -> x509.Certificate:
    signer_key = key.signer.public_key()
    return (
        _dated(x509.CertificateBuilder(), lifetime)
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(_key_usage(digital_signature=True, ca=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer_key), critical=False)
        .sign(key.signer, keys.issuer_hash(signer_key))
    )


def _dated(builder: x509.CertificateBuilder, lifetime: timedelta) -> x509.CertificateBuilder:
    now = datetime.now(UTC).replace(microsecond=0)
    return builder.not_valid_before(now - min(BACKDATE, lifetime)).not_valid_after(now + lifetime)


def _key_usage(
    *, digital_signature: bool, ca: bool = False, key_encipherment: bool = False, key_agreement: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=key_encipherment,
        data_encipherment=False,
        key_agreement=key_agreement,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def _receiving_usage(public_key: CertificatePublicKeyTypes) -> x509.KeyUsage:
    """The usage of a key that does not sign; ML-KEM keys have this one alone (RFC 9935)."""
    encipherment = isinstance(public_key, rsa.RSAPublicKey | mlkem.MLKEM768PublicKey | mlkem.MLKEM1024PublicKey)
    return _key_usage(digital_signature=False, key_encipherment=encipherment, key_agreement=not encipherment)


class Authority:
    """A CA at work."""

    def __init__(self, issuer: Issuer, record: Record) -> None:
        self.issuer = issuer
        self.record = record

    def issue(
        self,
        request: x509.CertificateSigningRequest,
        profile: Profile,
        requester: str,
        public_key: CertificatePublicKeyTypes | None = None,
        names: Names | None = None,
    ) -> x509.Certificate:
        """A certificate for a request whose proof of possession and requester were checked.

        Args:
            public_key: to be certified in place of the request's own.
            names: to be given in place of the request's own.

        Raises:
            RequestError: the profile does not give what is asked for.
        """
        certified = public_key or request.public_key()
        receives = public_key is None and is_unsigned(request)
        check_key(certified, profile.key_part, receives=receives)
        given = names or Names(request.subject, alternative_name_in(request))
        _check_names(given, profile)
        builder = (
            _dated(x509.CertificateBuilder(), timedelta(seconds=profile.lifetime))
            .subject_name(given.subject)
            .issuer_name(self.issuer.certificate.subject)
            .public_key(certified)
            .serial_number(x509.random_serial_number())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(
                _receiving_usage(certified)
                if receives
                else _key_usage(digital_signature=True, key_encipherment=isinstance(certified, rsa.RSAPublicKey)),
                critical=True,
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(certified), critical=False)
            .add_extension(self._authority_key_identifier(), critical=False)
        )
        if profile.usages:
            usages = [x509.ObjectIdentifier(USAGES[one]) for one in profile.usages]
            builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        if given.alternative is not None:
            builder = builder.add_extension(given.alternative, critical=not list(given.subject))
        certificate = builder.sign(self.issuer.key.signer, keys.issuer_hash(self.issuer.key.signer.public_key()))
        self._note(certificate, profile, requester)
        return certificate

    def _authority_key_identifier(self) -> x509.AuthorityKeyIdentifier:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(self.issuer.key.signer.public_key())

    def _note(self, certificate: x509.Certificate, profile: Profile, requester: str) -> None:
        self.record.add(
            Issued(
                serial=serial_of(certificate),
                der=certificate.public_bytes(serialization.Encoding.DER),
                subject=certificate.subject.rfc4514_string(),
                profile=profile.name,
                requester=requester,
                issued_at=time.time(),
                not_after=certificate.not_valid_after_utc.timestamp(),
                revoked_at=None,
                reason=None,
            )
        )

    def revoke(self, serial: str, reason: str = "unspecified") -> None:
        """Revoke a certificate by its serial number in hex; `reason` as RFC 5280 section 5.3.1 names it.

        Raises:
            ResourceError: this CA did not issue it.
            RequestError: no such reason.
        """
        if reason not in {one.value for one in x509.ReasonFlags} or reason == "removeFromCRL":
            raise refusals.unwanted(f"{reason!r} is no reason for a revocation.")
        self.record.revoke(serial.lower().lstrip("0") or "0", reason)

    def is_revoked(self, certificate: x509.Certificate) -> bool:
        """Whether this CA issued and revoked it."""
        found = self.record.find(serial_of(certificate))
        return found is not None and found.revoked_at is not None

    def crl(self, lifetime: timedelta = timedelta(days=7)) -> x509.CertificateRevocationList:
        """A CRL of what is revoked and not expired."""
        now = datetime.now(UTC).replace(microsecond=0)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.issuer.certificate.subject)
            .last_update(now)
            .next_update(now + lifetime)
            .add_extension(x509.CRLNumber(self.record.next_number("crl")), critical=False)
            .add_extension(self._authority_key_identifier(), critical=False)
        )
        for one in self.record.certificates():
            if one.revoked_at is not None and one.not_after > now.timestamp():
                builder = builder.add_revoked_certificate(_revoked(one, one.revoked_at))
        return builder.sign(self.issuer.key.signer, keys.issuer_hash(self.issuer.key.signer.public_key()))


def _revoked(one: Issued, revoked_at: float) -> x509.RevokedCertificate:
    builder = (
        x509.RevokedCertificateBuilder()
        .serial_number(int(one.serial, 16))
        .revocation_date(datetime.fromtimestamp(revoked_at, UTC))
    )
    if one.reason and one.reason != "unspecified":
        builder = builder.add_extension(x509.CRLReason(x509.ReasonFlags(one.reason)), critical=False)
    return builder.build()


def serial_of(certificate: x509.Certificate) -> str:
    """The serial number as the record has it: hex, lower case."""
    return f"{certificate.serial_number:x}"


def check_key(public_key: CertificatePublicKeyTypes, wanted: KeyPart | None, *, receives: bool = False) -> None:
    """Refuse a key that is too weak, or of another type than wanted.

    Args:
        receives: its possession was proved otherwise than by a signature.

    Raises:
        RequestError: it is.
    """
    match public_key:
        case rsa.RSAPublicKey():
            if public_key.key_size < 2048 or (wanted and wanted.bits not in {0, public_key.key_size}):
                raise refusals.unwanted("The RSA key has a length that this profile does not take.")
            if not is_possible(public_key):
                raise refusals.unwanted("The RSA key cannot be one: a small prime divides its modulus.")
        case ec.EllipticCurvePublicKey():
            curve = next((oid for oid, name in oids.CURVES.items() if name == public_key.curve.name), "")
            if not curve or (wanted and wanted.curve not in {"", curve}):
                raise refusals.unwanted("The EC key is on a curve that this profile does not take.")
        case _:
            if not keys.key_type_oid(public_key) or not (receives or keys.can_sign(public_key)):
                raise refusals.unwanted("A key of this type is not certified.")
    if wanted and wanted.algorithm != keys.key_type_oid(public_key):
        raise refusals.unwanted("This profile takes keys of another type.")


def alternative_name_in(request: x509.CertificateSigningRequest) -> x509.SubjectAlternativeName | None:
    """The subject alternative name that a request asks for."""
    for one in request.extensions:
        if one.oid == ExtensionOID.SUBJECT_ALTERNATIVE_NAME and isinstance(one.value, x509.SubjectAlternativeName):
            return one.value
    return None


def _check_names(given: Names, profile: Profile) -> None:
    names = given.alternative
    if not list(given.subject) and not (names and list(names)):
        raise refusals.unwanted("The request has no name.")
    dns: Sequence[str] = names.get_values_for_type(x509.DNSName) if names else ()
    for one in dns:
        if profile.dns_suffixes and not one.lower().endswith(tuple(f".{s.lstrip('.')}" for s in profile.dns_suffixes)):
            raise refusals.denied(f"The profile does not give the name {one[:100]}.")
