"""Retry-After (RFC 9110 section 10.2.3): seconds, or a date."""

from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime


def parse_retry_after(header: str, now: datetime) -> float | None:
    """How many seconds to wait, never below 0; None if the header is missing or cannot be read."""
    text = header.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        when = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - now).total_seconds())


def http_date(when: datetime) -> str:
    """A time as HTTP writes it."""
    return format_datetime(when.astimezone(UTC), usegmt=True)
