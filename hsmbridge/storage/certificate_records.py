"""Certificates, trust stores and CRLs as the store holds them: one kind of record for the three.

Plain frozen data, like `hsmbridge.storage.records`: nothing here reads X.509. A record is always whole: its row,
what it holds and its access list stand under one MAC and are loaded together.
"""

from dataclasses import dataclass, field
from enum import StrEnum, unique
from typing import NewType

from hsmbridge.core.identifiers import KeyId, QualifiedName
from hsmbridge.storage.records import AccessEntry, SlotId

CertificateId = NewType("CertificateId", bytes)
"""16 random bytes that name a record for good; one made later under the same name has another."""
CERTIFICATE_ID_LENGTH = 16

UNBOUND = SlotId(b"")
NO_KEY = KeyId(b"")


@unique
class CertificateKind(StrEnum):
    """What a record is. Each kind has names of its own."""

    CERTIFICATE = "certificate"
    TRUST_STORE = "trust-store"
    CRL = "crl"


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateRecord:
    """A certificate with its chain, a trust store, or a CRL.

    Attributes:
        items: DER, in order: the certificate and its chain, the anchors, or the one CRL.
        slot_id, key_id: the key slot and key version that a certificate is bound to; UNBOUND and b"" for none.
        access: by principal; the permissions of the entries say nothing here.
        generation: raised by each change that a caller can notice.
        revision: raised by every change.
        created, changed: seconds since 1970, UTC.
    """

    id: CertificateId
    kind: CertificateKind
    name: QualifiedName
    items: tuple[bytes, ...] = field(repr=False)
    creator: str
    generation: int
    revision: int
    created: float
    changed: float
    access: tuple[AccessEntry, ...]
    slot_id: SlotId = UNBOUND
    key_id: KeyId = NO_KEY

    def entry_for(self, principal: str) -> AccessEntry | None:
        """The access entry of a principal."""
        return next((entry for entry in self.access if entry.principal == principal), None)


@dataclass(frozen=True, slots=True)
class CertificateListing:
    """Records found, and kind and name of those that were changed outside of hsmbridge."""

    records: tuple[CertificateRecord, ...]
    tampered: tuple[tuple[str, str], ...]
