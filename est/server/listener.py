"""A TLS listener: one thread per connection, up to a limit; HTTP/1.1 by h11; every read has a time limit."""

import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

import h11
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from est import refusals
from est.http.exchange import MAX_HEADER
from est.http.payload import MAX_BODY
from est.keys import Key
from est.server.messages import Peer, ServerRequest, ServerResponse
from est.tls.channel_binding import binding_values

Handler = Callable[[ServerRequest, Peer], ServerResponse]

_log = structlog.get_logger(__name__)


def server_context(
    key: Key,
    chain: Sequence[x509.Certificate],
    client_anchors: Sequence[x509.Certificate],
    *,
    lowest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2,
    highest: ssl.TLSVersion = ssl.TLSVersion.MAXIMUM_SUPPORTED,
) -> ssl.SSLContext:
    """A context that asks for a client certificate and takes those that lead to `client_anchors`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = lowest
    context.maximum_version = highest
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    key.use_for_tls(context, chain)
    pem = b"".join(one.public_bytes(serialization.Encoding.PEM) for one in client_anchors)
    if pem:
        context.load_verify_locations(cadata=pem.decode("ascii"))
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


class Listener:
    """Listens from construction on, answers between `start` and `stop`."""

    def __init__(
        self,
        handler: Handler,
        context: ssl.SSLContext,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        max_connections: int = 64,
        idle: float = 30.0,
    ) -> None:
        self._handler = handler
        self._context = context
        self._idle = idle
        self._socket = socket.create_server((host, port), backlog=128)
        self.port: int = self._socket.getsockname()[1]
        self._slots = threading.BoundedSemaphore(max_connections)
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._accept, name="est-listener", daemon=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Close every connection and wait for their threads."""
        self._stopping.set()
        # Wakes accept(); closing alone does not.
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()
        with self._lock:
            for one in self._open:
                _shut(one)
        for thread in threading.enumerate():
            if thread.name == f"est-connection-{self.port}":
                thread.join(5)

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                plain, _ = self._socket.accept()
            except OSError:
                if self._stopping.is_set():
                    return
                continue
            if not self._slots.acquire(blocking=False):
                plain.close()
                continue
            with self._lock:
                self._open.add(plain)
            name = f"est-connection-{self.port}"
            threading.Thread(target=self._serve, args=(plain,), name=name, daemon=True).start()

    def _serve(self, plain: socket.socket) -> None:
        try:
            plain.settimeout(self._idle)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._context.wrap_socket(plain, server_side=True) as sock:
                with self._lock:
                    self._open.discard(plain)
                    self._open.add(sock)
                try:
                    self._converse(sock)
                finally:
                    with self._lock:
                        self._open.discard(sock)
        except (OSError, h11.ProtocolError) as problem:
            _log.debug("est_connection_ended", reason=repr(problem))
        except Exception:  # noqa: BLE001 - the top of a thread: one connection must not end the server
            _log.exception("est_connection_failed")
        finally:
            with self._lock:
                self._open.discard(plain)
            plain.close()
            self._slots.release()

    def _converse(self, sock: ssl.SSLSocket) -> None:
        peer = Peer(_peer_certificates(sock), binding_values(sock))
        http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEADER)
        while not self._stopping.is_set():
            request = _read(sock, http)
            if request is None:
                return
            _write(sock, http, self._handler(request, peer))
            if http.our_state is not h11.DONE or http.their_state is not h11.DONE:
                return
            http.start_next_cycle()


def _peer_certificates(sock: ssl.SSLSocket) -> tuple[x509.Certificate, ...]:
    der = sock.getpeercert(binary_form=True)
    if not der:
        return ()
    # The rest of its chain has a public name from Python 3.13 on; without it, intermediates must be configured.
    chain = getattr(getattr(sock, "_sslobj", None), "get_unverified_chain", lambda: None)() or ()
    sent = [one.public_bytes(_DER) for one in chain]
    return tuple(x509.load_der_x509_certificate(one) for one in dict.fromkeys([der, *sent]))


_DER = 2
"""`_ssl.ENCODING_DER`."""


def _read(sock: ssl.SSLSocket, http: h11.Connection) -> ServerRequest | None:
    head: h11.Request | None = None
    body = bytearray()
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            if http.they_are_waiting_for_100_continue:
                sock.sendall(http.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
            http.receive_data(sock.recv(65536))
        elif isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > MAX_BODY:
                _write(sock, http, ServerResponse(413, body=b"Too large.\n", headers=(("Connection", "close"),)))
                raise refusals.too_large("A request was too large.")
        elif isinstance(event, h11.EndOfMessage) and head is not None:
            headers = {name.decode("ascii"): value.decode("latin-1") for name, value in head.headers}
            return ServerRequest(head.method.decode("ascii"), head.target.decode("ascii"), headers, bytes(body))
        else:
            return None


def _write(sock: ssl.SSLSocket, http: h11.Connection, response: ServerResponse) -> None:
    headers = [("Content-Length", str(len(response.body))), *response.headers]
    if response.body:
        headers.insert(0, ("Content-Type", response.type))
    encoded = [(name.encode("ascii"), value.encode("latin-1", "replace")) for name, value in headers]
    if response.status == 204:
        encoded = [one for one in encoded if one[0] != b"Content-Length"]
    parts = [http.send(h11.Response(status_code=response.status, headers=encoded))]
    if response.body:
        parts.append(http.send(h11.Data(data=response.body)))
    parts.append(http.send(h11.EndOfMessage()))
    sock.sendall(b"".join(part for part in parts if part))


def _shut(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        return
