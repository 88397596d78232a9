"""Anchors of trust stores as PKCS#11 objects: certificates that say CKA_TRUSTED, and what NSS looks for beside them.

GnuTLS and p11-kit believe a certificate with CKA_TRUSTED on a token that they were told to trust. NSS ignores that
attribute, and wants an object of its own for each anchor (CKO_NSS_TRUST), on a token that says that it has such
objects (CKO_NSS_BUILTIN_ROOT_LIST): vendor-defined numbers of NSS's pkcs11n.h, not of the standard.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from hsmbridge.core import messages as m
from hsmbridge.frontends.p11kit.certificates import CertificateObject, parts_of
from hsmbridge.frontends.p11kit.numbers import Cka, Cko
from hsmbridge.frontends.p11kit.objects import Origin, PkcsObject, ReadableObject, stable_id
from hsmbridge.wire.p11kit_attributes import AttributeValue

_TRUSTED_DELEGATOR: Final = (0xCE534352).to_bytes(8, "little")
"""CKT_NSS_TRUSTED_DELEGATOR, an authority that certificates may lead to; p11-kit carries it as the client's memory."""


@dataclass(eq=False)
class TrustObject(ReadableObject):
    """What NSS wants to know: that an anchor is one, or that there are anchors; attributes as of `PkcsObject`."""

    origin: Origin
    kind: Cko
    label: bytes
    certificate: bytes = b""
    provider: str = ""
    id: bytes = b""
    session: int = 0

    @cached_property
    def attributes(self) -> Mapping[int, AttributeValue]:
        """What can be read of it."""
        values: dict[int, AttributeValue] = {
            Cka.CLASS: int(self.kind),
            Cka.TOKEN: 1,
            Cka.PRIVATE: 0,
            Cka.MODIFIABLE: 0,
            Cka.COPYABLE: 0,
            Cka.DESTROYABLE: b"\0",
            Cka.LABEL: self.label,
        }
        if self.certificate:
            parts = parts_of(self.certificate)
            values |= {
                Cka.SUBJECT: parts.subject,
                Cka.ISSUER: parts.issuer,
                Cka.SERIAL_NUMBER: parts.serial,
                # NSS asks for both, and believes nothing of an object that lacks one.
                Cka.NSS_CERT_SHA1_HASH: hashlib.sha1(self.certificate, usedforsecurity=False).digest(),
                Cka.NSS_CERT_MD5_HASH: hashlib.md5(self.certificate, usedforsecurity=False).digest(),
                Cka.NSS_TRUST_SERVER_AUTH: _TRUSTED_DELEGATOR,
                Cka.NSS_TRUST_CLIENT_AUTH: _TRUSTED_DELEGATOR,
                Cka.NSS_TRUST_EMAIL_PROTECTION: _TRUSTED_DELEGATOR,
                Cka.NSS_TRUST_CODE_SIGNING: _TRUSTED_DELEGATOR,
                Cka.NSS_TRUST_STEP_UP_APPROVED: b"\0",
            }
        return values


def anchor_objects(info: m.TrustInfo) -> Iterator[PkcsObject]:
    """The objects of a trust store with its anchors in DER: one for the store, two for each anchor."""
    whole = Origin(certificate=info.name, created=info.created, version=info.generation)
    yield TrustObject(origin=whole, kind=Cko.NSS_BUILTIN_ROOT_LIST, label=info.name.encode())
    for anchor in info.anchors:
        origin = Origin(certificate=f"{info.name}#{anchor.fingerprint.hex()}", created=info.created)
        label = anchor.subject.encode()
        yield CertificateObject(
            origin=origin,
            provider="",
            label=label,
            id=stable_id(parts_of(anchor.certificate).spki, info.name),
            certificate=anchor.certificate,
            administered=False,
            trusted=True,
        )
        yield TrustObject(origin=origin, kind=Cko.NSS_TRUST, label=label, certificate=anchor.certificate)
