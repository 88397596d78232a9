"""Authorities, certificates and CRLs to test with, made by `cryptography`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes, CertificatePublicKeyTypes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)
SERVER, CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH


def new_key(kind: str = "EC") -> CertificateIssuerPrivateKeyTypes:
    match kind:
        case "EC":
            return ec.generate_private_key(ec.SECP256R1())
        case "RSA":
            return rsa.generate_private_key(65537, 2048)
        case "ML-DSA":
            return mldsa.MLDSA65PrivateKey.generate()
        case _:
            return ed25519.Ed25519PrivateKey.generate()


def name_of(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


@dataclass
class Authority:
    """Issues certificates and CRLs. `der` is its own certificate."""

    name: str = "Test Root"
    kind: str = "EC"
    parent: "Authority | None" = None
    begins: datetime = NOW - DAY
    ends: datetime = NOW + 3650 * DAY
    crl_sign: bool = True
    key: CertificateIssuerPrivateKeyTypes = field(init=False)
    der: bytes = field(init=False)

    def __post_init__(self) -> None:
        self.key = new_key(self.kind)
        signer = self.parent or self
        self.der = signer.sign(self.key.public_key(), self.name, self.begins, self.ends, ca=True)

    def sign(
        self,
        public_key: CertificatePublicKeyTypes,
        subject: str,
        begins: datetime,
        ends: datetime,
        *,
        ca: bool = False,
        names: Sequence[str] = (),
        usage: x509.ObjectIdentifier | None = None,
        serial: int = 0,
    ) -> bytes:
        builder = (
            x509.CertificateBuilder()
            .subject_name(name_of(subject))
            .issuer_name(name_of(self.name))
            .public_key(public_key)
            .serial_number(serial or x509.random_serial_number())
            .not_valid_before(begins)
            .not_valid_after(ends)
            .add_extension(x509.BasicConstraints(ca, None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
            .add_extension(
                x509.KeyUsage(
                    digital_signature=not ca,
                    content_commitment=False,
                    key_encipherment=False,
                    data_encipherment=False,
                    key_agreement=False,
                    key_cert_sign=ca,
                    crl_sign=ca and self.crl_sign,
                    encipher_only=False,
                    decipher_only=False,
                ),
                critical=True,
            )
        )
        if names:
            alternative = x509.SubjectAlternativeName([_alternative(name) for name in names])
            builder = builder.add_extension(alternative, critical=False)
        if usage is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        algorithm = None if self.kind in ("ML-DSA", "Ed25519") else SHA256()
        return builder.sign(self.key, algorithm).public_bytes(Encoding.DER)

    def issue(
        self,
        spki: bytes = b"",
        names: Sequence[str] = ("host.example",),
        *,
        usage: x509.ObjectIdentifier | None = SERVER,
        begins: datetime = NOW - DAY,
        ends: datetime = NOW + 90 * DAY,
        serial: int = 0,
    ) -> bytes:
        """A certificate for a public key, or for a new one."""
        public = load_der_public_key(spki) if spki else new_key(self.kind).public_key()
        # Only kinds of keys that certificates are issued for come here.
        return self.sign(public, "leaf", begins, ends, names=names, usage=usage, serial=serial)  # type: ignore[arg-type]

    def crl(
        self,
        *revoked: int,
        number: int = 1,
        begins: datetime = NOW - DAY,
        ends: datetime = NOW + 7 * DAY,
        extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
    ) -> bytes:
        """A CRL over serial numbers."""
        builder = x509.CertificateRevocationListBuilder().issuer_name(name_of(self.name))
        builder = builder.last_update(begins).next_update(ends).add_extension(x509.CRLNumber(number), critical=False)
        for serial in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(begins).build()
            builder = builder.add_revoked_certificate(entry)
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical=critical)
        algorithm = None if self.kind in ("ML-DSA", "Ed25519") else SHA256()
        return builder.sign(self.key, algorithm).public_bytes(Encoding.DER)
