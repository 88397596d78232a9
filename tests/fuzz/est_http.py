"""HTTP as EST has it: header fields, multipart, payloads, addresses, and whole responses and requests from a socket."""

import socket
import time
from datetime import UTC, datetime

import h11

from est.client.address import EstAddress
from est.csr.linking import same
from est.http import media_type
from est.http.authorization import Credentials, answer, check_answer, parse_challenges
from est.http.exchange import Exchange, Request, Response
from est.http.media_type import MediaType, parse_media_type
from est.http.multipart import MAX_PARTS, Part, dump_multipart, parse_multipart
from est.http.payload import decode, encode
from est.http.retry_after import parse_retry_after
from est.server.conversation import Conversation
from est.server.messages import ServerRequest, ServerResponse
from tests.fuzz.target import Reader, Target

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DIGEST = 'Digest realm="est", qop="auth", algorithm=SHA-256, nonce="0123"'
ANSWER = (
    'Digest username="device", realm="est", nonce="0123", uri="/x", response="00", algorithm=SHA-256, qop=auth,'
    ' nc=00000001, cnonce="1"'
)


def read_challenges(data: bytes) -> str:
    """What a server asks for, answered."""
    challenges = parse_challenges(data.decode("latin-1"))
    header = answer(challenges, Credentials("device", "secret"), "POST", "/x")
    assert "\n" not in header
    assert "\r" not in header
    return header


def read_answer(data: bytes) -> str:
    """What a client answers."""
    user = check_answer(data.decode("latin-1"), {"device": "secret"}, "est", {"0123"}, "POST", "/x")
    assert user in {"", "device"}
    return user


def read_type(data: bytes) -> MediaType:
    """A Content-Type."""
    found = parse_media_type(data.decode("latin-1"))
    assert isinstance(found.smime_type, str)
    return found


def read_wait(data: bytes) -> float | None:
    """A Retry-After."""
    wait = parse_retry_after(data.decode("latin-1"), NOW)
    assert wait is None or wait >= 0
    return wait


def read_parts(data: bytes) -> list[bytes]:
    """A multipart body behind a line with its type."""
    type_, _, body = data.partition(b"\n")
    parts: tuple[Part, ...] = parse_multipart(parse_media_type(type_.decode("latin-1")), body)
    assert len(parts) <= MAX_PARTS
    return [decode(one.body, lenient=True) for one in parts]


def read_payload(data: bytes) -> bytes:
    """A body in base64; encoded again it says the same."""
    found = decode(data[1:], lenient=data[:1] == b"\1")
    assert decode(encode(found)) == found
    return found


def read_address(data: bytes) -> EstAddress:
    """What a user writes for a server; written again it is the same."""
    address = EstAddress.parse(data.decode("latin-1"))
    assert EstAddress.parse(str(address)) == address
    return address


def read_link(data: bytes) -> bool:
    """A challengePassword."""
    return same(data.decode("latin-1"), b"binding")


def read_response(data: bytes) -> Response:
    """What a server sends, to its end."""
    here, there = socket.socketpair()
    with here, there:
        there.sendall(data)
        there.shutdown(socket.SHUT_WR)
        request = Request("POST", "/.well-known/est/simpleenroll", body=b"x")
        response = Exchange(here, "host.example").send(request, time.monotonic() + 10)
    response.header("retry-after")
    return response


def read_request(data: bytes) -> ServerRequest | None:
    """What a client sends, to its end, and the answers to it."""
    here, there = socket.socketpair()
    request = None
    with here, there:
        there.sendall(data)
        there.shutdown(socket.SHUT_WR)
        conversation = Conversation(here, idle=10, patience=10)
        try:
            while conversation.reusable and (request := conversation.read()) is not None:
                conversation.write(ServerResponse(200, body=b"done\n"))
        except (h11.RemoteProtocolError, OSError):
            return None
    return request


_RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Type: application/pkcs7-mime\r\nContent-Length: 4\r\n\r\nMAA="
_CHUNKED = b"HTTP/1.1 202 Accepted\r\nRetry-After: 5\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
_POST = b"POST /.well-known/est/simpleenroll HTTP/1.1\r\nHost: a\r\nContent-Type: application/pkcs10\r\n"
_REQUESTS = [
    b"GET /.well-known/est/cacerts HTTP/1.1\r\nHost: a\r\n\r\n" * 2,
    _POST + b"Content-Length: 4\r\nExpect: 100-continue\r\n\r\nMAA=",
    _POST + b"Transfer-Encoding: chunked\r\n\r\n4\r\nMAA=\r\n0\r\n\r\n",
]
_TYPE, _BODY = dump_multipart([(media_type.PKCS8, encode(b"key")), (media_type.CERTS_ONLY, encode(b"certificate"))])

TARGET = Target(
    (
        Reader("challenges", read_challenges, [DIGEST.encode() + b', Basic realm="est"', b"Basic"]),
        Reader("answer", read_answer, [ANSWER.encode(), b"Basic ZGV2aWNlOnNlY3JldA=="]),
        Reader("media type", read_type, [media_type.CERTS_ONLY.encode(), b"a/b; name*0*=utf-8''%41; name*1=b"]),
        Reader("wait", read_wait, [b"120", b"Fri, 02 Jan 2026 00:00:00 GMT", b"Fri, 02-Jan-26 00:00:00 +9959"]),
        Reader("parts", read_parts, [_TYPE.encode() + b"\n" + _BODY]),
        Reader("payload", read_payload, [b"\0" + encode(b"content"), b"\1-----BEGIN X-----\nMAA=\n-----END X-----\n"]),
        Reader("address", read_address, [b"host.example:8443", b"https://[::1]/.well-known/est/label"]),
        Reader("link", read_link, [b"YmluZGluZw=="]),
        Reader("response", read_response, [_RESPONSE, _CHUNKED]),
        Reader("request", read_request, _REQUESTS),
    ),
    longest=4096,
)
