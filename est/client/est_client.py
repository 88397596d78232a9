"""The operations of EST (RFC 7030 section 4), each with every check before anything is handed on."""

import time
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import Self

from cryptography import x509

from est import keys, refusals
from est.asn1.csrattrs import parse_csrattrs
from est.client.checks import check_received
from est.client.cmc import FullCmc
from est.client.configuration import ClientConfiguration
from est.client.late_request import LateRequest, capabilities, key_id, key_transport, public_key_of
from est.client.made_key import read_made_key
from est.client.results import Enrolled, Pending, ServerMadeKey
from est.client.session import DEFAULT_RETRY, Body, Reply, Session, not_found
from est.cms.certs_only import parse_certs_only
from est.cms.enveloped import Opener
from est.cms.receiver import Receiver
from est.csr.demands import Demands, demands_of
from est.csr.request import Plan, Wishes, change_subject_name, plan
from est.http import media_type
from est.trust.anchors import TrustedBy
from est.trust.roll_over import CaCertificates, first_anchors, rolled_over

_CHALLENGES = 3
"""Times that the possession of a key is proved; more than once where the connection broke in between."""


class EstClient:
    """A client of one EST server; a context manager. Not for use by two threads at once."""

    def __init__(self, configuration: ClientConfiguration) -> None:
        self._configuration = configuration
        self._session = Session(configuration)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._session.close()

    def cacerts(self, confirm: Callable[[x509.Certificate], bool] | None = None) -> CaCertificates:
        """Fetch the CA certificates (section 4.1).

        Args:
            confirm: asked about a root if the server was authenticated by an Implicit anchor.

        Raises:
            CertificateError: nothing in the reply is to be trusted.
        """
        reply = self._session.perform("cacerts")
        if reply.status != 200:
            raise not_found()
        if reply.type.name != media_type.PKCS7 or reply.type.smime_type not in {"", "certs-only"}:
            raise refusals.malformed(f"The reply to /cacerts is of type {reply.type.name!r}, not {media_type.PKCS7}.")
        received = parse_certs_only(self._session.decoded(reply)).certificates
        if reply.trusted_by is TrustedBy.EXPLICIT:
            return rolled_over(received, self._configuration.anchors.explicit)
        for one in received:
            if confirm is not None and confirm(one):
                return first_anchors(received, one)
        raise refusals.untrusted(
            "These CA certificates came over a connection that only the Web's CAs vouch for; confirm one."
        )

    def csrattrs(self) -> Demands:
        """What the server wants of requests (section 4.5); nothing, if it says nothing.

        Raises:
            WireError: the reply cannot be read.
            AccessError: it asks for what the policy forbids.
        """
        reply = self._session.perform("csrattrs")
        if reply.status in {204, 404} or not reply.body.strip():
            return Demands()
        if reply.type.name != media_type.CSRATTRS:
            raise refusals.malformed(f"The reply to /csrattrs is of type {reply.type.name!r}.")
        return demands_of(parse_csrattrs(self._session.decoded(reply)), self._configuration.demand_policy)

    def enroll(self, key: keys.Key, wishes: Wishes, demands: Demands | None = None) -> Enrolled | Pending:
        """Get a certificate for a key (section 4.2.1).

        Args:
            demands: of the server; asked for if None.
        """
        return self._enroll("simpleenroll", key, wishes, demands)

    def reenroll(
        self,
        key: keys.Key,
        current: x509.Certificate,
        demands: Demands | None = None,
        *,
        change: Wishes | None = None,
    ) -> Enrolled | Pending:
        """Renew a certificate, or with another key rekey it (section 4.2.2): the same names, byte for byte.

        Args:
            change: another subject, other alternative names, or both, asked for by ChangeSubjectName; what it does not
                name stays.
        """
        wanted = demands if demands is not None else self.csrattrs()
        # The names of the certificate are kept, whatever a template says.
        kept = Demands(key=wanted.key, digests=wanted.digests, challenge_password=wanted.challenge_password)
        planned = plan(Wishes.like(current), kept, public_key_of(key))
        if change is None:
            return self._ask("simplereenroll", key, planned)
        asked = planned.with_attributes(change_subject_name(change))
        expected = replace(planned, subject=change.subject) if change.subject != Wishes().subject else planned
        if change.alternative_names:
            expected = replace(expected, extensions=change.extensions)
        return self._ask("simplereenroll", key, asked, expected=expected)

    def _enroll(self, operation: str, key: keys.Key, wishes: Wishes, demands: Demands | None) -> Enrolled | Pending:
        planned = plan(wishes, demands if demands is not None else self.csrattrs(), key.signer.public_key())
        return self._ask(operation, key, planned)

    def resume(
        self, pending: Pending, key: keys.Key | Receiver, wishes: Wishes, demands: Demands | None = None
    ) -> Enrolled | Pending:
        """Ask again for what was pending, with the same key and wishes.

        Raises:
            RequestError: too early, another server, or another key.
        """
        self._check_resumable(pending, pending.operation)
        if pending.key_id != key_id(key):
            raise refusals.unwanted("The pending request belongs to another server or key.")
        if pending.operation == "fullcmc" or isinstance(key, Receiver):
            return self._full_cmc(key, wishes, demands, pending)
        planned = plan(wishes, demands if demands is not None else Demands(), key.signer.public_key())
        return self._ask(pending.operation, key, planned, pending)

    def _check_resumable(self, pending: Pending, operation: str) -> None:
        if time.time() < pending.not_before:
            raise refusals.unwanted("It is too early to ask again; the server said when.")
        if pending.server != str(self._configuration.address) or pending.operation != operation:
            raise refusals.unwanted("The pending request belongs to another server, key or operation.")

    def _ask(
        self,
        operation: str,
        key: keys.Key,
        planned: Plan,
        before: Pending | None = None,
        *,
        expected: Plan | None = None,
    ) -> Enrolled | Pending:
        """Send a request; the certificate has the names of `expected` where that is not the request's own."""
        self._need_anchors()
        request = LateRequest(self._configuration.link, key, planned, before.request if before else b"")
        reply = self._session.perform(operation, Body(media_type.PKCS10, request.make))
        if reply.status == 202:
            return self._pending(operation, key, reply, request.repeatable, before)
        return self._checked(self._certificates(reply), key, expected or planned)

    def _need_anchors(self) -> None:
        """Before anything is sent: without anchors, what comes back could not be checked."""
        if not self._configuration.anchors.explicit:
            raise refusals.untrusted("There are no Explicit trust anchors to check a certificate with; get them first.")

    def _pending(
        self, operation: str, key: keys.Key | Receiver, reply: Reply, request: bytes, before: Pending | None
    ) -> Pending:
        now = time.time()
        first = before.first_asked if before else now
        return Pending(operation, str(self._configuration.address), now + reply.wait, first, key_id(key), request)

    def _certificates(self, reply: Reply) -> tuple[x509.Certificate, ...]:
        if reply.status != 200:
            raise not_found()
        if reply.type.name != media_type.PKCS7 or reply.type.smime_type not in {"", "certs-only"}:
            raise refusals.malformed(f"The reply is of type {reply.type.name!r}, not a certs-only message.")
        return parse_certs_only(self._session.decoded(reply)).certificates

    def _checked(self, received: tuple[x509.Certificate, ...], key: keys.Key | Receiver, planned: Plan) -> Enrolled:
        return check_received(
            received,
            public_key_of(key),
            self._configuration.anchors,
            subject=planned.subject,
            extensions=planned.extensions,
            accept_differences=self._configuration.accept_differences,
        )

    def full_cmc(self, key: keys.Key | Receiver, wishes: Wishes, demands: Demands | None = None) -> Enrolled | Pending:
        """Get a certificate by a full CMC request (section 4.3).

        It is signed by the client's certificate, or without one by the key itself. A key that does not sign needs
        the client's certificate, and is proved by opening the CA's challenge (RFC 5272 section 6.7).

        Raises:
            AccessError: the CA refuses, or its challenge is not about this request and key.
        """
        return self._full_cmc(key, wishes, demands, None)

    def _full_cmc(
        self, key: keys.Key | Receiver, wishes: Wishes, demands: Demands | None, before: Pending | None
    ) -> Enrolled | Pending:
        planned = plan(wishes, demands if demands is not None else Demands(), public_key_of(key))
        if isinstance(key, Receiver) and key.opener.oaep:
            planned = planned.with_attributes(capabilities(key.opener))
        self._need_anchors()
        given = self._configuration
        asking = FullCmc(LateRequest(given.link, key, planned), key, before.request if before else b"")
        for _ in range(_CHALLENGES + 1):
            reply = self._session.perform("fullcmc", Body(media_type.CMC_REQUEST, asking.make))
            if reply.status == 202:
                return self._pending("fullcmc", key, reply, before.request if before else b"", before)
            if reply.type.smime_type == "certs-only":
                return self._checked(self._certificates(reply), key, planned)
            if reply.type.name != media_type.PKCS7 or reply.type.smime_type != "cmc-response":
                raise not_found() if reply.status == 404 else refusals.malformed("The reply is not a CMC response.")
            told = asking.told(self._session.decoded(reply), given.anchors)
            if told.waiting is not None:
                pending = self._pending("fullcmc", key, replace(reply, wait=DEFAULT_RETRY), told.note, before)
                until = told.waiting.pending_until
                return replace(pending, not_before=until.timestamp()) if until else pending
            if told.challenge is None:
                return self._checked(told.certificates, key, planned)
            asking.answer(told.challenge)
        raise refusals.denied("The CA wants the possession of the key proved again and again; it was given up.")

    def server_keygen(
        self,
        signer: keys.Key,
        wishes: Wishes,
        opener: Opener | None = None,
        *,
        recipient: x509.Certificate | None = None,
        allow_plain: bool = False,
        before: Pending | None = None,
    ) -> ServerMadeKey | Pending:
        """Have the server make a key pair (section 4.4).

        Args:
            signer: signs the request; its public key is not the one that is certified.
            opener: with what the sealed key is opened.
            recipient: whose key the server shall encrypt for; without it, the first shared key of `opener`.
            allow_plain: take a key that is protected by TLS alone.
            before: what an earlier call ended with; its request is sent again where it is not linked to a connection.

        Raises:
            AccessError: the key came in the clear and that was not allowed.
            CertificateError: it does not fit the certificate, or nobody trusted signed it.
            RequestError: it is too early to ask again, or `before` belongs to another server or operation.
        """
        if before is not None:
            self._check_resumable(before, "serverkeygen")
        planned = plan(wishes, Demands(), signer.signer.public_key())
        self._need_anchors()
        planned = planned.with_attributes(*key_transport(opener, recipient))
        request = LateRequest(self._configuration.link, signer, planned, before.request if before else b"")
        reply = self._session.perform("serverkeygen", Body(media_type.PKCS10, request.make))
        if reply.status == 202:
            return self._pending("serverkeygen", signer, reply, request.repeatable, before)
        if reply.status != 200 or reply.type.name != media_type.MULTIPART:
            raise (
                not_found() if reply.status == 404 else refusals.malformed("The reply is not a key and a certificate.")
            )
        given = self._configuration
        sent = read_made_key(reply, opener, given.anchors, allow_plain=allow_plain, lenient=given.lenient)
        enrolled = check_received(
            sent.certificates,
            sent.public_key,
            given.anchors,
            subject=planned.subject,
            extensions=planned.extensions,
            accept_differences=given.accept_differences,
        )
        return ServerMadeKey(enrolled, sent.pkcs8, sent.encrypted)
