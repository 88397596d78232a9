"""What servers of every age send: how payloads are written, where they redirect to, how they ask for a password."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from est.ca.profile import Profile
from est.client import Enrolled, EstClient, Pending
from est.csr.linking import Link
from est.http.authorization import Credentials
from est.server.authentication import Authenticator
from est.server.listener import Handler, server_context
from est.server.messages import Peer, ServerRequest, ServerResponse
from est.server.service import EstService, ServiceSettings
from est.trust.anchors import TrustAnchors
from hsmbridge.core.errors import AccessError, HsmBridgeError, LimitError, WireError
from tests.integration.est.lab import TLS12, USERS, Site, ec_key, make_site, named

PASSWORD = Credentials("device", USERS["device"])


def rewriting(change: Callable[[ServerResponse], ServerResponse]) -> Callable[[Handler], Handler]:
    """A wrapper around the real handler that writes good answers in another way."""

    def wrap(handler: Handler) -> Handler:
        def handle(request: ServerRequest, peer: Peer) -> ServerResponse:
            answer = handler(request, peer)
            return change(answer) if answer.status == 200 else answer

        return handle

    return wrap


def with_body(change: Callable[[bytes], bytes]) -> Callable[[Handler], Handler]:
    return rewriting(lambda answer: replace(answer, body=change(answer.body)))


@pytest.mark.parametrize(
    "change",
    [
        lambda body: b"".join(body.split()),
        lambda body: body.replace(b"\n", b"\r\n"),
        lambda body: body.rstrip() + b" ",
        lambda body: b" \t" + b"\n ".join(body.split()) + b"\r\n\r\n",
    ],
    ids=["one line", "CRLF", "a blank at the end", "blanks everywhere"],
)
def test_base64_is_read_whatever_its_white_space(change: Callable[[bytes], bytes]) -> None:
    site = make_site()
    with (
        site.serving(with_body(change)) as listener,
        EstClient(site.client(listener, credentials=PASSWORD)) as client,
    ):
        assert isinstance(client.enroll(ec_key(), named("x")), Enrolled)
        assert client.cacerts().anchors


def test_der_and_pem_are_read_only_when_told_so() -> None:
    import base64

    site = make_site()
    with site.serving(with_body(base64.b64decode)) as listener:
        strict = site.client(listener, credentials=PASSWORD)
        with EstClient(strict) as client, pytest.raises(WireError, match="base64"):
            client.cacerts()
        with EstClient(replace(strict, lenient=True)) as client:
            assert client.cacerts().anchors


@pytest.mark.parametrize(
    "type_",
    [
        "application/pkcs7-mime",
        "Application/PKCS7-MIME; SMIME-Type=Certs-Only; name=smime.p7c",
        "application/pkcs7-mime;smime-type=certs-only",
    ],
)
def test_media_types_are_compared_without_regard_to_case_and_extras(type_: str) -> None:
    site = make_site()
    with (
        site.serving(rewriting(lambda answer: replace(answer, type=type_))) as listener,
        EstClient(site.client(listener, credentials=PASSWORD)) as client,
    ):
        assert client.cacerts().anchors


def test_an_answer_of_another_media_type_is_refused() -> None:
    site = make_site()
    with (
        site.serving(rewriting(lambda answer: replace(answer, type="text/html"))) as listener,
        EstClient(site.client(listener)) as client,
        pytest.raises(WireError, match="text/html"),
    ):
        client.cacerts()


def test_an_endless_answer_is_cut() -> None:
    site = make_site()
    with (
        site.serving(with_body(lambda _: b"A" * (3 << 20))) as listener,
        EstClient(site.client(listener)) as client,
        pytest.raises(LimitError),
    ):
        client.cacerts()


@pytest.mark.parametrize("wrap", [0, 64])
def test_the_server_wraps_lines_as_it_is_told(wrap: int) -> None:
    site = make_site(settings=ServiceSettings(wrap=wrap))
    answer = site.handler(ServerRequest("GET", "/.well-known/est/cacerts"), Peer())
    assert max(len(line) for line in answer.body.splitlines()) == (64 if wrap else len(answer.body))
    assert answer.body.endswith(b"\n") is bool(wrap)


@contextmanager
def canned(site: Site, answers: list[bytes]) -> Iterator[tuple[int, list[bytes]]]:
    """A TLS server that reads requests and sends the given octets, one per connection; keeps what it read."""
    context = server_context(site.server_key, site.server_chain, [])
    seen: list[bytes] = []
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        for answer in answers:
            plain, _ = listening.accept()
            with plain, context.wrap_socket(plain, server_side=True) as sock:
                read = b""
                while b"\r\n\r\n" not in read:
                    read += sock.recv(65536)
                head, _, body = read.partition(b"\r\n\r\n")
                length = next(
                    (
                        int(one.split(b":")[1])
                        for one in head.lower().split(b"\r\n")
                        if one.startswith(b"content-length")
                    ),
                    0,
                )
                while len(body) < length:
                    body += sock.recv(65536)
                seen.append(head + b"\r\n\r\n" + body)
                sock.sendall(answer)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listening.getsockname()[1], seen
        thread.join(10)
    finally:
        listening.close()


def cacerts_of(site: Site) -> bytes:
    return site.handler(ServerRequest("GET", "/.well-known/est/cacerts"), Peer()).body


def http(status: str, *headers: str, body: bytes = b"") -> bytes:
    lines = [f"HTTP/1.1 {status}", "Connection: close", *headers, f"Content-Length: {len(body)}"]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def at(site: Site, port: int, **changes: object):  # type: ignore[no-untyped-def]  # a configuration
    class Somewhere:
        pass

    somewhere = Somewhere()
    somewhere.port = port  # type: ignore[attr-defined]  # stands for a listener
    return site.client(somewhere, **changes)  # type: ignore[arg-type]


def test_chunked_answers_are_read() -> None:
    site = make_site()
    body = cacerts_of(site)
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(one), one) for one in (body[:100], body[100:])) + b"0\r\n\r\n"
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/pkcs7-mime\r\nTransfer-Encoding: chunked\r\n\r\n"
    with canned(site, [head + chunks]) as (port, _), EstClient(at(site, port)) as client:
        assert client.cacerts().anchors


def test_requests_have_a_length_and_lines_of_64() -> None:
    site = make_site()
    with (
        canned(site, [http("500 Failed")]) as (port, seen),
        EstClient(at(site, port)) as client,
        pytest.raises(HsmBridgeError, match="500"),
    ):
        client.full_cmc(ec_key(), named("x"))
    head, _, body = seen[0].partition(b"\r\n\r\n")
    assert b"content-length" in head.lower()
    assert b"transfer-encoding" not in head.lower().replace(b"content-transfer-encoding", b"")
    assert max(len(line) for line in body.splitlines()) == 64
    assert body.endswith(b"\n")


def test_a_redirect_to_the_same_server_is_followed() -> None:
    site = make_site()
    good = http("200 OK", "Content-Type: application/pkcs7-mime", body=cacerts_of(site))
    moved = http("302 Found", "Location: /.well-known/est/other/cacerts")
    with canned(site, [moved, good]) as (port, seen), EstClient(at(site, port)) as client:
        assert client.cacerts().anchors
    assert seen[1].startswith(b"GET /.well-known/est/other/cacerts ")


def test_a_redirect_to_another_server_is_asked_about_and_carries_no_credentials() -> None:
    site = make_site(Profile(), users={})
    elsewhere = make_site()
    # The other server is known by the same root.
    elsewhere.server_key, elsewhere.server_chain = site.server_key, site.server_chain
    asked: list[str] = []

    def allow(origin: str) -> bool:
        asked.append(origin)
        return True

    unauthorized = http("401 Unauthorized", 'WWW-Authenticate: Basic realm="theirs"')
    with canned(elsewhere, [unauthorized]) as (other, seen):
        moved = http("307 Temporary Redirect", f"Location: https://localhost:{other}/.well-known/est/simpleenroll")
        with canned(site, [http("204 No Content"), moved]) as (port, _):
            given = at(site, port, credentials=PASSWORD, allow_redirect=allow)
            with EstClient(given) as client, pytest.raises(AccessError, match="redirected"):
                client.enroll(ec_key(), named("x"))
    assert asked == [f"https://localhost:{other}"]
    assert b"authorization" not in seen[0].lower()
    with (
        canned(site, [moved]) as (port, _),
        EstClient(at(site, port)) as client,
        pytest.raises(AccessError, match="allow that origin"),
    ):
        client.cacerts()


def test_a_redirect_without_https_or_without_end_is_refused() -> None:
    site = make_site()
    with (
        canned(site, [http("301 Moved", "Location: http://localhost/x")]) as (port, _),
        EstClient(at(site, port)) as client,
        pytest.raises(AccessError, match="https"),
    ):
        client.cacerts()
    endless = [http("302 Found", "Location: /.well-known/est/cacerts")] * 8
    with (
        canned(site, endless) as (port, _),
        EstClient(at(site, port)) as client,
        pytest.raises(WireError, match="without end"),
    ):
        client.cacerts()


def test_a_linked_request_is_signed_again_for_the_connection_that_401_opens() -> None:
    """The server closes after its 401, so the request needs the name of the next connection."""
    site = make_site(Profile(link=True))

    def closing(handler: Handler) -> Handler:
        def handle(request: ServerRequest, peer: Peer) -> ServerResponse:
            answer = handler(request, peer)
            more = (("Connection", "close"),) if answer.status == 401 else ()
            return replace(answer, headers=(*answer.headers, *more))

        return handle

    with site.serving(closing) as listener:
        given = site.client(listener, tls=TLS12, credentials=PASSWORD, link=Link.REQUIRE)
        with EstClient(given) as client:
            assert isinstance(client.enroll(ec_key(), named("x")), Enrolled)


@pytest.mark.parametrize("digest", [True, False], ids=["Digest", "Basic"])
@pytest.mark.parametrize("user", ["device", ""], ids=["a user", "no user name"])
def test_http_authentication(digest: bool, user: str) -> None:
    site = make_site()
    service = EstService(site.authority, Authenticator({user: "secret"}, digest=digest), ServiceSettings())
    from est.server.application import EstApplication

    sent: list[str] = []

    def noting(_: Handler) -> Handler:
        def handle(request: ServerRequest, peer: Peer) -> ServerResponse:
            sent.append(request.headers.get("authorization", "").partition(" ")[0])
            return EstApplication({"": service}).handle(request, peer)

        return handle

    with (
        site.serving(noting) as listener,
        EstClient(site.client(listener, credentials=Credentials(user, "secret"))) as client,
    ):
        assert isinstance(client.enroll(ec_key(), named("x")), Enrolled)
    # Nothing is sent before it is asked for, and the strongest scheme is used.
    assert sent == ["", "", "Digest" if digest else "Basic"]


def test_an_unknown_scheme_is_an_error_that_names_it() -> None:
    site = make_site()
    answers = [http("204 No Content"), http("401 Unauthorized", "WWW-Authenticate: Negotiate")]
    with (
        canned(site, answers) as (port, _),
        EstClient(at(site, port, credentials=PASSWORD)) as client,
        pytest.raises(AccessError, match="negotiate"),
    ):
        client.enroll(ec_key(), named("x"))


def test_a_server_that_is_not_authenticated_gets_no_password() -> None:
    from est.client.bootstrap import bootstrap

    site = make_site()
    with canned(site, [http("401 Unauthorized", 'WWW-Authenticate: Basic realm="x"')]) as (port, seen):
        given = at(site, port, credentials=PASSWORD, anchors=TrustAnchors())
        with pytest.raises(AccessError, match="not authenticated"):
            bootstrap(given, root_fingerprint="00" * 32)
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("header", "least", "most"),
    [
        ("Retry-After: 120", 119, 121),
        ("Retry-After: soon", 59, 61),
        ("X: y", 59, 61),
        ("Retry-After: Wed, 01 Jan 2020 00:00:00 GMT", -1, 1),
    ],
    ids=["seconds", "not readable", "missing", "a date that is past"],
)
def test_retry_after(header: str, least: float, most: float) -> None:
    site = make_site()
    with (
        canned(site, [http("204 No Content"), http("202 Accepted", header)]) as (port, _),
        EstClient(at(site, port)) as client,
    ):
        pending = client.enroll(ec_key(), named("x"))
    assert isinstance(pending, Pending)
    assert least <= pending.not_before - pending.first_asked <= most


def test_what_the_server_says_is_shown_cut_and_without_control_characters() -> None:
    site = make_site()
    body = b"no \x1b[31mway\r\n" + b"x" * 1000
    with (
        canned(site, [http("400 Bad", "Content-Type: text/plain", body=body)]) as (port, _),
        EstClient(at(site, port)) as client,
        pytest.raises(HsmBridgeError) as caught,
    ):
        client.cacerts()
    assert "no [31mway" in caught.value.message
    assert "\x1b" not in caught.value.message
    assert len(caught.value.message) < 700


@pytest.mark.parametrize(
    "answer",
    [http("204 No Content"), http("404 Not Found"), http("200 OK", "Content-Type: application/csrattrs", body=b"MAA=")],
    ids=["204", "404", "empty"],
)
def test_no_attributes_are_asked_for_in_three_ways(answer: bytes) -> None:
    from est.csr.demands import Demands

    site = make_site()
    with canned(site, [answer]) as (port, _), EstClient(at(site, port)) as client:
        assert client.csrattrs() == Demands()


def test_a_pending_cmc_request_goes_on_as_cmc() -> None:
    site = make_site()
    key = ec_key()
    waiting = [http("202 Accepted", "Retry-After: 0")] * 2
    with canned(site, waiting) as (port, seen), EstClient(at(site, port)) as client:
        first = client.full_cmc(key, named("x"))
        assert isinstance(first, Pending)
        assert isinstance(client.resume(first, key, named("x")), Pending)
    assert all(b"POST /.well-known/est/fullcmc " in one and b"smime-type=CMC-request" in one for one in seen)
