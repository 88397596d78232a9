"""A TLS listener: one thread per connection, up to a limit; what a connection carries is `conversation`'s business."""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

import h11
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from est.cms.certs_only import load_certificate
from est.keys import Key
from est.server.conversation import Conversation
from est.server.messages import Peer, ServerRequest, ServerResponse
from est.tls.channel_binding import binding_values
from hsmbridge.core.errors import HsmBridgeError

Handler = Callable[[ServerRequest, Peer], ServerResponse]

_PAUSE = 0.5
"""Seconds: how long a connection must have waited to make room, and how long the room is waited for."""

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


class _Connection:
    """A connection and since when it waits for its client; None while the server itself is at work."""

    __slots__ = ("sock", "waiting")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.waiting: float | None = time.monotonic()


class Listener:
    """Listens from construction on, answers between `start` and `stop`.

    Who connects is let in even where all connections are taken: the one that has waited longest for its client makes
    room. So connections that are held without being used keep nobody out.
    """

    def __init__(
        self,
        handler: Handler,
        context: ssl.SSLContext,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        max_connections: int = 64,
        idle: float = 30.0,
        patience: float = 30.0,
    ) -> None:
        """Listen, and answer later.

        Args:
            handler: answers requests.
            context: of the TLS connections.
            host: address to listen on.
            port: 0 takes a free one.
            max_connections: that are open at a time.
            idle: seconds that a connection may be silent between requests.
            patience: seconds that a handshake may take, and a request or a response once it has begun.
        """
        self._handler = handler
        self._context = context
        self._idle = idle
        self._patience = patience
        self._socket = socket.create_server((host, port), backlog=128)
        self.port: int = self._socket.getsockname()[1]
        self._slots = threading.BoundedSemaphore(max_connections)
        self._open: set[_Connection] = set()
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
                _shut(one.sock)
        for thread in threading.enumerate():
            if thread.name == f"est-connection-{self.port}":
                thread.join(5)

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                plain, _ = self._socket.accept()
            except OSError as problem:
                if self._stopping.is_set():
                    return
                # Without file descriptors accept() fails at once, again and again, until a connection ends.
                _log.error("est_accept_failed", reason=repr(problem))
                self._stopping.wait(_PAUSE)
                continue
            if not self._slots.acquire(blocking=False) and not self._make_room():
                plain.close()
                continue
            connection = _Connection(plain)
            with self._lock:
                self._open.add(connection)
            name = f"est-connection-{self.port}"
            thread = threading.Thread(target=self._serve, args=(connection,), name=name, daemon=True)
            try:
                thread.start()
            except RuntimeError:
                _log.error("est_connection_refused", reason="no thread can be started")
                self._end(connection)

    def _make_room(self) -> bool:
        """End the connection that has waited longest for its client, and take its place."""
        with self._lock:
            waiting = [(since, one) for one in self._open if (since := one.waiting) is not None]
            since, longest = min(waiting, key=lambda one: one[0], default=(time.monotonic(), None))
            if longest is None or time.monotonic() - since < _PAUSE:
                return False
            _shut(longest.sock)
        return self._slots.acquire(timeout=_PAUSE)

    def _serve(self, connection: _Connection) -> None:
        plain = connection.sock
        try:
            plain.settimeout(self._patience)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False) as sock:
                with self._lock:
                    connection.sock = sock
                sock.do_handshake()
                self._converse(sock, connection)
        except (OSError, h11.ProtocolError, HsmBridgeError) as problem:
            _log.debug("est_connection_ended", reason=repr(problem))
        except Exception:  # noqa: BLE001 - the top of a thread: one connection must not end the server
            _log.exception("est_connection_failed")
        finally:
            self._end(connection)

    def _end(self, connection: _Connection) -> None:
        with self._lock:
            self._open.discard(connection)
            connection.sock.close()
        self._slots.release()

    def _converse(self, sock: ssl.SSLSocket, connection: _Connection) -> None:
        connection.waiting = None
        peer = Peer(_peer_certificates(sock), binding_values(sock))
        conversation = Conversation(sock, idle=self._idle, patience=self._patience)
        while conversation.reusable and not self._stopping.is_set():
            connection.waiting = time.monotonic()
            request = conversation.read()
            if request is None:
                return
            connection.waiting = None
            response = self._handler(request, peer)
            connection.waiting = time.monotonic()
            conversation.write(response)


def _peer_certificates(sock: ssl.SSLSocket) -> tuple[x509.Certificate, ...]:
    der = sock.getpeercert(binary_form=True)
    if not der:
        return ()
    # The rest of its chain has a public name from Python 3.13 on; without it, intermediates must be configured.
    chain = getattr(getattr(sock, "_sslobj", None), "get_unverified_chain", lambda: None)() or ()
    sent = [one.public_bytes(_DER) for one in chain]
    return tuple(load_certificate(one) for one in dict.fromkeys([der, *sent]))


_DER = 2
"""`_ssl.ENCODING_DER`."""


def _shut(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        return
