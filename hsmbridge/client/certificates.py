"""Certificates, trust stores and CRLs of the daemon: stored, held, bound to key slots, verified."""

from collections.abc import Iterable
from datetime import datetime

from hsmbridge.client.calls import Buffer, Caller, octets
from hsmbridge.client.connection import Connection
from hsmbridge.client.deadline import UNSET, Timeout
from hsmbridge.client.held import Held, HeldResource
from hsmbridge.client.key_formats.certificates import certificates_in, crl_in
from hsmbridge.core import messages as m
from hsmbridge.core.certificates import CertificatePurpose, RevocationCheck
from hsmbridge.core.errors import RequestError, Status
from hsmbridge.core.identifiers import CryptoResourceId, ResourceKind
from hsmbridge.core.policy import Role


class CertificateGuard(HeldResource):
    """Holds a transient certificate; a context manager, usable wherever a certificate is named.

    Attributes:
        chain: what the certificate says, and those that lead from it towards an anchor.
    """

    __slots__ = ("__weakref__", "_held", "_timeout", "chain")

    def __init__(
        self,
        connection: Connection,
        resource: CryptoResourceId,
        chain: list[m.CertificateFacts],
        timeout: float | None,
    ) -> None:
        self._held = Held(connection, resource)
        self._timeout = timeout
        self.chain = chain

    def __repr__(self) -> str:
        return f"<CertificateGuard, {'active' if self.active else 'ended'}>"

    def _release_timeout(self) -> float | None:
        return self._timeout


Named = str | CryptoResourceId
"""A certificate, trust store or CRL by its name (NAME or NAMESPACE/NAME), or by its id on this connection."""

Certificate = Named | CertificateGuard
"""A certificate by its name or id, or a transient one by its guard."""


class Certificates(Caller):
    """The calls about certificates. Those that change one need the role administer there (AccessError).

    `certificates` and the like are the content of a file: a PEM bundle, or DER. All raise CertificateError
    (CERTIFICATE_INVALID) for what cannot be read, and ResourceError (RESOURCE_NOT_FOUND) for what is not there or
    hidden.
    """

    def import_certificate(
        self, name: str, certificates: Buffer, *, slot: str = "", replace: bool = False, timeout: Timeout = UNSET
    ) -> m.CertInfo:
        """Store a certificate, with those that lead from it towards an anchor, in any order.

        Args:
            slot: bind it to this key slot, which must hold its key (CertificateError otherwise).
            replace: put it in the place of the one that is there; what that is bound to stays.

        Raises ResourceError (RESOURCE_EXISTS) where the name is taken.
        """
        given = certificates_in(octets(certificates))
        return self._perform(m.CertInfo, lambda: m.CertImportRequest(name, given, slot, replace), timeout=timeout)

    def load_certificate(self, certificates: Buffer, *, timeout: Timeout = UNSET) -> CertificateGuard:
        """Hold a certificate in the daemon for this connection only, without a name."""
        given = certificates_in(octets(certificates))
        reply, connection = self._perform_where(m.CertLoadReply, lambda: m.CertLoadRequest(given), timeout=timeout)
        return CertificateGuard(connection, reply.resource, reply.chain, self.timeout)

    def show_certificate(self, certificate: Certificate, *, timeout: Timeout = UNSET) -> m.CertInfo:
        """A certificate with its chain, and what it is bound to."""
        return self._perform(m.CertInfo, lambda: m.CertShowRequest(_reference(certificate)), timeout=timeout)

    def list_certificates(self, namespace: str = "", *, timeout: Timeout = UNSET) -> list[m.CertInfo]:
        """The certificates that the caller may see, without their chains."""
        return self._perform(m.CertListReply, lambda: m.CertListRequest(namespace), timeout=timeout).certificates

    def bind_certificate(self, name: str, slot: str, *, timeout: Timeout = UNSET) -> m.CertInfo:
        """Bind a certificate to the key slot that holds its key; "" unbinds it. Raises CertificateError."""
        return self._perform(m.CertInfo, lambda: m.CertBindRequest(name, slot), timeout=timeout)

    def verify_certificate(
        self,
        certificate: Certificate,
        trust_store: Named,
        *,
        purpose: CertificatePurpose | str,
        subject: str = "",
        time: datetime | None = None,
        intermediates: Buffer = b"",
        crls: Iterable[Named] = (),
        revocation: RevocationCheck | str = RevocationCheck.CHAIN,
        timeout: Timeout = UNSET,
    ) -> list[bytes]:
        """Verify a certificate against a trust store: the way to its anchor in DER, the certificate first.

        Args:
            purpose: "server", "client", or "any" for other uses, which the caller checks.
            subject: the DNS name or IP address that a server's certificate must be for.
            time: when all must be valid, with a zone; None is now.
            intermediates: more certificates, beside those that are stored with the first.
            crls: what tells who was revoked. None named, nobody is asked.
            revocation: whether the CRLs must speak of the whole "chain" or of the "leaf" only.

        Raises CertificateError (CERTIFICATE_NOT_TRUSTED), which says why.
        """
        if time is not None and time.tzinfo is None:
            raise RequestError(Status.INVALID_ARGUMENT, "The time of a verification needs a zone.")
        asked = crls if isinstance(crls, tuple) else tuple(crls)
        more = certificates_in(octets(intermediates)) if intermediates else ()
        seconds = 0.0 if time is None else time.timestamp()
        wanted, check = CertificatePurpose(purpose), RevocationCheck(revocation)
        return self._perform(
            m.CertVerifyReply,
            lambda: m.CertVerifyRequest(
                _reference(certificate), trust_store, wanted, subject, seconds, more, asked, check
            ),
            timeout=timeout,
        ).chain

    def remove_certificate(self, name: str, *, timeout: Timeout = UNSET) -> None:
        """Remove a certificate; the key that it is for stays."""
        self._remove(name, ResourceKind.CERT_SLOT, timeout)

    def grant_certificate(
        self,
        name: str,
        principal: str,
        *,
        role: Role = Role.USE,
        kind: ResourceKind = ResourceKind.CERT_SLOT,
        timeout: Timeout = UNSET,
    ) -> list[m.AccessInfo]:
        """Let a principal, such as "uid:1000", see a certificate (or what `kind` says), or administer it as well."""
        request = m.CertAccessRequest(name, kind, principal, role)
        return self._perform(m.CertAccessReply, lambda: request, timeout=timeout).access

    def ungrant_certificate(
        self,
        name: str,
        principal: str,
        *,
        kind: ResourceKind = ResourceKind.CERT_SLOT,
        timeout: Timeout = UNSET,
    ) -> list[m.AccessInfo]:
        """Take a principal off the access list of a certificate, or of what `kind` says."""
        request = m.CertAccessRequest(name, kind, principal, None)
        return self._perform(m.CertAccessReply, lambda: request, timeout=timeout).access

    def create_trust_store(self, name: str, anchors: Buffer = b"", *, timeout: Timeout = UNSET) -> m.TrustInfo:
        """Make a named set of anchors. Raises ResourceError (RESOURCE_EXISTS) where the name is taken."""
        given = certificates_in(octets(anchors)) if anchors else ()
        return self._perform(m.TrustInfo, lambda: m.TrustCreateRequest(name, given), timeout=timeout)

    def add_anchors(self, name: str, anchors: Buffer, *, timeout: Timeout = UNSET) -> m.TrustInfo:
        """Add anchors to a trust store; those that it has already change nothing."""
        given = certificates_in(octets(anchors))
        return self._perform(m.TrustInfo, lambda: m.TrustAddRequest(name, given), timeout=timeout)

    def remove_anchors(self, name: str, fingerprints: Iterable[bytes], *, timeout: Timeout = UNSET) -> m.TrustInfo:
        """Take anchors out of a trust store, by the SHA-256 of their DER."""
        given = tuple(fingerprints)
        return self._perform(m.TrustInfo, lambda: m.TrustRemoveRequest(name, given), timeout=timeout)

    def show_trust_store(self, trust_store: Named, *, timeout: Timeout = UNSET) -> m.TrustInfo:
        """A trust store with its anchors."""
        return self._perform(m.TrustInfo, lambda: m.TrustShowRequest(trust_store), timeout=timeout)

    def list_trust_stores(self, namespace: str = "", *, timeout: Timeout = UNSET) -> list[m.TrustInfo]:
        """The trust stores that the caller may see."""
        return self._perform(m.TrustListReply, lambda: m.TrustListRequest(namespace), timeout=timeout).trust_stores

    def remove_trust_store(self, name: str, *, timeout: Timeout = UNSET) -> None:
        """Remove a trust store with all its anchors."""
        self._remove(name, ResourceKind.VERIFICATION_TRUST_STORE, timeout)

    def import_crl(self, name: str, crl: Buffer, *, timeout: Timeout = UNSET) -> m.CrlInfo:
        """Store a CRL, or put it in the place of an older one of the same issuer; an older one is refused."""
        given = crl_in(octets(crl))
        return self._perform(m.CrlInfo, lambda: m.CrlImportRequest(name, given), timeout=timeout)

    def show_crl(self, crl: Named, *, timeout: Timeout = UNSET) -> m.CrlInfo:
        """A CRL."""
        return self._perform(m.CrlInfo, lambda: m.CrlShowRequest(crl), timeout=timeout)

    def list_crls(self, namespace: str = "", *, timeout: Timeout = UNSET) -> list[m.CrlInfo]:
        """The CRLs that the caller may see."""
        return self._perform(m.CrlListReply, lambda: m.CrlListRequest(namespace), timeout=timeout).crls

    def remove_crl(self, name: str, *, timeout: Timeout = UNSET) -> None:
        """Remove a CRL."""
        self._remove(name, ResourceKind.CRL, timeout)

    def resolve_certificate(
        self, name: str, kind: ResourceKind = ResourceKind.CERT_SLOT, *, timeout: Timeout = UNSET
    ) -> CryptoResourceId:
        """The id of a certificate, trust store or CRL on this connection; the same one every time."""
        return self._perform(m.ResolveReply, lambda: m.ResolveRequest(name, kind), timeout=timeout).resource

    def _remove(self, name: str, kind: ResourceKind, timeout: Timeout) -> None:
        self._perform(m.Empty, lambda: m.CertRemoveRequest(name, kind), timeout=timeout)


def _reference(certificate: Certificate) -> m.Reference:
    return certificate.resource if isinstance(certificate, CertificateGuard) else certificate
