"""CsrAttrs of RFC 7030 section 4.5.2 as RFC 8951 section 3.5 corrected it, read and written; no meaning is given.

CsrAttrs ::= SEQUENCE SIZE (0..MAX) OF AttrOrOID
AttrOrOID ::= CHOICE { oid OBJECT IDENTIFIER, attribute Attribute }
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from asn1crypto import core

from est.asn1.der import Choice, Sequence, SequenceOf, SetOf, read


class _Values(SetOf):
    _child_spec = core.Any


class _Attribute(Sequence):
    _fields: ClassVar[list[tuple[object, ...]]] = [("type", core.ObjectIdentifier), ("values", _Values)]


class _AttrOrOid(Choice):
    _alternatives: ClassVar[list[tuple[object, ...]]] = [("oid", core.ObjectIdentifier), ("attribute", _Attribute)]


class _CsrAttrs(SequenceOf):
    _child_spec = _AttrOrOid


@dataclass(frozen=True, slots=True)
class Attribute:
    """An attribute: its type, and its values as DER."""

    type: str
    values: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class CsrAttrs:
    """What a server lists, in its order: identifiers (str) and attributes."""

    items: tuple[str | Attribute, ...] = ()

    @property
    def oids(self) -> frozenset[str]:
        """The identifiers that stand alone."""
        return frozenset(item for item in self.items if isinstance(item, str))

    def attributes(self, type_: str) -> tuple[Attribute, ...]:
        """The attributes of one type."""
        return tuple(item for item in self.items if isinstance(item, Attribute) and item.type == type_)


def parse_csrattrs(der: bytes) -> CsrAttrs:
    """Read the body of a reply to /csrattrs; no body is no demand.

    Raises:
        WireError: it cannot be read.
    """
    if not der:
        return CsrAttrs()

    def take() -> CsrAttrs:
        return CsrAttrs(tuple(_item(child) for child in _CsrAttrs.load(der, strict=True)))

    return read("CsrAttrs", der, take)


def _item(child: _AttrOrOid) -> str | Attribute:
    if child.name == "oid":
        return str(child.chosen.dotted)
    attribute = child.chosen
    return Attribute(str(attribute["type"].dotted), tuple(bytes(value.dump()) for value in attribute["values"]))


def dump_csrattrs(items: Iterable[str | Attribute]) -> bytes:
    """Write CsrAttrs."""
    children = _CsrAttrs([])
    for item in items:
        children.append(_AttrOrOid("oid", item) if isinstance(item, str) else _AttrOrOid("attribute", _written(item)))
    return bytes(children.dump())


def _written(attribute: Attribute) -> _Attribute:
    return _Attribute({"type": attribute.type, "values": [core.Any.load(value) for value in attribute.values]})


def dump_attribute(attribute: Attribute) -> bytes:
    """Write one Attribute."""
    return bytes(_written(attribute).dump())


def parse_attribute(der: bytes) -> Attribute:
    """Read one Attribute.

    Raises:
        WireError: it cannot be read.
    """

    def take() -> Attribute:
        read_ = _Attribute.load(der, strict=True)
        return Attribute(str(read_["type"].dotted), tuple(bytes(value.dump()) for value in read_["values"]))

    return read("attribute", der, take)
