"""A second object of the same key: C_CopyObject (PKCS#11 v3.2, section 5.7).

A copy is what a key of its target would be that was made there - name, uses, unchangeable - or it is not made. Tokens
differ in what they let a copy change: SoftHSM and kryoptic cannot end with an object that nobody can change or copy
again, NSS softokn can.
"""

from pkcs11 import Attribute, Object
from pkcs11 import exceptions as ck
from pkcs11.exceptions import PKCS11Error

from hsmbridge.core.calls import KeyTarget
from hsmbridge.core.errors import HsmBridgeError, RequestError, Status
from hsmbridge.providers.pkcs11.errors import ckr_name
from hsmbridge.providers.pkcs11.objects import KeyObjects
from hsmbridge.providers.pkcs11.templates import Template, pair_templates, secret_template

_REFUSED = frozenset(
    {
        ck.AttributeReadOnly,
        ck.AttributeTypeInvalid,
        ck.AttributeValueInvalid,
        ck.FunctionNotSupported,
        ck.TemplateInconsistent,
    }
)
"""What tokens answer when a copy, or one like that, cannot be."""


def copy_key(keys: KeyObjects, target: KeyTarget, fixed: Template) -> KeyObjects:
    """The objects of a copy. Raises RequestError (NOT_SUPPORTED) where the token does not make one as it must be."""
    made = KeyObjects()
    public_template, private_template = pair_templates(target, fixed)
    try:
        if keys.secret is not None:
            made.secret = _copied(keys.secret, secret_template(target, fixed))
        if keys.private is not None:
            made.private = _copied(keys.private, private_template)
        if keys.public is not None:
            made.public = _copied(keys.public, public_template)
    except (PKCS11Error, HsmBridgeError):
        made.destroy()
        raise
    return made


def _copied(item: Object, template: Template) -> Object:
    try:
        made = item.copy(template)
    except PKCS11Error as failure:
        if type(failure) in _REFUSED or ckr_name(failure) == "CKR_ACTION_PROHIBITED":
            raise _cannot() from failure
        raise
    if not all(_is(made, attribute, value) for attribute, value in template.items()):
        made.destroy()
        raise _cannot()
    return made


def _is(item: Object, attribute: Attribute, value: object) -> bool:
    try:
        return bool(item[attribute] == value)
    except PKCS11Error:
        return False


def _cannot() -> HsmBridgeError:
    return RequestError(
        Status.NOT_SUPPORTED, "The token makes no copy of this key that is protected as a key is that was made there."
    )
