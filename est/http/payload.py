"""The transfer encoding of RFC 8951: every payload is base64 of DER, whatever a header says.

Written with lines of 64 characters and a final newline, which old servers need; old clients need one line, so a
server can be told. Read whatever the white space.
"""

import base64
import binascii

from est import refusals

MAX_BODY = 2 << 20
"""Octets of a body."""


def encode(der: bytes, wrap: int = 64) -> bytes:
    """The payload for DER; `wrap` is the length of a line, 0 for one line without an end."""
    text = base64.b64encode(der)
    if wrap <= 0:
        return text
    return b"".join(text[start : start + wrap] + b"\n" for start in range(0, len(text), wrap))


def decode(body: bytes, *, lenient: bool = False) -> bytes:
    """The DER in a payload.

    Args:
        lenient: also take DER as it is, and PEM, which some programs send.

    Raises:
        WireError: it is not base64.
        LimitError: more than `MAX_BODY`.
    """
    if len(body) > MAX_BODY:
        raise refusals.too_large(f"The body has {len(body)} octets; at most {MAX_BODY} are read.")
    if lenient and body[:1] == b"\x30" and body[1:2] >= b"\x80":
        return body
    text = b"".join(body.split())
    if lenient and body.lstrip().startswith(b"-----BEGIN "):
        lines = [line for line in body.splitlines() if line and b"-----" not in line]
        text = b"".join(b"".join(lines).split())
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise refusals.malformed("The body is not base64, which RFC 8951 asks for.") from None
