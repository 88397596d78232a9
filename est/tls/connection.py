"""A TLS connection to an EST server: authenticated by one set of trust anchors, authorised, and known by both."""

import socket
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from est import refusals
from est.cms.certs_only import load_certificate
from est.keys import Key
from est.tls.server_identity import authorise
from est.trust.anchors import TrustAnchors, TrustedBy
from hsmbridge.core.errors import CertificateError, WireError

_TLS12_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM:ECDHE+AES256:ECDHE+AES128:!aNULL:!eNULL:!DES:!3DES:!RC4:!MD5"


@dataclass(frozen=True, slots=True)
class ClientIdentity:
    """With what the client authenticates in the handshake: a key and its certificate chain, its own first."""

    key: Key
    chain: tuple[x509.Certificate, ...]


@dataclass(frozen=True, slots=True)
class TlsLimits:
    """Protocol versions, lowest and highest."""

    lowest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2
    highest: ssl.TLSVersion = ssl.TLSVersion.MAXIMUM_SUPPORTED


@dataclass(frozen=True, slots=True)
class Connection:
    """An open connection.

    Attributes:
        server: the server's certificate.
        trusted_by: which anchors authenticated it.
        authorised_by: "host", "cmcRA", or "" for a provisional connection.
        identity: with what we authenticated.
    """

    sock: ssl.SSLSocket
    server: x509.Certificate
    trusted_by: TrustedBy
    authorised_by: str
    identity: ClientIdentity | None = None

    def close(self) -> None:
        """Close it."""
        self.sock.close()


def client_context(limits: TlsLimits) -> ssl.SSLContext:
    """A context without trust and identity yet."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = limits.lowest
    context.maximum_version = limits.highest
    context.set_ciphers(_TLS12_CIPHERS)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    # The host is compared by est.tls.server_identity, which also knows id-kp-cmcRA.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def connect(
    host: str,
    port: int,
    anchors: TrustAnchors,
    *,
    identity: ClientIdentity | None = None,
    limits: TlsLimits | None = None,
    deadline: float,
) -> Connection:
    """Connect, authenticate the server with the Explicit anchors or else the Implicit ones, and authorise it.

    Raises:
        CertificateError: the server is not trusted, or not authorised.
        WireError: no connection.
        ProviderError: OPERATION_TIMED_OUT.
    """
    chosen = limits or TlsLimits()
    problem: CertificateError | None = None
    for trusted_by, context in _contexts(anchors, chosen):
        if identity is not None:
            identity.key.use_for_tls(context, identity.chain)
        try:
            sock = handshake(host, port, context, deadline)
        except CertificateError as refused:
            problem = problem or refused
            continue
        try:
            server = _server_certificate(sock)
            by = authorise(server, host, trusted_by, allow_cmc_ra=anchors.allow_cmc_ra)
        except CertificateError as refused:
            sock.close()
            problem = problem or refused
            continue
        return Connection(sock, server, trusted_by, by, identity)
    raise problem or refusals.untrusted("No trust anchors are configured; use bootstrap with a fingerprint.")


def _contexts(anchors: TrustAnchors, limits: TlsLimits) -> Sequence[tuple[TrustedBy, ssl.SSLContext]]:
    contexts = []
    if anchors.explicit:
        context = client_context(limits)
        everything = (*anchors.explicit, *anchors.intermediates)
        pem = b"".join(one.public_bytes(serialization.Encoding.PEM) for one in everything)
        context.load_verify_locations(cadata=pem.decode("ascii"))
        contexts.append((TrustedBy.EXPLICIT, context))
    if anchors.implicit:
        context = client_context(limits)
        if anchors.implicit == "system":
            context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        else:
            context.load_verify_locations(cafile=anchors.implicit)
        contexts.append((TrustedBy.IMPLICIT, context))
    return contexts


def connect_provisionally(host: str, port: int, *, limits: TlsLimits | None = None, deadline: float) -> Connection:
    """Connect without knowing the server (RFC 7030 section 4.1.1): good for one GET of /cacerts, without credentials.

    Raises:
        WireError: no connection.
    """
    context = client_context(limits or TlsLimits())
    context.verify_mode = ssl.CERT_NONE
    sock = handshake(host, port, context, deadline)
    return Connection(sock, _server_certificate(sock), TrustedBy.NOBODY, "")


def _server_certificate(sock: ssl.SSLSocket) -> x509.Certificate:
    der = sock.getpeercert(binary_form=True)
    if not der:
        sock.close()
        raise refusals.untrusted("The server has no certificate.")
    try:
        return load_certificate(der)
    except WireError:
        # OpenSSL read it, to which less matters.
        sock.close()
        raise refusals.untrusted("The server's certificate cannot be read.") from None


def handshake(host: str, port: int, context: ssl.SSLContext, deadline: float) -> ssl.SSLSocket:
    """Connect and do the handshake; `deadline` is of time.monotonic().

    Raises:
        CertificateError: the context does not trust the server.
        WireError: no connection.
        ProviderError: OPERATION_TIMED_OUT.
    """
    left = deadline - time.monotonic()
    if left <= 0:
        raise refusals.timed_out("There is no time left to connect.")
    try:
        plain = socket.create_connection((host.strip("[]"), port), timeout=left)
    except TimeoutError:
        raise refusals.timed_out(f"{host}:{port} did not answer in time.") from None
    except OSError as problem:
        raise refusals.unreachable(f"No connection to {host}:{port}.", origin=repr(problem)) from problem
    try:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return context.wrap_socket(plain, server_hostname=host.strip("[]"))
    except ssl.SSLCertVerificationError as problem:
        plain.close()
        raise refusals.untrusted(f"The server {host} is not trusted: {problem.verify_message}.") from problem
    except TimeoutError:
        plain.close()
        raise refusals.timed_out(f"{host}:{port} did not finish the TLS handshake in time.") from None
    except OSError as problem:
        plain.close()
        raise refusals.unreachable(
            f"The TLS handshake with {host}:{port} failed: {getattr(problem, 'reason', '') or 'connection lost'}.",
            origin=repr(problem),
        ) from problem
