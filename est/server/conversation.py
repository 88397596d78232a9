"""HTTP/1.1 by h11 over one open connection of a client: a request is read, a response written, and so on.

Every size has a limit, and so has the time of every step as a whole: a client that sends or takes an octet now and
then is not waited for longer than one that is silent.
"""

import socket
import time

import h11

from est import refusals
from est.http.exchange import MAX_HEADER
from est.http.payload import MAX_BODY
from est.server.messages import ServerRequest, ServerResponse

_RECEIVE = 65536


class Conversation:
    """What one connection carries.

    Attributes:
        reusable: whether another request may follow.
    """

    def __init__(self, sock: socket.socket, *, idle: float, patience: float) -> None:
        """Talk over a socket.

        Args:
            sock: connected; its timeout is changed.
            idle: seconds until the first octets of a request.
            patience: seconds in which the rest of it must come, and in which a response must be taken.
        """
        self._sock = sock
        self._idle = idle
        self._patience = patience
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEADER)
        self._without_body = False
        self.reusable = True

    def read(self) -> ServerRequest | None:
        """The next request, or None where the client has closed the connection.

        Raises:
            h11.ProtocolError: what comes is not HTTP.
            LimitError: a request is too large; the client was told.
            OSError: the connection broke, or the time is up.
        """
        deadline = time.monotonic() + self._idle
        begun = False
        head: h11.Request | None = None
        body = bytearray()
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                if self._http.they_are_waiting_for_100_continue:
                    interim = h11.InformationalResponse(status_code=100, headers=[])
                    self._send(self._http.send(interim) or b"", deadline)
                data = self._receive(deadline)
                if data and not begun:
                    begun = True
                    deadline = time.monotonic() + self._patience
                self._http.receive_data(data)
            elif isinstance(event, h11.Request):
                head = event
                self._without_body = head.method == b"HEAD"
            elif isinstance(event, h11.Data):
                body += event.data
                if len(body) > MAX_BODY:
                    self.write(ServerResponse(413, body=b"Too large.\n", headers=(("Connection", "close"),)))
                    raise refusals.too_large("A request was too large.")
            elif isinstance(event, h11.EndOfMessage) and head is not None:
                headers = {name.decode("ascii"): value.decode("latin-1") for name, value in head.headers}
                return ServerRequest(head.method.decode("ascii"), head.target.decode("ascii"), headers, bytes(body))
            else:
                return None

    def write(self, response: ServerResponse) -> None:
        """Answer the request that was read last.

        Raises:
            OSError: the connection broke, or the time is up.
        """
        headers = [("Content-Length", str(len(response.body))), *response.headers]
        if response.body:
            headers.insert(0, ("Content-Type", response.type))
        encoded = [(name.encode("ascii"), value.encode("latin-1", "replace")) for name, value in headers]
        if response.status == 204:
            encoded = [one for one in encoded if one[0] != b"Content-Length"]
        parts = [self._http.send(h11.Response(status_code=response.status, headers=encoded))]
        if response.body and not self._without_body:
            parts.append(self._http.send(h11.Data(data=response.body)))
        parts.append(self._http.send(h11.EndOfMessage()))
        self._send(b"".join(part for part in parts if part), time.monotonic() + self._patience)
        self.reusable = self._http.our_state is h11.DONE and self._http.their_state is h11.DONE
        if self.reusable:
            self._http.start_next_cycle()

    def _receive(self, deadline: float) -> bytes:
        self._sock.settimeout(_left(deadline))
        return self._sock.recv(_RECEIVE)

    def _send(self, data: bytes, deadline: float) -> None:
        # sendall() of a TLS socket begins its timeout anew with every record.
        rest = memoryview(data)
        while rest:
            self._sock.settimeout(_left(deadline))
            rest = rest[self._sock.send(rest) :]


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("the client took too long")
    return left
