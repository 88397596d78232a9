"""Who may ask for certificates: holders of a certificate from a known CA, and users with a password."""

import secrets
import threading
from collections.abc import Mapping

from cryptography import x509

from est.ca.authority import Authority
from est.http.authorization import check_answer
from est.server.messages import Peer, ServerRequest
from est.trust.path import verify_path
from hsmbridge.core.errors import CertificateError

REALM = "est"
MAX_NONCES = 1000


class Authenticator:
    """Finds out who a requester is; safe for threads.

    Args:
        users: passwords by name.
        more_anchors: CAs beside our own whose certificates are taken, such as a manufacturer's.
        digest: ask for Digest too, before Basic.
        both: a certificate alone is not enough.
    """

    def __init__(
        self,
        users: Mapping[str, str] | None = None,
        more_anchors: tuple[x509.Certificate, ...] = (),
        *,
        digest: bool = True,
        both: bool = False,
    ) -> None:
        self._users = dict(users or {})
        self.more_anchors = more_anchors
        self._digest = digest
        self._both = both
        self._nonces: dict[str, None] = {}
        self._lock = threading.Lock()

    def requester(self, request: ServerRequest, peer: Peer, authority: Authority) -> str:
        """A name for who asks, or "" for nobody known."""
        by_certificate = self._by_certificate(peer, authority)
        if by_certificate and not self._both:
            return by_certificate
        by_password = self._by_password(request)
        return by_password if by_certificate or not self._both else ""

    def _by_certificate(self, peer: Peer, authority: Authority) -> str:
        certificate = peer.certificate
        if certificate is None or authority.is_revoked(certificate):
            return ""
        chain = authority.issuer.chain
        try:
            verify_path(certificate, (*peer.certificates[1:], *chain[:-1]), (chain[-1], *self.more_anchors))
        except CertificateError:
            return ""
        return f"certificate:{certificate.subject.rfc4514_string()}"

    def _by_password(self, request: ServerRequest) -> str:
        header = request.headers.get("authorization", "")
        if not header or not self._users:
            return ""
        with self._lock:
            known = set(self._nonces)
            user = check_answer(header, self._users, REALM, known, request.method, request.target)
            for used in set(self._nonces) - known:
                del self._nonces[used]
        return f"user:{user}" if user else ""

    def challenges(self) -> tuple[str, ...]:
        """The values of WWW-Authenticate; none if there are no users."""
        if not self._users:
            return ()
        basic = f'Basic realm="{REALM}", charset="UTF-8"'
        if not self._digest:
            return (basic,)
        nonce = secrets.token_hex(16)
        with self._lock:
            self._nonces[nonce] = None
            while len(self._nonces) > MAX_NONCES:
                del self._nonces[next(iter(self._nonces))]
        return (f'Digest realm="{REALM}", qop="auth", algorithm=SHA-256, nonce="{nonce}"', basic)
