"""Keys that the token generates."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from asn1crypto.core import ObjectIdentifier
from pkcs11 import Attribute, Mechanism, MechanismFlag, Session
from pkcs11 import KeyType as Ckk

from hsmbridge.core.calls import KeyTarget
from hsmbridge.core.errors import RequestError, Status
from hsmbridge.core.key_types import Family, KeyType
from hsmbridge.providers.pkcs11.newer_constants import CHACHA20, key_kind_by_number, mechanism_by_number
from hsmbridge.providers.pkcs11.objects import KeyObjects
from hsmbridge.providers.pkcs11.parameter_sets import PARAMETER_SETS
from hsmbridge.providers.pkcs11.templates import Template, pair_templates, secret_template

_NO_USES = MechanismFlag(0)
_CKM_CHACHA20_KEY_GEN = 0x1225


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


def secret_kind(row: KeyType) -> tuple[Ckk, Mechanism]:
    """CKK and generation mechanism of a secret key. HMAC keys are generic secrets: few tokens know CKK_SHA256_HMAC."""
    if row.family is Family.AES:
        return Ckk.AES, Mechanism.AES_KEY_GEN
    if row.family is Family.CHACHA20:
        return CHACHA20, mechanism_by_number(_CKM_CHACHA20_KEY_GEN)
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
    kind, mechanism = pair_kind(row)
    domain = session.create_domain_parameters(kind, {Attribute.EC_PARAMS: curve_parameters(row)}, local=True)
    public_template, private_template = pair_templates(target, fixed)
    public, private = domain.generate_keypair(
        capabilities=_NO_USES,
        mechanism=mechanism,
        public_template=public_template,
        private_template=private_template,
    )
    return KeyObjects(private=private, public=public)


def _make_of_set(session: Session, row: KeyType, target: KeyTarget, fixed: Template) -> KeyObjects:
    kind, mechanism = pair_kind(row)
    public_template, private_template = pair_templates(target, fixed)
    public, private = session.generate_keypair(
        kind,
        capabilities=_NO_USES,
        mechanism=mechanism,
        public_template={Attribute.PARAMETER_SET: PARAMETER_SETS[row.name], **public_template},
        private_template=private_template,
    )
    return KeyObjects(private=private, public=public)


def pair_kind(row: KeyType) -> tuple[Ckk, Mechanism]:
    """CKK and generation mechanism of a key pair. Raises RequestError (NOT_SUPPORTED) where PKCS#11 has none."""
    if row.ckk is None or row.key_gen is None:
        raise RequestError(Status.NOT_SUPPORTED, f"PKCS#11 has no keys of type {row.name}.")
    return key_kind_by_number(row.ckk), mechanism_by_number(row.key_gen)


def curve_parameters(row: KeyType) -> bytes:
    """CKA_EC_PARAMS of a key type on a curve: its object identifier."""
    parameters: bytes = ObjectIdentifier(row.ec_parameters).dump()
    return parameters


_MAKERS: Mapping[Family, Callable[[Session, KeyType, KeyTarget, Template], KeyObjects]] = MappingProxyType(
    {
        Family.RSA: _make_rsa,
        Family.EC: _make_on_curve,
        Family.EDWARDS: _make_on_curve,
        Family.MONTGOMERY: _make_on_curve,
        Family.ML_DSA: _make_of_set,
        Family.ML_KEM: _make_of_set,
        Family.SLH_DSA: _make_of_set,
        Family.AES: _make_secret,
        Family.CHACHA20: _make_secret,
        Family.HMAC: _make_secret,
        Family.SECRET: _make_secret,
    }
)
