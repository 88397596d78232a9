"""The request templates of RFC 9908: CertificationRequestInfoTemplate and ExtensionReqTemplate.

A template is a CertificationRequestInfo in which the server leaves out what the client fills: a name's value, a public
key, an extension's value. Reading gives what stands in it; `est.csr.demands` gives it meaning.
"""

from dataclasses import dataclass
from typing import ClassVar

from asn1crypto import core

from est import oids, refusals
from est.asn1.csrattrs import Attribute, dump_attribute, parse_attribute
from est.asn1.der import Sequence, SequenceOf, SetOf, read


class _SingleAttributeTemplate(Sequence):
    _fields: ClassVar[list[tuple[object, ...]]] = [
        ("type", core.ObjectIdentifier),
        ("value", core.Any, {"optional": True}),
    ]


class _RelativeNameTemplate(SetOf):
    _child_spec = _SingleAttributeTemplate


class _NameTemplate(SequenceOf):
    _child_spec = _RelativeNameTemplate


class _AlgorithmIdentifier(Sequence):
    _fields: ClassVar[list[tuple[object, ...]]] = [
        ("algorithm", core.ObjectIdentifier),
        ("parameters", core.Any, {"optional": True}),
    ]


class _KeyTemplate(Sequence):
    _fields: ClassVar[list[tuple[object, ...]]] = [
        ("algorithm", _AlgorithmIdentifier),
        ("subject_public_key", core.BitString, {"optional": True}),
    ]


class _Attributes(SetOf):
    _child_spec = core.Any


class _RequestTemplate(Sequence):
    _fields: ClassVar[list[tuple[object, ...]]] = [
        ("version", core.Integer),
        ("subject", _NameTemplate, {"optional": True}),
        ("key", _KeyTemplate, {"implicit": 0, "optional": True}),
        ("attributes", _Attributes, {"implicit": 1}),
    ]


class _ExtensionTemplate(Sequence):
    _fields: ClassVar[list[tuple[object, ...]]] = [
        ("extn_id", core.ObjectIdentifier),
        ("critical", core.Boolean, {"default": False}),
        ("extn_value", core.OctetString, {"optional": True}),
    ]


class _ExtensionTemplates(SequenceOf):
    _child_spec = _ExtensionTemplate


class _RsaPublicKey(Sequence):
    _fields: ClassVar[list[tuple[object, ...]]] = [("modulus", core.Integer), ("exponent", core.Integer)]


@dataclass(frozen=True, slots=True)
class NamePart:
    """One attribute of a name; `value` is DER, or None for the client to fill."""

    type: str
    value: bytes | None


@dataclass(frozen=True, slots=True)
class ExtensionPart:
    """One extension; `value` is the DER inside extnValue, or None for the client to fill."""

    oid: str
    critical: bool = False
    value: bytes | None = None


@dataclass(frozen=True, slots=True)
class KeyPart:
    """A type of key: its identifier, a curve or "" for any, and an RSA modulus length in bits or 0 for any."""

    algorithm: str
    curve: str = ""
    bits: int = 0


@dataclass(frozen=True, slots=True)
class Template:
    """What a server fills in of a request. `subject` is None where it asks nothing of the name."""

    subject: tuple[tuple[NamePart, ...], ...] | None = None
    key: KeyPart | None = None
    extensions: tuple[ExtensionPart, ...] = ()
    attributes: tuple[Attribute, ...] = ()


def parse_template(der: bytes) -> Template:
    """Read a CertificationRequestInfoTemplate.

    Raises:
        WireError: it cannot be read, or breaks a rule of RFC 9908 section 3.4.
    """

    def take() -> Template:
        info = _RequestTemplate.load(der, strict=True)
        if int(info["version"].native) != 0:
            raise refusals.malformed("The request template has a version that is not v1 (0).")
        attributes = tuple(parse_attribute(bytes(one.dump())) for one in info["attributes"])
        return Template(
            subject=_subject(info["subject"]) if _there(info["subject"]) else None,
            key=_key(info["key"]) if _there(info["key"]) else None,
            extensions=_extensions_of(attributes),
            attributes=tuple(one for one in attributes if one.type not in _EXTENSION_TYPES),
        )

    return read("request template", der, take)


_EXTENSION_TYPES = frozenset({oids.EXTENSION_REQUEST, oids.EXTENSION_REQ_TEMPLATE})


def _there(value: object) -> bool:
    return not isinstance(value, core.Void)


def _subject(name: _NameTemplate) -> tuple[tuple[NamePart, ...], ...]:
    return tuple(
        tuple(
            NamePart(str(part["type"].dotted), bytes(part["value"].dump()) if _there(part["value"]) else None)
            for part in relative
        )
        for relative in name
    )


def _key(key: _KeyTemplate) -> KeyPart:
    algorithm = str(key["algorithm"]["algorithm"].dotted)
    parameters = key["algorithm"]["parameters"]
    raw = bytes(parameters.dump()) if _there(parameters) else b""
    curve = str(core.ObjectIdentifier.load(raw, strict=True).dotted) if raw[:1] == b"\x06" else ""
    bits = 0
    if algorithm == oids.RSA_ENCRYPTION and _there(key["subject_public_key"]):
        placeholder = _RsaPublicKey.load(key["subject_public_key"].contents[1:], strict=True)
        bits = int(placeholder["modulus"].native).bit_length()
    return KeyPart(algorithm, curve, bits)


def _extensions_of(attributes: tuple[Attribute, ...]) -> tuple[ExtensionPart, ...]:
    found = [one for one in attributes if one.type in _EXTENSION_TYPES]
    if len(found) > 1:
        raise refusals.malformed("The request template has more than one list of extensions; one is allowed.")
    return parse_extension_templates(found[0]) if found else ()


def parse_extension_templates(attribute: Attribute) -> tuple[ExtensionPart, ...]:
    """Read the extensions of an id-ExtensionReq or id-aa-extensionReqTemplate attribute.

    Raises:
        WireError: it cannot be read, or has not exactly one value.
    """
    if len(attribute.values) != 1:
        raise refusals.malformed("An extension request attribute has exactly one value.")
    der = attribute.values[0]

    def take() -> tuple[ExtensionPart, ...]:
        parts = tuple(
            ExtensionPart(
                str(one["extn_id"].dotted),
                bool(one["critical"].native),
                bytes(one["extn_value"].native) if _there(one["extn_value"]) else None,
            )
            for one in _ExtensionTemplates.load(der, strict=True)
        )
        if len({part.oid for part in parts}) != len(parts):
            raise refusals.malformed("An extension is requested twice.")
        if attribute.type == oids.EXTENSION_REQUEST and any(part.value is None for part in parts):
            raise refusals.malformed("An extension request holds an extension without a value.")
        return parts

    return read("extension request", der, take)


def dump_template(template: Template) -> bytes:
    """Write a CertificationRequestInfoTemplate."""
    attributes = [dump_attribute(one) for one in template.attributes]
    if template.extensions:
        attributes.append(dump_attribute(extension_attribute(template.extensions)))
    info = _RequestTemplate({"version": 0, "attributes": [core.Any.load(one) for one in sorted(attributes)]})
    if template.subject is not None:
        info["subject"] = [[_name_part(part) for part in relative] for relative in template.subject]
    if template.key is not None:
        info["key"] = _key_part(template.key)
    return bytes(info.dump())


def extension_attribute(parts: tuple[ExtensionPart, ...]) -> Attribute:
    """The attribute for a list of extensions: id-ExtensionReq if all have values, else the template of it."""
    written = _ExtensionTemplates([])
    for part in parts:
        one = _ExtensionTemplate({"extn_id": part.oid, "critical": part.critical})
        if part.value is not None:
            one["extn_value"] = part.value
        written.append(one)
    whole = all(part.value is not None for part in parts)
    return Attribute(oids.EXTENSION_REQUEST if whole else oids.EXTENSION_REQ_TEMPLATE, (bytes(written.dump()),))


def _name_part(part: NamePart) -> _SingleAttributeTemplate:
    one = _SingleAttributeTemplate({"type": part.type})
    if part.value is not None:
        one["value"] = core.Any.load(part.value)
    return one


def _key_part(key: KeyPart) -> _KeyTemplate:
    algorithm = _AlgorithmIdentifier({"algorithm": key.algorithm})
    if key.algorithm == oids.RSA_ENCRYPTION:
        algorithm["parameters"] = core.Any.load(core.Null().dump())
    elif key.curve:
        algorithm["parameters"] = core.Any.load(core.ObjectIdentifier(key.curve).dump())
    template = _KeyTemplate({"algorithm": algorithm})
    if key.bits:
        # RFC 9908: the length is told by a placeholder key with a modulus of that length.
        placeholder = _RsaPublicKey({"modulus": (1 << key.bits) - 1, "exponent": 65537})
        template["subject_public_key"] = core.BitString.load(_bit_string(placeholder.dump()))
    return template


def _bit_string(content: bytes) -> bytes:
    return bytes(core.OctetBitString(content).dump())
