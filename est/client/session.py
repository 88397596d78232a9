"""Requests to one server, with what HTTP and TLS can bring in between: redirects, 401, closed connections.

A body is made anew for every connection, so that what it says about the connection is true (RFC 7030 section 3.5).
Credentials leave only on a connection whose server is authenticated and authorised.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from urllib.parse import urljoin, urlsplit

from est import refusals
from est.client.address import EstAddress
from est.client.configuration import ClientConfiguration
from est.csr.linking import Link
from est.http.authorization import answer, parse_challenges
from est.http.exchange import Exchange, Request, Response
from est.http.media_type import MediaType, parse_media_type
from est.http.payload import decode, encode
from est.http.retry_after import parse_retry_after
from est.tls.choosing import choose_identity
from est.tls.connection import ClientIdentity, Connection, TlsLimits, connect, connect_provisionally
from est.trust.anchors import TrustedBy
from hsmbridge.core.errors import HsmBridgeError, Status

MAX_REDIRECTS = 5
DEFAULT_RETRY = 60.0
"""Seconds to wait after a 202 that does not say how long."""

_REDIRECTS = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True, slots=True)
class Body:
    """A request body: its media type, and how to make its DER for a connection."""

    type: str
    make: Callable[[Connection], bytes]


@dataclass(frozen=True, slots=True)
class Reply:
    """A good answer: the media type and the body as it came; or 202, with the seconds to wait."""

    status: int
    type: MediaType
    body: bytes
    trusted_by: TrustedBy
    wait: float = 0.0


class Session:
    """Requests to one server, one at a time."""

    def __init__(self, configuration: ClientConfiguration, *, provisional: bool = False) -> None:
        self._configuration = configuration
        self._provisional = provisional
        self._connection: Connection | None = None
        self._exchange: Exchange | None = None
        self._authority = configuration.address
        self._nonce_count = 0
        self._choices: dict[str, ClientIdentity | None] = {}

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._connection is not None:
            self._connection.close()
        self._connection = self._exchange = None

    def perform(self, operation: str, body: Body | None = None) -> Reply:
        """Carry out one operation.

        Raises:
            HsmBridgeError: with the status that tells what is wrong; ACCESS_DENIED if the server refuses us.
        """
        deadline = time.monotonic() + self._configuration.timeout
        origin, target = self._configuration.address, self._configuration.address.target(operation)
        authorization = ""
        for _ in range(MAX_REDIRECTS + 3):
            connection, exchange, fresh = self._connected(origin, deadline)
            try:
                response = exchange.send(self._request(connection, target, body, authorization), deadline)
            except HsmBridgeError as problem:
                self.close()
                # A kept connection may have been closed meanwhile; a GET does no harm twice.
                if problem.status is Status.CONNECTION_LOST and not fresh and body is None:
                    continue
                raise
            if not response.reusable:
                self.close()
            if response.status in _REDIRECTS:
                origin, target = self._redirected(origin, target, response, body)
                authorization = ""
            elif response.status == 401 and not authorization:
                authorization = self._authorization(connection, response, target, body, origin)
            else:
                return self._reply(response, connection.trusted_by)
        raise refusals.malformed("The server redirects without end.")

    def _connected(self, origin: EstAddress, deadline: float) -> tuple[Connection, Exchange, bool]:
        if self._connection is not None and self._exchange is not None and self._authority == origin:
            return self._connection, self._exchange, False
        self.close()
        given = self._configuration
        limits = given.tls
        if given.link is Link.REQUIRE:
            limits = TlsLimits(limits.lowest, min(limits.highest, _TLS12, key=_version_order))
        if self._provisional:
            connection = connect_provisionally(origin.host, origin.port, limits=limits, deadline=deadline)
        else:
            # Another origin than the configured one gets no identity of ours unless it was allowed by name.
            identity = given.identity or self._chosen(origin, limits, deadline)
            connection = connect(
                origin.host, origin.port, given.anchors, identity=identity, limits=limits, deadline=deadline
            )
        self._connection = connection
        self._exchange = Exchange(connection.sock, origin.authority)
        self._authority = origin
        return connection, self._exchange, True

    def _chosen(self, origin: EstAddress, limits: TlsLimits, deadline: float) -> ClientIdentity | None:
        """The one of several identities that this server asks for; it is asked once."""
        identities = self._configuration.identities
        if identities and origin.authority not in self._choices:
            self._choices[origin.authority] = choose_identity(
                origin.host, origin.port, identities, limits=limits, deadline=deadline
            )
        return self._choices.get(origin.authority)

    def _request(self, connection: Connection, target: str, body: Body | None, authorization: str) -> Request:
        headers = [("Accept", "*/*"), ("User-Agent", "hsmbridge-est")]
        if authorization:
            headers.append(("Authorization", authorization))
        if body is None:
            return Request("GET", target, tuple(headers))
        headers += [("Content-Type", body.type), ("Content-Transfer-Encoding", "base64")]
        return Request("POST", target, tuple(headers), encode(body.make(connection), self._configuration.wrap))

    def _redirected(
        self, origin: EstAddress, target: str, response: Response, body: Body | None
    ) -> tuple[EstAddress, str]:
        location = urljoin(f"https://{origin.authority}{target}", response.header("location"))
        try:
            parts = urlsplit(location)
            port = parts.port or 443
        except ValueError:
            raise refusals.malformed("The server redirects to something that is no address.") from None
        if parts.scheme != "https" or not parts.hostname or not response.header("location"):
            raise refusals.denied("The server redirects to something that is not https; not followed.")
        if self._provisional:
            raise refusals.denied("A server that is not authenticated redirects; not followed.")
        path = parts.path or "/"
        if (parts.hostname, port) == (origin.host, origin.port):
            return origin, path
        if not self._configuration.allow_redirect(f"https://{parts.hostname}:{port}"):
            what = "request" if body is not None else "question"
            raise refusals.denied(
                f"The server redirects this {what} to https://{parts.hostname}:{port}; allow that origin to follow."
            )
        return replace(origin, host=parts.hostname, port=port, label=""), path

    def _authorization(
        self, connection: Connection, response: Response, target: str, body: Body | None, origin: EstAddress
    ) -> str:
        if connection.trusted_by is TrustedBy.NOBODY or not connection.authorised_by:
            raise refusals.denied("A server that is not authenticated asks for a password; none was sent.")
        if origin.host != self._configuration.address.host or origin.port != self._configuration.address.port:
            raise refusals.denied("The server that was redirected to asks for a password; none was sent.")
        if self._configuration.credentials is None:
            raise refusals.denied(f"The server asks for authentication; none is configured. {_said(response)}".strip())
        self._nonce_count += 1
        method = "GET" if body is None else "POST"
        challenges = parse_challenges(response.header("www-authenticate"))
        return answer(challenges, self._configuration.credentials, method, target)

    def _reply(self, response: Response, trusted_by: TrustedBy) -> Reply:
        type_ = parse_media_type(response.header("content-type"))
        if response.status == 202:
            wait = parse_retry_after(response.header("retry-after"), datetime.now(UTC))
            return Reply(202, type_, b"", trusted_by, DEFAULT_RETRY if wait is None else wait)
        if response.status in {200, 204, 404} or type_.smime_type == "cmc-response":
            return Reply(response.status, type_, response.body, trusted_by)
        raise _refused(response)

    def decoded(self, reply: Reply) -> bytes:
        """The DER in a reply."""
        return decode(reply.body, lenient=self._configuration.lenient)


_TLS12 = TlsLimits().lowest


def _version_order(version: int) -> int:
    # MAXIMUM_SUPPORTED is -1.
    return version if version > 0 else 0xFFFF


def _said(response: Response) -> str:
    """What the server says to people, cut and without control characters."""
    if not parse_media_type(response.header("content-type")).name.startswith("text/"):
        return ""
    text = " ".join(response.body[:500].decode("utf-8", "replace").split())
    text = "".join(one for one in text if one.isprintable())
    return f"The server says: {text}" if text else ""


def _refused(response: Response) -> HsmBridgeError:
    said = _said(response)
    if response.status in {401, 403}:
        return refusals.denied(f"The server refuses us ({response.status}). {said}".strip())
    if response.status == 404:
        return refusals.absent(f"The server does not have this operation (404). {said}".strip())
    if response.status >= 500:
        return refusals.unreachable(f"The server failed ({response.status}); try later. {said}".strip())
    return refusals.unwanted(f"The server does not take the request ({response.status}). {said}".strip())


def not_found() -> HsmBridgeError:
    """What a 404 means to an operation that needs an answer."""
    return refusals.absent("The server does not have this operation (404); is the label right?")
