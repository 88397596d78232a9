"""Certificates as PKCS#11 objects: CKO_CERTIFICATE, read from the certificates of the service.

One that is bound to a slot is on the token of its key and has that key's CKA_ID; any other one is on every token, and
its CKA_ID is the one that it was stored with, or comes from its public key.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from asn1crypto import x509

from hsmbridge.core import messages as m
from hsmbridge.core.policy import Role
from hsmbridge.frontends.p11kit.names import key_name
from hsmbridge.frontends.p11kit.numbers import Cka, Cko, Ckr
from hsmbridge.frontends.p11kit.objects import KeyObject, Origin, ReadableObject, stable_id
from hsmbridge.frontends.p11kit.refusals import Refused
from hsmbridge.wire.p11kit_attributes import AttributeValue

_X509: Final = 0
_UNSPECIFIED: Final = 0
_AUTHORITY: Final = 2
"""CK_CERTIFICATE_CATEGORY_*."""


@dataclass(frozen=True, slots=True)
class CertificateParts:
    """What PKCS#11 wants of a certificate, each in DER."""

    subject: bytes
    issuer: bytes
    serial: bytes
    spki: bytes


def parts_of(certificate: bytes) -> CertificateParts:
    """Take a certificate apart. Raises Refused (CKR_ATTRIBUTE_VALUE_INVALID)."""
    try:
        body = x509.Certificate.load(certificate, strict=True)["tbs_certificate"]
        return CertificateParts(
            subject=body["subject"].dump(),
            issuer=body["issuer"].dump(),
            serial=body["serial_number"].dump(),
            spki=body["subject_public_key_info"].dump(),
        )
    except (ValueError, TypeError, KeyError):
        raise Refused(Ckr.ATTRIBUTE_VALUE_INVALID) from None


@dataclass(eq=False)
class CertificateObject(ReadableObject):
    """One certificate; attributes as of `PkcsObject`, and the certificate itself in DER.

    `trusted` is an authority that a trust store has for an anchor.
    """

    origin: Origin
    provider: str
    label: bytes
    id: bytes
    certificate: bytes
    administered: bool
    trusted: bool = False
    kind: Cko = Cko.CERTIFICATE
    session: int = 0

    @cached_property
    def attributes(self) -> Mapping[int, AttributeValue]:
        """What can be read of it; numbers that travel as bytes are little-endian already."""
        parts = parts_of(self.certificate)
        return {
            Cka.CLASS: int(self.kind),
            Cka.TOKEN: 1,
            Cka.PRIVATE: 0,
            Cka.MODIFIABLE: 0,
            Cka.COPYABLE: 0,
            Cka.DESTROYABLE: bytes([self.administered]),
            Cka.LABEL: self.label,
            Cka.ID: self.id,
            Cka.CERTIFICATE_TYPE: _X509,
            Cka.CERTIFICATE_CATEGORY: _AUTHORITY if self.trusted else _UNSPECIFIED,
            Cka.TRUSTED: int(self.trusted),
            Cka.CHECK_VALUE: hashlib.sha1(self.certificate, usedforsecurity=False).digest()[:3],
            Cka.START_DATE: b"",
            Cka.END_DATE: b"",
            Cka.SUBJECT: parts.subject,
            Cka.ISSUER: parts.issuer,
            Cka.SERIAL_NUMBER: parts.serial,
            Cka.PUBLIC_KEY_INFO: parts.spki,
            Cka.VALUE: self.certificate,
            Cka.URL: b"",
        }


def certificate_object(
    info: m.CertInfo, certificate: bytes, principal: str, keys: Mapping[tuple[str, int], KeyObject]
) -> CertificateObject:
    """The object of a certificate as a principal sees it; `keys` are its keys, by slot and version."""
    name = key_name(info.name, principal)
    key = keys.get((info.slot, info.slot_version))
    if key is not None:
        key_id = key.id
    else:
        key_id = name.id if name.id is not None else stable_id(parts_of(certificate).spki, info.name)
    return CertificateObject(
        origin=Origin(certificate=info.name, created=info.created, version=info.generation),
        provider="" if key is None else key.provider,
        label=name.label,
        id=key_id,
        certificate=certificate,
        administered=any(one.principal == principal and one.role is Role.ADMINISTER for one in info.access),
    )
