"""One request and its response over an open connection, by h11; every size and the time have a limit."""

import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

import h11

from est import refusals
from est.http.payload import MAX_BODY

MAX_HEADER = 32 * 1024
"""Octets of a status line and header fields."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request; header fields beside Host and Content-Length."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Response:
    """A response; names of header fields in lower case."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = field(default=b"", repr=False)
    reusable: bool = False
    """Whether the connection may carry another request."""

    def header(self, name: str) -> str:
        """The value of a header field, "" if it is not there; values of a repeated one joined by commas."""
        return ", ".join(value for key, value in self.headers if key == name.lower())


class Exchange:
    """A connection that carries one request after another."""

    def __init__(self, sock: socket.socket, host: str) -> None:
        self._sock = sock
        self._host = host
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEADER)

    def send(self, request: Request, deadline: float) -> Response:
        """Send a request and read its response; `deadline` is in seconds of `time.monotonic`.

        Raises:
            WireError: no answer, or none that is HTTP.
            LimitError: the answer is too large.
            ProviderError: OPERATION_TIMED_OUT.
        """
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
        try:
            self._write(request, deadline)
            return self._read(deadline)
        except TimeoutError:
            raise refusals.timed_out("The server did not answer in time.") from None
        except h11.RemoteProtocolError as problem:
            raise refusals.malformed("The server's answer is not HTTP/1.1.") from problem
        except OSError as problem:
            raise refusals.unreachable("The connection to the server broke.", origin=repr(problem)) from problem

    def _write(self, request: Request, deadline: float) -> None:
        headers = [("Host", self._host), *request.headers]
        if request.method == "POST" or request.body:
            # Never chunked: old servers answer that with 400.
            headers.append(("Content-Length", str(len(request.body))))
        head = h11.Request(method=request.method, target=request.target, headers=_encoded(headers))
        parts = [self._http.send(head)]
        if request.body:
            parts.append(self._http.send(h11.Data(data=request.body)))
        parts.append(self._http.send(h11.EndOfMessage()))
        self._sock.settimeout(_left(deadline))
        self._sock.sendall(b"".join(part for part in parts if part))

    def _read(self, deadline: float) -> Response:
        head: h11.Response | None = None
        body = bytearray()
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                self._sock.settimeout(_left(deadline))
                self._http.receive_data(self._sock.recv(65536))
            elif isinstance(event, h11.Response):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
                if len(body) > MAX_BODY:
                    raise refusals.too_large(f"The server's answer is longer than {MAX_BODY} octets.")
            elif isinstance(event, h11.EndOfMessage) and head is not None:
                headers = tuple((name.decode("ascii"), value.decode("latin-1")) for name, value in head.headers)
                reusable = self._http.our_state is h11.DONE and self._http.their_state is h11.DONE
                return Response(head.status_code, headers, bytes(body), reusable)
            elif isinstance(event, h11.ConnectionClosed):
                raise refusals.unreachable("The server closed the connection without an answer.")


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _encoded(headers: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("ascii"), value.encode("latin-1")) for name, value in headers]
