"""What objects on a token must be: names, uses, and that they stay so.

A key's CKA_ID is the key id that the store chose; its CKA_LABEL begins with LABEL_PREFIX. Every use is given, also
those that are false, and as far as the token takes it no object can be changed or copied afterwards: a client that
reaches the token past the daemon gains nothing. CKA_WRAP_WITH_TRUSTED is not set: only a security officer can make a
wrapping key trusted, and a key that may not be exported is not extractable at all. PKCS#11 v2.40, sections 4.4 to 4.10.
"""

from collections.abc import Mapping
from types import MappingProxyType

from pkcs11 import Attribute

from hsmbridge.core.calls import KeyTarget
from hsmbridge.core.key_types import Family, KeyType, key_type
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.core.permissions import permissions_from_bits

LABEL_PREFIX = "hsmbridge:"

Template = dict[Attribute, object]

_PRIVATE_USES: Mapping[Attribute, P] = MappingProxyType(
    {
        Attribute.SIGN: P.SIGN,
        Attribute.DECRYPT: P.DECRYPT,
        Attribute.UNWRAP: P.UNWRAP,
        Attribute.DERIVE: P.DERIVE,
        Attribute.SIGN_RECOVER: P.NONE,
    }
)
_PUBLIC_USES: Mapping[Attribute, P] = MappingProxyType(
    {
        Attribute.VERIFY: P.VERIFY,
        Attribute.ENCRYPT: P.ENCRYPT,
        Attribute.WRAP: P.WRAP,
        Attribute.VERIFY_RECOVER: P.NONE,
        Attribute.DERIVE: P.NONE,
    }
)
_SECRET_USES: Mapping[Attribute, P] = MappingProxyType(
    {
        Attribute.ENCRYPT: P.ENCRYPT,
        Attribute.DECRYPT: P.DECRYPT,
        Attribute.SIGN: P.SIGN,
        Attribute.VERIFY: P.VERIFY,
        Attribute.WRAP: P.WRAP,
        Attribute.UNWRAP: P.UNWRAP,
        Attribute.DERIVE: P.DERIVE,
    }
)
_KEM_PRIVATE_USES: Mapping[Attribute, P] = MappingProxyType({Attribute.DECAPSULATE: P.DECAPSULATE})
_KEM_PUBLIC_USES: Mapping[Attribute, P] = MappingProxyType({Attribute.ENCAPSULATE: P.ENCAPSULATE})
_KEPT = P.EXPORT | P.GENERATE
_AGREES = P.SIGN | P.VERIFY | P.DERIVE | _KEPT
_MEANT: Mapping[Family, P] = MappingProxyType(
    {Family.EC: _AGREES, Family.EDWARDS: _AGREES, Family.MONTGOMERY: P.DERIVE | _KEPT}
)
"""Uses that mean something to a token. HPKE, for which EC keys may decrypt elsewhere, is no mechanism."""


def meant(row: KeyType) -> P:
    """The uses of a key type that mean something to a token."""
    return row.permissions & _MEANT.get(row.family, row.permissions)


def label_for(target: KeyTarget) -> str:
    """The CKA_LABEL of a key."""
    return LABEL_PREFIX + target.label


def temporary_template(*uses: Attribute) -> Template:
    """A secret in between: it lives as long as the call, and only the token ever sees it."""
    return {
        **dict.fromkeys(_SECRET_USES, False),
        **dict.fromkeys(uses, True),
        Attribute.TOKEN: False,
        Attribute.PRIVATE: True,
        Attribute.SENSITIVE: True,
        Attribute.EXTRACTABLE: False,
    }


def readable_template() -> Template:
    """A secret that is read from the token as soon as it is made, and destroyed."""
    return {Attribute.SENSITIVE: False, Attribute.EXTRACTABLE: True, Attribute.TOKEN: False}


def secret_template(target: KeyTarget, fixed: Template) -> Template:
    """What a secret key of this target must be; `fixed` makes it unchangeable."""
    return {
        **_named(target),
        **_used(_SECRET_USES, target),
        **_kept(target.permissions),
        **fixed,
    }


def pair_templates(target: KeyTarget, fixed: Template) -> tuple[Template, Template]:
    """What the public and the private half of a key pair must be."""
    kem = key_type(target.key_type).family is Family.ML_KEM
    public: Template = {
        **_named(target),
        **_used(_PUBLIC_USES, target),
        **(_used(_KEM_PUBLIC_USES, target) if kem else {}),
        Attribute.PRIVATE: False,
        **fixed,
    }
    private: Template = {
        **_named(target),
        **_used(_PRIVATE_USES, target),
        **(_used(_KEM_PRIVATE_USES, target) if kem else {}),
        **_kept(target.permissions),
        **fixed,
    }
    return public, private


def _named(target: KeyTarget) -> Template:
    return {
        Attribute.ID: target.key_id,
        Attribute.LABEL: label_for(target),
        Attribute.TOKEN: not target.ephemeral,
    }


def _used(uses: Mapping[Attribute, P], target: KeyTarget) -> Template:
    given = permissions_from_bits(target.permissions) & meant(key_type(target.key_type))
    return {attribute: bool(bit & given) for attribute, bit in uses.items()}


def _kept(permissions: int) -> Template:
    # EXPORT lets a key leave wrapped under another; in the clear none ever does.
    return {
        Attribute.PRIVATE: True,
        Attribute.SENSITIVE: True,
        Attribute.EXTRACTABLE: bool(P.EXPORT & permissions_from_bits(permissions)),
    }
