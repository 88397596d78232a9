"""The typed edge of asn1crypto: strict DER in, and the few base classes that our specifications extend.

asn1crypto has no types; what leaves this package is bytes, str, int and our own classes.
"""

from collections.abc import Callable
from typing import TypeVar

from asn1crypto import core

from est import refusals

MAX_DER = 1 << 20
"""Octets of one structure; certificates with many post-quantum keys stay far below."""

T = TypeVar("T")


class Sequence(core.Sequence):  # type: ignore[misc]  # asn1crypto has no types
    """A SEQUENCE."""


class SequenceOf(core.SequenceOf):  # type: ignore[misc]  # asn1crypto has no types
    """A SEQUENCE OF."""


class SetOf(core.SetOf):  # type: ignore[misc]  # asn1crypto has no types
    """A SET OF."""


class Choice(core.Choice):  # type: ignore[misc]  # asn1crypto has no types
    """A CHOICE."""


def read(what: str, der: bytes, take: Callable[[], T]) -> T:
    """What `take` makes of `der`; anything asn1crypto objects to becomes a refusal that names `what`.

    Raises:
        WireError: not DER, or not this structure.
        LimitError: longer than `MAX_DER`.
    """
    if len(der) > MAX_DER:
        raise refusals.too_large(f"The {what} has {len(der)} octets; at most {MAX_DER} are read.")
    try:
        return take()
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError):
        # asn1crypto shows malformed input by whichever of these its code meets first.
        raise refusals.malformed(f"The {what} cannot be read: it is not the DER that its standard asks for.") from None


def oid_of(der: bytes) -> str:
    """The identifier in an OBJECT IDENTIFIER."""
    return str(core.ObjectIdentifier.load(der, strict=True).dotted)


def oid(dotted: str) -> bytes:
    """An OBJECT IDENTIFIER."""
    return bytes(core.ObjectIdentifier(dotted).dump())


def integer(value: int) -> bytes:
    """An INTEGER."""
    return bytes(core.Integer(value).dump())


def integer_of(der: bytes) -> int:
    """The number in an INTEGER."""
    return int(core.Integer.load(der, strict=True).native)


def octets(value: bytes) -> bytes:
    """An OCTET STRING."""
    return bytes(core.OctetString(value).dump())


def octets_of(der: bytes) -> bytes:
    """The octets in an OCTET STRING."""
    return bytes(core.OctetString.load(der, strict=True).native)
