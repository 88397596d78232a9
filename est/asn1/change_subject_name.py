"""ChangeSubjectName (RFC 6402 section 2.8 with erratum 3943): the names that a renewed certificate is to have.

ChangeSubjectName ::= SEQUENCE { subject Name OPTIONAL, subjectAlt [1] IMPLICIT GeneralNames OPTIONAL }
"""

from dataclasses import dataclass
from typing import ClassVar

from asn1crypto import x509

from est.asn1.der import Sequence, read


class _ChangeSubjectName(Sequence):
    _fields: ClassVar[list[tuple[object, ...]]] = [
        ("subject", x509.Name, {"optional": True}),
        ("subject_alt", x509.GeneralNames, {"implicit": 1, "optional": True}),
    ]


@dataclass(frozen=True, slots=True)
class ChangedNames:
    """The new names as DER, a Name and a GeneralNames; b"" for one that is not changed."""

    subject: bytes = b""
    alternative_names: bytes = b""


def dump_change_subject_name(names: ChangedNames) -> bytes:
    """Write the value of the attribute."""
    written = _ChangeSubjectName()
    if names.subject:
        written["subject"] = x509.Name.load(names.subject)
    if names.alternative_names:
        written["subject_alt"] = x509.GeneralNames.load(names.alternative_names)
    return bytes(written.dump())


def parse_change_subject_name(der: bytes) -> ChangedNames:
    """Read the value of the attribute.

    Raises:
        WireError: it cannot be read.
    """

    def take() -> ChangedNames:
        held = _ChangeSubjectName.load(der, strict=True)
        subject, alternative = held["subject"], held["subject_alt"]
        return ChangedNames(
            bytes(subject.dump()) if isinstance(subject, x509.Name) else b"",
            bytes(alternative.untag().dump()) if isinstance(alternative, x509.GeneralNames) else b"",
        )

    return read("ChangeSubjectName", der, take)
