"""Linking identity and proof of possession (RFC 7030 section 3.5): the TLS connection's name in the request.

The value of tls-unique (RFC 5929), or of tls-exporter (RFC 9266) where both sides agreed on it, goes in base64 into
the challengePassword of a request that is sent on that same connection.
"""

import base64
import hmac
from enum import StrEnum, unique

from est import refusals


@unique
class Link(StrEnum):
    """Whether and how a request is linked to its connection."""

    NONE = "none"
    """Not, unless the server demands it; then as WHEN_POSSIBLE."""
    WHEN_POSSIBLE = "when-possible"
    """By tls-unique over TLS 1.2; not over TLS 1.3, which has none."""
    REQUIRE = "require"
    """By tls-unique; TLS 1.3 is not offered."""
    EXPORTER = "tls-exporter"
    """By tls-exporter. No RFC gives EST this value; both sides must be told."""


def challenge(binding: bytes) -> str:
    """The challengePassword for the value of a channel binding.

    Raises:
        RequestError: there is no value.
    """
    if not binding:
        raise refusals.unsupported("The TLS connection gives no value to link a request to.")
    return base64.b64encode(binding).decode("ascii")


def same(challenge_: str, binding: bytes) -> bool:
    """Whether a challengePassword names this connection; takes the same time wherever they differ."""
    try:
        sent = base64.b64decode("".join(challenge_.split()), validate=True)
    except ValueError:
        return False
    return bool(binding) and hmac.compare_digest(sent, binding)
