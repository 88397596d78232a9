"""Certificates, chains and CRLs as the daemon takes them, and the files that its clients read them from."""

from collections.abc import Callable, Iterable
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519

from hsmbridge.client.key_formats.certificates import certificate_pem, certificates_in, crl_in, crl_pem
from hsmbridge.core.certificates import ANCHORS_MAX
from hsmbridge.service.certificate_reading import ReadCrl, read_anchors, read_certificate, read_chain, read_crl
from tests.fuzz.target import Reader, Target
from tests.unit.service.pki import NOW, Authority, name_of


def read_bundle(data: bytes) -> tuple[bytes, ...]:
    """A file of certificates; written as PEM they are the same again."""
    found = certificates_in(data)
    assert len(found) <= ANCHORS_MAX
    assert certificates_in(certificate_pem(*found).encode()) == found
    return found


def read_crl_file(data: bytes) -> ReadCrl:
    """A file of a CRL, to its end."""
    crl = crl_in(data)
    assert crl_in(crl_pem(crl).encode()) == crl
    return read_crl(crl)


def _of_bundle(read: Callable[[Iterable[bytes]], object]) -> Callable[[bytes], object]:
    return lambda data: read(certificates_in(data))


def _seeds() -> tuple[list[bytes], list[bytes], list[bytes]]:
    root = Authority("Root", "Ed25519")
    middle = Authority("Middle", "Ed25519", root)
    leaf = middle.issue(names=("host.example", "192.0.2.1"))
    return [leaf, middle.der + leaf, root.der], [_odd_certificate()], [root.crl(), root.crl(1, 2, number=7)]


def _odd_certificate() -> bytes:
    """One with extensions of many kinds."""
    key = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    names = [
        x509.DNSName("a.example"),
        x509.IPAddress(ip_address("2001:db8::1")),
        x509.RFC822Name("a@example"),
        x509.UniformResourceIdentifier("urn:x"),
        x509.DirectoryName(name_of("dir")),
        x509.RegisteredID(x509.ObjectIdentifier("1.2.3")),
        x509.OtherName(x509.ObjectIdentifier("1.2.3"), b"\x04\x01x"),
    ]
    point = x509.DistributionPoint([x509.UniformResourceIdentifier("http://crl.example")], None, None, None)
    policy = x509.PolicyInformation(x509.ObjectIdentifier("1.2.3"), ["http://cps.example"])
    extensions = (
        x509.SubjectAlternativeName(names),
        x509.CRLDistributionPoints([point]),
        x509.CertificatePolicies([policy]),
        x509.NameConstraints([x509.DNSName("example")], None),
        x509.TLSFeature([x509.TLSFeatureType.status_request]),
        x509.BasicConstraints(True, 1),
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(name_of("odd"))
        .issuer_name(name_of("odd"))
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(NOW)
        .not_valid_after(NOW)
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    from cryptography.hazmat.primitives.serialization import Encoding

    return builder.sign(key, None).public_bytes(Encoding.DER)


_PLAIN, _ODD, _CRLS = _seeds()

TARGET = Target(
    (
        Reader("bundle", read_bundle, [*_PLAIN, certificate_pem(_PLAIN[0]).encode()]),
        Reader("certificate", read_certificate, [_PLAIN[0], _PLAIN[2], *_ODD]),
        Reader("chain", _of_bundle(lambda found: read_chain(tuple(found))), _PLAIN[:2]),
        Reader("anchors", _of_bundle(lambda found: read_anchors(tuple(found))), [_PLAIN[2], *_ODD]),
        Reader("CRL", read_crl, _CRLS),
        Reader("CRL file", read_crl_file, [*_CRLS, crl_pem(_CRLS[0]).encode()]),
    )
)
