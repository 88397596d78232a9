"""What objects on a token must be: names, uses, and that they stay so.

A key's CKA_ID is the key id that the store chose; its CKA_LABEL begins with LABEL_PREFIX. Every use is given, also
those that are false, and as far as the token takes it no object can be changed or copied afterwards: a client that
reaches the token past the daemon gains nothing. PKCS#11 v2.40, sections 4.4 to 4.10.
"""

from collections.abc import Mapping
from types import MappingProxyType

from pkcs11 import Attribute

from hsmbridge.core.calls import KeyTarget
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


def label_for(target: KeyTarget) -> str:
    """The CKA_LABEL of a key."""
    return LABEL_PREFIX + target.label


def secret_template(target: KeyTarget, fixed: Template) -> Template:
    """What a secret key of this target must be; `fixed` makes it unchangeable."""
    return {
        **_named(target),
        **_used(_SECRET_USES, target.permissions),
        **_kept(target.permissions),
        **fixed,
    }


def pair_templates(target: KeyTarget, fixed: Template) -> tuple[Template, Template]:
    """What the public and the private half of a key pair must be."""
    public: Template = {
        **_named(target),
        **_used(_PUBLIC_USES, target.permissions),
        Attribute.PRIVATE: False,
        **fixed,
    }
    private: Template = {
        **_named(target),
        **_used(_PRIVATE_USES, target.permissions),
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


def _used(uses: Mapping[Attribute, P], permissions: int) -> Template:
    given = permissions_from_bits(permissions)
    return {attribute: bool(bit & given) for attribute, bit in uses.items()}


def _kept(permissions: int) -> Template:
    # EXPORT lets a key leave wrapped under another; in the clear none ever does.
    return {
        Attribute.PRIVATE: True,
        Attribute.SENSITIVE: True,
        Attribute.EXTRACTABLE: bool(P.EXPORT & permissions_from_bits(permissions)),
    }
