"""Certificates that an application stores (C_CreateObject): under a name of the caller's own, bound to their key.

A certificate is bound to the slot that holds its key, where the caller sees one on the token of the session; there is
no such thing as a certificate that lives as long as a session.
"""

import secrets
from typing import Final

from hsmbridge.core import messages as m
from hsmbridge.core.errors import HsmBridgeError, Status
from hsmbridge.frontends.asking import Asking, ask
from hsmbridge.frontends.p11kit.certificates import CertificateParts, parts_of
from hsmbridge.frontends.p11kit.names import fits, slot_name
from hsmbridge.frontends.p11kit.numbers import Cka, Cko, Ckr
from hsmbridge.frontends.p11kit.objects import KeyObject
from hsmbridge.frontends.p11kit.refusals import Refused
from hsmbridge.frontends.p11kit.state import Application, PkcsSession
from hsmbridge.frontends.p11kit.templates import Template, number, octets, required

_NAMES_TRIED: Final = 4


class NewCertificates:
    """Has certificates stored for one application."""

    def __init__(self, application: Application) -> None:
        """`application`: whose certificates these are."""
        self._application = application

    def create(self, session: PkcsSession, template: Template) -> Asking[int]:
        """The handle of a new certificate. Raises Refused."""
        application = self._application
        application.require_login(session)
        if number(template, Cka.CERTIFICATE_TYPE) not in {None, 0}:
            raise Refused(Ckr.ATTRIBUTE_VALUE_INVALID)
        if number(template, Cka.TRUSTED):
            raise Refused(Ckr.ATTRIBUTE_READ_ONLY)
        if not number(template, Cka.TOKEN):
            raise Refused(Ckr.TEMPLATE_INCONSISTENT)
        if not session.writes:
            raise Refused(Ckr.SESSION_READ_ONLY)
        certificate = required(template, Cka.VALUE)
        parts = parts_of(certificate)
        for type_, value in ((Cka.SUBJECT, parts.subject), (Cka.ISSUER, parts.issuer)):
            if octets(template, type_) not in {None, b"", value}:
                raise Refused(Ckr.TEMPLATE_INCONSISTENT)
        slot = yield from self._slot(session, parts)
        info = yield from self._import(template, certificate, slot)
        listing = yield from application.directory.listing(application.principal)
        for one in listing.objects:
            if one.kind is Cko.CERTIFICATE and one.origin.certificate == info.name:
                return application.handle(one, listing.stamp)
        raise Refused(Ckr.FUNCTION_FAILED)

    def _slot(self, session: PkcsSession, parts: CertificateParts) -> Asking[str]:
        application = self._application
        listing = yield from application.directory.listing(application.principal)
        for one in listing.objects:
            if isinstance(one, KeyObject) and one.spki == parts.spki and session.token.holds(one.provider):
                return one.origin.slot
        return ""

    def _import(self, template: Template, certificate: bytes, slot: str) -> Asking[m.CertInfo]:
        label, key_id = octets(template, Cka.LABEL) or b"", octets(template, Cka.ID)
        if not fits(label, key_id):
            # Its key says then which id it is, or its public key.
            key_id = None
        distinction = "" if label or key_id else secrets.token_hex(4)
        for attempt in range(_NAMES_TRIED):
            name = slot_name(label, key_id, distinction)
            try:
                return (yield from ask(m.CertImportRequest(name, (certificate,), slot), m.CertInfo))
            except HsmBridgeError as failure:
                if failure.status is not Status.RESOURCE_EXISTS or attempt == _NAMES_TRIED - 1:
                    raise
                distinction = secrets.token_hex(4)
        raise Refused(Ckr.FUNCTION_FAILED)
