"""What a server's CsrAttrs mean for a request (RFC 7030 section 4.5.2, RFC 9908), under a policy of the client.

A request template, where there is one, replaces all older elements (RFC 9908 section 4). What is not known is ignored
and listed; what is dangerous to ask for on a server's word (a CA certificate, the right to sign for an RA) is refused.
"""

from dataclasses import dataclass

from cryptography import x509
from cryptography.x509.oid import ExtensionOID

from est import oids, refusals
from est.asn1.csrattrs import Attribute, CsrAttrs
from est.asn1.der import integer_of, oid_of, read
from est.asn1.template import ExtensionPart, KeyPart, NamePart, parse_extension_templates, parse_template

FILLABLE = frozenset(
    {
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME.dotted_string,
        ExtensionOID.KEY_USAGE.dotted_string,
        ExtensionOID.EXTENDED_KEY_USAGE.dotted_string,
        ExtensionOID.SUBJECT_KEY_IDENTIFIER.dotted_string,
        ExtensionOID.BASIC_CONSTRAINTS.dotted_string,
        ExtensionOID.CERTIFICATE_POLICIES.dotted_string,
        ExtensionOID.TLS_FEATURE.dotted_string,
    }
)
"""The extensions that a request may carry."""

_DANGEROUS_USAGES = frozenset({oids.CMC_RA, "1.3.6.1.5.5.7.3.27", "1.3.6.1.5.5.7.3.9", "2.5.29.37.0"})
"""cmcRA, cmcCA, OCSPSigning, anyExtendedKeyUsage."""


@dataclass(frozen=True, slots=True)
class DemandPolicy:
    """What may come from a server into a request. The default takes nothing that gives power over other keys."""

    allow_ca: bool = False
    more_extensions: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Demands:
    """What the server wants of a request.

    Attributes:
        subject: name parts to use or to fill, or None for no demand.
        key: the type of key, or None.
        digests: the digests that the signature may be over, the first preferred; empty for any.
        extensions: to be copied, or filled where the value is None.
        optional_extensions: identifiers that the client fills if it has something.
        challenge_password: the request must be linked to the TLS connection.
        ignored: what was listed and is not known.
    """

    subject: tuple[tuple[NamePart, ...], ...] | None = None
    key: KeyPart | None = None
    digests: tuple[str, ...] = ()
    extensions: tuple[ExtensionPart, ...] = ()
    optional_extensions: tuple[str, ...] = ()
    challenge_password: bool = False
    ignored: tuple[str, ...] = ()


def demands_of(listed: CsrAttrs, policy: DemandPolicy | None = None) -> Demands:
    """Read the meaning of what a server listed.

    Raises:
        WireError: a known element breaks its own rules.
        AccessError: it asks for something that the policy does not let a server ask for.
    """
    policy = policy or DemandPolicy()
    templates = listed.attributes(oids.CERTIFICATION_REQUEST_INFO_TEMPLATE)
    if len(templates) > 1 or any(len(one.values) != 1 for one in templates):
        raise refusals.malformed("The server sends more than one request template.")
    demands = _from_template(templates[0].values[0]) if templates else _from_elements(listed)
    for part in demands.extensions:
        _refuse_dangerous(part, policy)
    known = FILLABLE | policy.more_extensions
    ignored = tuple(part.oid for part in demands.extensions if part.oid not in known)
    return Demands(
        subject=demands.subject,
        key=demands.key,
        digests=demands.digests,
        extensions=tuple(part for part in demands.extensions if part.oid in known),
        optional_extensions=tuple(oid for oid in demands.optional_extensions if oid in known),
        challenge_password=demands.challenge_password,
        ignored=(*demands.ignored, *ignored),
    )


def _from_template(der: bytes) -> Demands:
    template = parse_template(der)
    known = {oids.CHALLENGE_PASSWORD}
    return Demands(
        subject=template.subject,
        key=template.key,
        extensions=template.extensions,
        challenge_password=any(one.type == oids.CHALLENGE_PASSWORD for one in template.attributes),
        ignored=tuple(one.type for one in template.attributes if one.type not in known),
    )


def _from_elements(listed: CsrAttrs) -> Demands:
    requests = [one for type_ in _REQUESTS for one in listed.attributes(type_)]
    if len(requests) > 1:
        raise refusals.malformed("The server sends more than one extension request.")
    extensions = parse_extension_templates(requests[0]) if requests else ()
    bare = [item for item in listed.items if isinstance(item, str)]
    attributes = [item for item in listed.items if isinstance(item, Attribute)]
    used = {*_REQUESTS, oids.CHALLENGE_PASSWORD}
    return Demands(
        key=_key_of(bare, attributes),
        digests=_digests_of(bare),
        extensions=extensions,
        optional_extensions=tuple(oid for oid in bare if oid.startswith(oids.EXTENSION_ARC)),
        challenge_password=oids.CHALLENGE_PASSWORD in {*bare, *(one.type for one in attributes)},
        ignored=(
            *(oid for oid in bare if not _known(oid)),
            *(one.type for one in attributes if one.type not in used | oids.KEY_TYPES),
        ),
    )


_REQUESTS = (oids.EXTENSION_REQUEST, oids.EXTENSION_REQ_TEMPLATE)


def _known(oid: str) -> bool:
    return (
        oid in oids.KEY_TYPES
        or oid in oids.DIGESTS
        or oid in oids.SIGNATURE_DIGESTS
        or oid == oids.CHALLENGE_PASSWORD
        or oid.startswith(oids.EXTENSION_ARC)
    )


def _digests_of(bare: list[str]) -> tuple[str, ...]:
    found = [oids.DIGESTS.get(oid) or oids.SIGNATURE_DIGESTS.get(oid) for oid in bare]
    return tuple(dict.fromkeys(one for one in found if one))


def _key_of(bare: list[str], attributes: list[Attribute]) -> KeyPart | None:
    stated = [one for one in attributes if one.type in oids.KEY_TYPES]
    if len(stated) > 1:
        raise refusals.malformed("The server demands keys of more than one type.")
    if stated:
        return _stated_key(stated[0])
    named = [oid for oid in bare if oid in oids.KEY_TYPES]
    return KeyPart(named[0]) if len(named) == 1 else None


def _stated_key(attribute: Attribute) -> KeyPart:
    if not attribute.values:
        return KeyPart(attribute.type)
    if len(attribute.values) > 1:
        raise refusals.malformed("The server demands more than one curve or length of the key.")
    value = attribute.values[0]
    if attribute.type == oids.EC_PUBLIC_KEY:
        return KeyPart(attribute.type, curve=read("curve of the key", value, lambda: oid_of(value)))
    if attribute.type == oids.RSA_ENCRYPTION:
        return KeyPart(attribute.type, bits=read("length of the key", value, lambda: integer_of(value)))
    return KeyPart(attribute.type)


def _refuse_dangerous(part: ExtensionPart, policy: DemandPolicy) -> None:
    if policy.allow_ca or part.value is None:
        return
    value = part.value
    if part.oid == ExtensionOID.BASIC_CONSTRAINTS.dotted_string:
        # SEQUENCE { cA BOOLEAN DEFAULT FALSE, ... }: any TRUE in it makes a CA.
        if b"\x01\x01\xff" in value:
            raise refusals.denied("The server's attributes ask for a CA certificate; the policy does not allow that.")
    elif part.oid == ExtensionOID.KEY_USAGE.dotted_string:
        if len(value) >= 4 and value[3] & 0x06:
            raise refusals.denied("The server's attributes ask for a key that signs certificates or CRLs; not allowed.")
    elif part.oid == ExtensionOID.EXTENDED_KEY_USAGE.dotted_string:
        found = [one for one in _DANGEROUS_USAGES if x509.ObjectIdentifier(one) in _usages(value)]
        if found:
            raise refusals.denied(f"The server's attributes ask for the extended key usage {found[0]}; not allowed.")


def _usages(value: bytes) -> tuple[x509.ObjectIdentifier, ...]:
    from asn1crypto import core

    def take() -> tuple[x509.ObjectIdentifier, ...]:
        listed = core.SequenceOf.load(value, strict=True, spec=core.ObjectIdentifier)
        return tuple(x509.ObjectIdentifier(str(one.dotted)) for one in listed)

    return read("extended key usage", value, take)
