"""multipart/mixed (RFC 2046 section 5.1) for /serverkeygen: a few parts, each a payload with its media type."""

import secrets
from collections.abc import Iterable
from dataclasses import dataclass

from est import refusals
from est.http.media_type import MediaType, parse_media_type

MAX_PARTS = 8


@dataclass(frozen=True, slots=True)
class Part:
    """One part; its body as it came, still in base64."""

    type: MediaType
    body: bytes


def parse_multipart(type_: MediaType, body: bytes) -> tuple[Part, ...]:
    """The parts of a body.

    Raises:
        WireError: no boundary, or no end.
        LimitError: more than `MAX_PARTS`.
    """
    boundary = type_.parameters.get("boundary", "").encode("latin-1", "replace")
    if not 1 <= len(boundary) <= 70:
        raise refusals.malformed("A multipart body names no boundary.")
    sections = (b"\r\n" + body.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")).split(b"\r\n--" + boundary)
    if len(sections) < 3 or not sections[-1].startswith(b"--"):
        raise refusals.malformed("The multipart body has no part or no end.")
    if len(sections) - 2 > MAX_PARTS:
        raise refusals.too_large(f"The multipart body has more than {MAX_PARTS} parts.")
    return tuple(_part(section) for section in sections[1:-1])


def _part(section: bytes) -> Part:
    # What follows the boundary on its line is padding.
    _, newline, rest = section.partition(b"\r\n")
    if not newline:
        raise refusals.malformed("A part of the multipart body is empty.")
    head, blank, content = rest.partition(b"\r\n\r\n")
    if rest.startswith(b"\r\n"):
        head, blank, content = b"", b"\r\n", rest[2:]
    if not blank:
        raise refusals.malformed("A part of the multipart body has no end of its header.")
    type_ = MediaType("text/plain")
    for line in head.replace(b"\r\n ", b" ").replace(b"\r\n\t", b" ").split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-type":
            type_ = parse_media_type(value.strip().decode("latin-1"))
    return Part(type_, content)


def dump_multipart(parts: Iterable[tuple[str, bytes]]) -> tuple[str, bytes]:
    """The Content-Type and the body for parts (media type, payload)."""
    boundary = f"est-{secrets.token_hex(16)}"
    written = []
    for type_, payload in parts:
        head = f"--{boundary}\r\nContent-Type: {type_}\r\nContent-Transfer-Encoding: base64\r\n\r\n"
        written.append(head.encode("ascii") + payload.rstrip(b"\n").replace(b"\n", b"\r\n") + b"\r\n")
    written.append(f"--{boundary}--\r\n".encode("ascii"))
    return f"multipart/mixed; boundary={boundary}", b"".join(written)
