"""Making keys on a token: generated there, or given in the clear."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from asn1crypto.core import ObjectIdentifier
from pkcs11 import Attribute, Mechanism, MechanismFlag, ObjectClass, Session
from pkcs11 import KeyType as Ckk

from hsmbridge.core.calls import KeyTarget
from hsmbridge.core.errors import RequestError, Status
from hsmbridge.core.key_types import Family, KeyType
from hsmbridge.providers.pkcs11.objects import KeyObjects
from hsmbridge.providers.pkcs11.templates import Template, pair_templates, secret_template

_SECRETS = frozenset({Family.AES, Family.HMAC, Family.SECRET})
_NO_USES = MechanismFlag(0)


def make_key(session: Session, row: KeyType, target: KeyTarget, fixed: Template) -> KeyObjects:
    """Generate a key. Raises RequestError (NOT_SUPPORTED) for families that have no PKCS#11 form here."""
    make = _MAKERS.get(row.family)
    if make is None:
        raise RequestError(Status.NOT_SUPPORTED, f"This provider cannot make keys of type {row.name}.")
    return make(session, row, target, fixed)


def _make_secret(session: Session, row: KeyType, target: KeyTarget, fixed: Template) -> KeyObjects:
    kind, mechanism = secret_kind(row)
    key = session.generate_key(
        kind,
        row.bits,
        capabilities=_NO_USES,
        mechanism=mechanism,
        template=secret_template(target, fixed),
    )
    return KeyObjects(secret=key)


def import_secret(
    session: Session, row: KeyType, target: KeyTarget, format_: str, material: bytes, fixed: Template
) -> KeyObjects:
    """Put a secret key given in the clear on the token.

    Raises:
        RequestError: NOT_SUPPORTED for key pairs, INVALID_ARGUMENT for another format, KEY_TYPE_MISMATCH for
            another size.
    """
    if row.family not in _SECRETS:
        raise RequestError(Status.NOT_SUPPORTED, f"This provider cannot import keys of type {row.name}.")
    if format_ != "raw":
        raise RequestError(Status.INVALID_ARGUMENT, f'A key of type {row.name} is imported as "raw".')
    if len(material) != row.bytes:
        raise RequestError(
            Status.KEY_TYPE_MISMATCH, f"A key of type {row.name} has {row.bytes} bytes; this one has {len(material)}."
        )
    kind, _ = secret_kind(row)
    key = session.create_object(
        {
            Attribute.CLASS: ObjectClass.SECRET_KEY,
            Attribute.KEY_TYPE: kind,
            Attribute.VALUE: material,
            **secret_template(target, fixed),
        }
    )
    return KeyObjects(secret=key)


def secret_kind(row: KeyType) -> tuple[Ckk, Mechanism]:
    """CKK and generation mechanism of a secret key. HMAC keys are generic secrets: few tokens know CKK_SHA256_HMAC."""
    if row.family is Family.AES:
        return Ckk.AES, Mechanism.AES_KEY_GEN
    return Ckk.GENERIC_SECRET, Mechanism.GENERIC_SECRET_KEY_GEN


def _make_rsa(session: Session, row: KeyType, target: KeyTarget, fixed: Template) -> KeyObjects:
    public_template, private_template = pair_templates(target, fixed)
    public, private = session.generate_keypair(
        Ckk.RSA,
        row.bits,
        capabilities=_NO_USES,
        public_template=public_template,
        private_template=private_template,
    )
    return KeyObjects(private=private, public=public)


def _make_on_curve(session: Session, row: KeyType, target: KeyTarget, fixed: Template) -> KeyObjects:
    kind = Ckk.EC if row.family is Family.EC else Ckk.EC_EDWARDS
    parameters = ObjectIdentifier(row.ec_parameters).dump()
    domain = session.create_domain_parameters(kind, {Attribute.EC_PARAMS: parameters}, local=True)
    public_template, private_template = pair_templates(target, fixed)
    public, private = domain.generate_keypair(
        capabilities=_NO_USES, public_template=public_template, private_template=private_template
    )
    return KeyObjects(private=private, public=public)


_MAKERS: Mapping[Family, Callable[[Session, KeyType, KeyTarget, Template], KeyObjects]] = MappingProxyType(
    {
        Family.RSA: _make_rsa,
        Family.EC: _make_on_curve,
        Family.EDWARDS: _make_on_curve,
        Family.AES: _make_secret,
        Family.HMAC: _make_secret,
        Family.SECRET: _make_secret,
    }
)
