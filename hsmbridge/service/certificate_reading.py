"""Reading X.509 (RFC 5280): certificates and CRLs in DER become values, or are refused with a reason.

Everything that anybody will ask of a certificate is read once when it comes in, so that one that is half readable is
never stored. Nothing here trusts anything: that is `hsmbridge.service.certificate_verification`.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

import msgspec
from asn1crypto import x509 as asn1
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.hashes import SHA256, Hash
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from hsmbridge.core import messages as m
from hsmbridge.core.certificates import (
    ANCHORS_BYTES_MAX,
    ANCHORS_MAX,
    ANCHORS_OF_ONE_SUBJECT_MAX,
    CERTIFICATE_MAX,
    CHAIN_MAX,
    CRL_MAX,
)
from hsmbridge.core.errors import CertificateError, LimitError, RequestError, Status

_TEXT_MAX = 512
_NAMES_SHOWN = 64
_T = TypeVar("_T")

# What the library raises for what is no X.509; a name or a number that is not one comes as any of these.
_UNREADABLE = (ValueError, TypeError, KeyError, OverflowError, UnsupportedAlgorithm, x509.InvalidVersion,
               x509.DuplicateExtension, x509.UnsupportedGeneralNameType)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ReadCertificate:
    """A certificate that was read.

    Attributes:
        certificate: as the library has it.
        der: as it came.
        spki: its public key, SubjectPublicKeyInfo in DER, as it stands there.
        facts: what it says, without the DER.
    """

    certificate: x509.Certificate
    der: bytes
    spki: bytes
    facts: m.CertificateFacts

    @property
    def with_der(self) -> m.CertificateFacts:
        """What it says, with the DER."""
        return msgspec.structs.replace(self.facts, certificate=self.der)


def read_certificate(der: bytes) -> ReadCertificate:
    """One certificate. Raises CertificateError (CERTIFICATE_INVALID), LimitError (DATA_TOO_LARGE)."""
    if len(der) > CERTIFICATE_MAX:
        raise LimitError(
            Status.DATA_TOO_LARGE, f"A certificate has at most {CERTIFICATE_MAX:,} bytes; this one has {len(der):,}."
        )
    return _readable("certificate", lambda: _read_certificate(der))


def read_chain(certificates: Sequence[bytes]) -> tuple[ReadCertificate, ...]:
    """A certificate and those that lead from it towards an anchor, in that order whatever order they came in.

    The same certificate twice counts once. Raises CertificateError (CERTIFICATE_INVALID) where they are no one
    chain, LimitError (DATA_TOO_LARGE), RequestError (INVALID_ARGUMENT) for none.
    """
    found = _distinct(certificates, CHAIN_MAX, "A chain")
    if not found:
        raise RequestError(Status.INVALID_ARGUMENT, "There is no certificate; give at least one.")
    first = _the_leaf(found)
    chain, rest = [first], [one for one in found if one is not first]
    while rest:
        issuer = next((one for one in rest if issued(chain[-1], one)), None)
        if issuer is None:
            raise CertificateError(
                Status.CERTIFICATE_INVALID,
                f"{_shown(rest[0])} did not issue {_shown(chain[-1])}: the certificates are not one chain. Give one"
                " certificate and those that lead from it to its anchor.",
            )
        chain.append(issuer)
        rest.remove(issuer)
    return tuple(chain)


def read_intermediates(certificates: Sequence[bytes]) -> tuple[ReadCertificate, ...]:
    """Certificates that may lead to an anchor, in any order. Raises as `read_chain`."""
    found = _distinct(certificates, CHAIN_MAX, "A list of intermediate certificates")
    # Many of one name and key would let the search for a way to the anchor grow without bound.
    if len({(one.facts.subject, one.spki) for one in found}) < len(found):
        raise CertificateError(
            Status.CERTIFICATE_INVALID,
            "Two of the intermediate certificates have the same subject and key; give only the one that leads to the"
            " anchor.",
        )
    return found


def read_anchors(certificates: Sequence[bytes]) -> tuple[ReadCertificate, ...]:
    """The certificates of a trust store, each once. Raises as `read_chain`, for one that is no authority too."""
    if sum(map(len, certificates)) > ANCHORS_BYTES_MAX:
        raise LimitError(Status.DATA_TOO_LARGE, f"A trust store has at most {ANCHORS_BYTES_MAX:,} bytes.")
    found = _distinct(certificates, ANCHORS_MAX, "A trust store")
    subjects = Counter(one.facts.subject for one in found)
    if subjects and max(subjects.values()) > ANCHORS_OF_ONE_SUBJECT_MAX:
        raise LimitError(
            Status.DATA_TOO_LARGE,
            f"A trust store has at most {ANCHORS_OF_ONE_SUBJECT_MAX} anchors of the same subject.",
        )
    for one in found:
        if not one.facts.ca:
            raise CertificateError(
                Status.CERTIFICATE_INVALID,
                f"{_shown(one)} is not the certificate of an authority (basic constraints) and anchors nothing.",
            )
    return found


def issued(subject: ReadCertificate, issuer: ReadCertificate) -> bool:
    """Whether one certificate was signed by the key of the other.

    Where the library does not know the algorithm, names alone decide; who verifies a chain does not ask here.
    """
    if subject.certificate.issuer != issuer.certificate.subject:
        return False
    try:
        subject.certificate.verify_directly_issued_by(issuer.certificate)
    except (TypeError, UnsupportedAlgorithm):
        return True
    except (InvalidSignature, ValueError):
        return False
    return True


def same_key(spki: bytes, other: bytes) -> bool:
    """Whether two public keys are one, however they are written down."""
    return bool(spki) and (spki == other or _canonical(spki) == _canonical(other))


@dataclass(frozen=True, slots=True)
class ReadCrl:
    """A CRL that was read; `number` is None where it has none, `next_update` 0.0."""

    crl: x509.CertificateRevocationList
    der: bytes
    issuer: str
    number: int | None
    this_update: float
    next_update: float
    revoked: int


_CRL_EXTENSIONS = (x509.CRLNumber, x509.AuthorityKeyIdentifier, x509.IssuingDistributionPoint)


def read_crl(der: bytes) -> ReadCrl:
    """One CRL, complete for its scope. Raises CertificateError (CERTIFICATE_INVALID), LimitError (DATA_TOO_LARGE)."""
    if len(der) > CRL_MAX:
        raise LimitError(Status.DATA_TOO_LARGE, f"A CRL has at most {CRL_MAX:,} bytes; this one has {len(der):,}.")
    found = _readable("CRL", lambda: _read_crl(der))
    for extension in found.crl.extensions:
        if isinstance(extension.value, x509.DeltaCRLIndicator):
            raise CertificateError(Status.CERTIFICATE_INVALID, "This is a delta CRL; give the complete one.")
        if extension.critical and not isinstance(extension.value, _CRL_EXTENSIONS):
            raise CertificateError(
                Status.CERTIFICATE_INVALID,
                f"The CRL has a critical extension ({extension.oid.dotted_string}) that is not known here.",
            )
        point = extension.value
        if isinstance(point, x509.IssuingDistributionPoint) and (
            point.indirect_crl or point.only_some_reasons or point.only_contains_attribute_certs
        ):
            raise CertificateError(
                Status.CERTIFICATE_INVALID,
                "The CRL is an indirect one, or for some reasons or attribute certificates only; give the complete"
                " one of the issuer.",
            )
    return found


def _read_certificate(der: bytes) -> ReadCertificate:
    certificate = x509.load_der_x509_certificate(der)
    facts = m.CertificateFacts(
        subject=_name(certificate.subject),
        issuer=_name(certificate.issuer),
        serial=f"{certificate.serial_number:x}",
        not_before=_seconds(certificate.not_valid_before_utc),
        not_after=_seconds(certificate.not_valid_after_utc),
        names=_alternative_names(certificate),
        ca=_is_authority(certificate),
        key_algorithm=certificate.public_key_algorithm_oid.dotted_string,
        fingerprint=fingerprint(der),
    )
    parsed = asn1.Certificate.load(der, strict=True)
    spki = bytes(parsed["tbs_certificate"]["subject_public_key_info"].dump())
    return ReadCertificate(certificate, der, spki, facts)


def _read_crl(der: bytes) -> ReadCrl:
    crl = x509.load_der_x509_crl(der)
    try:
        number = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except x509.ExtensionNotFound:
        number = None
    ends = crl.next_update_utc
    return ReadCrl(
        crl=crl,
        der=der,
        issuer=_name(crl.issuer),
        number=number,
        this_update=_seconds(crl.last_update_utc),
        next_update=0.0 if ends is None else _seconds(ends),
        revoked=len(crl),
    )


def fingerprint(der: bytes) -> bytes:
    """SHA-256 over the DER."""
    digest = Hash(SHA256())
    digest.update(der)
    return digest.finalize()


def _readable(what: str, read: Callable[[], _T]) -> _T:
    try:
        return read()
    except _UNREADABLE as problem:
        raise CertificateError(
            Status.CERTIFICATE_INVALID,
            f"The {what} cannot be read; it must be X.509 in DER or PEM, whole and unchanged.",
            origin=f"{type(problem).__name__}: {problem}"[:_TEXT_MAX],
        ) from None


def _distinct(certificates: Sequence[bytes], most: int, what: str) -> tuple[ReadCertificate, ...]:
    distinct = tuple(dict.fromkeys(certificates))
    if len(distinct) > most:
        raise LimitError(Status.DATA_TOO_LARGE, f"{what} has at most {most} certificates; there are {len(distinct)}.")
    return tuple(read_certificate(der) for der in distinct)


def _the_leaf(found: tuple[ReadCertificate, ...]) -> ReadCertificate:
    leaves = [one for one in found if not any(issued(other, one) for other in found if other is not one)]
    if len(leaves) != 1:
        raise CertificateError(
            Status.CERTIFICATE_INVALID,
            "The certificates are not one chain: give one certificate and those that lead from it to its anchor.",
        )
    return leaves[0]


def _name(name: x509.Name) -> str:
    return name.rfc4514_string()[:_TEXT_MAX]


def _seconds(time: datetime) -> float:
    return time.timestamp()


def _alternative_names(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(_alternative_name(name)[:_TEXT_MAX] for name in list(names)[:_NAMES_SHOWN])


def _alternative_name(name: x509.GeneralName) -> str:
    match name:
        case x509.DNSName():
            return f"DNS:{name.value}"
        case x509.IPAddress():
            return f"IP:{name.value}"
        case x509.RFC822Name():
            return f"email:{name.value}"
        case x509.UniformResourceIdentifier():
            return f"URI:{name.value}"
        case x509.DirectoryName():
            return f"DN:{name.value.rfc4514_string()}"
        case _:
            return type(name).__name__


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _canonical(spki: bytes) -> bytes:
    try:
        return load_der_public_key(spki).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except _UNREADABLE:
        return spki


def _shown(one: ReadCertificate) -> str:
    return f"The certificate {one.facts.subject or one.facts.fingerprint.hex()[:16]!s:.120}"
