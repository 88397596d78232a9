"""The listener under clients that hold connections, send an octet at a time, or take nothing: others are served."""

import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from est.http.paths import WELL_KNOWN
from est.server.listener import Handler, Listener, server_context
from est.server.messages import Peer, ServerRequest, ServerResponse
from tests.integration.est.lab import Site, make_site

GET = f"GET {WELL_KNOWN}/cacerts HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
CONNECTIONS = 4


@pytest.fixture(scope="module")
def site() -> Site:
    return make_site()


@contextmanager
def listening(site: Site, handler: Handler | None = None, *, patience: float = 30.0) -> Iterator[Listener]:
    context = server_context(site.server_key, site.server_chain, [site.root.certificate])
    with Listener(
        handler or site.handler, context, max_connections=CONNECTIONS, idle=30, patience=patience
    ) as listener:
        yield listener


def plain(listener: Listener) -> socket.socket:
    return socket.create_connection(("127.0.0.1", listener.port), timeout=30)


def secured(site: Site, listener: Listener) -> ssl.SSLSocket:
    context = ssl.create_default_context(
        cadata=ssl.DER_cert_to_PEM_cert(site.root.certificate.public_bytes(Encoding.DER))
    )
    return context.wrap_socket(plain(listener), server_hostname="localhost")


def is_served(site: Site, listener: Listener) -> bool:
    with secured(site, listener) as sock:
        sock.sendall(GET)
        return sock.recv(12) == b"HTTP/1.1 200"


def served_at_last(site: Site, listener: Listener) -> bool:
    """Whoever comes is let in as soon as the others have waited half a second."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            return is_served(site, listener)
        except OSError:
            continue
    return False


def test_connections_that_say_nothing_keep_nobody_out(site: Site) -> None:
    with listening(site) as listener, ExitStack() as held:
        silent = [held.enter_context(plain(listener)) for _ in range(CONNECTIONS)]
        assert served_at_last(site, listener)
        assert silent[0].recv(1) == b""


def test_a_connection_that_asked_once_makes_room_too(site: Site) -> None:
    with listening(site) as listener, ExitStack() as held:
        for _ in range(CONNECTIONS):
            sock = held.enter_context(secured(site, listener))
            sock.sendall(GET)
            assert sock.recv(12) == b"HTTP/1.1 200"
        assert served_at_last(site, listener)


def test_a_request_an_octet_at_a_time_is_not_waited_for(site: Site) -> None:
    with listening(site, patience=1.0) as listener, secured(site, listener) as sock:
        sock.settimeout(0.05)
        sent, ended = 0, False
        deadline = time.monotonic() + 20
        while not ended and time.monotonic() < deadline:
            try:
                sock.sendall(b"G" if not sent else b"x")
                sent += 1
                ended = sock.recv(1) == b""
            except TimeoutError:
                continue
            except OSError:
                ended = True
        assert ended
        assert sent > 1


def test_a_handshake_that_is_begun_and_not_finished_is_not_waited_for(site: Site) -> None:
    with listening(site, patience=0.5) as listener, plain(listener) as sock:
        sock.sendall(bytes.fromhex("160301020001"))
        assert sock.recv(1) == b""


def test_a_response_that_nobody_takes_keeps_nobody_out(site: Site) -> None:
    def much(request: ServerRequest, peer: Peer) -> ServerResponse:
        return ServerResponse(200, body=bytes(8 << 20))

    with listening(site, much) as listener, ExitStack() as held:
        for _ in range(CONNECTIONS):
            held.enter_context(secured(site, listener)).sendall(GET)
        assert served_at_last(site, listener)


def test_the_answer_to_a_head_request_has_no_body(site: Site) -> None:
    with listening(site) as listener, secured(site, listener) as sock:
        sock.sendall(GET.replace(b"GET", b"HEAD") + GET)
        received = b""
        while b"HTTP/1.1 200" not in received:
            received += sock.recv(4096)
        assert received.startswith(b"HTTP/1.1 405")
        assert received.count(b"HTTP/1.1") == 2


def test_a_request_that_is_too_large_is_refused_before_it_is_whole(site: Site) -> None:
    with listening(site) as listener, secured(site, listener) as sock:
        sock.sendall(b"POST /x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        chunk = b"10000\r\n" + bytes(0x10000) + b"\r\n"
        with pytest.raises(OSError, match=r"."):  # noqa: PT012 - it is closed at some time
            while True:
                sock.sendall(chunk)
