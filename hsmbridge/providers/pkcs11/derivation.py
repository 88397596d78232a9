"""Keys derived on the token: HKDF (RFC 5869, CKM_HKDF_DERIVE) and SP 800-108 in counter mode.

What is derived from and what comes out never leave the token. PKCS#11 v3.2, sections 6.62 and 6.42.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from pkcs11 import Attribute, DeriveMixin, MechanismFlag, Object, SecretKey, Session

from hsmbridge.core.algorithms import Algorithm, algorithm
from hsmbridge.core.calls import KeyTarget
from hsmbridge.core.errors import KeyUseError, RequestError, Status
from hsmbridge.core.key_types import KEY_TYPES, Family, KeyType
from hsmbridge.core.params import Hkdf, KbkdfCounter, KdfParameters
from hsmbridge.providers.pkcs11.importing import create_secret
from hsmbridge.providers.pkcs11.making import secret_kind
from hsmbridge.providers.pkcs11.mechanisms import mechanism_of
from hsmbridge.providers.pkcs11.objects import KeyObjects
from hsmbridge.providers.pkcs11.parameters import Parameter, hkdf, kbkdf_counter
from hsmbridge.providers.pkcs11.templates import Template, secret_template, temporary_template

_NO_USES = MechanismFlag(0)
_SECRET = next(row for row in KEY_TYPES.values() if row.family is Family.SECRET)


def _hkdf(row: Algorithm, kdf: KdfParameters) -> Parameter:
    if not isinstance(kdf, Hkdf):
        raise unsupported(kdf)
    return hkdf(row, kdf.salt, kdf.info)


def _kbkdf(row: Algorithm, kdf: KdfParameters) -> Parameter:
    if not isinstance(kdf, KbkdfCounter):
        raise unsupported(kdf)
    return kbkdf_counter(row, kdf.label, kdf.context)


_PARAMETERS: Mapping[type[KdfParameters], Callable[[Algorithm, KdfParameters], Parameter]] = MappingProxyType(
    {Hkdf: _hkdf, KbkdfCounter: _kbkdf}
)


def derive(base: Object | None, kdf: KdfParameters, row: KeyType, template: Template) -> SecretKey:
    """A key derived from a secret object."""
    if not isinstance(base, DeriveMixin):
        raise KeyUseError(Status.KEY_OPERATION_NOT_PERMITTED, "The token does not let this key agree or derive.")
    kdf_row = algorithm(kdf.algorithm)
    mechanism = mechanism_of(kdf_row)
    make = _PARAMETERS.get(type(kdf))
    if mechanism is None or make is None:
        raise unsupported(kdf)
    parameter = make(kdf_row, kdf)
    kind, _ = secret_kind(row)
    return base.derive_key(
        kind,
        row.bits,
        capabilities=_NO_USES,
        mechanism=mechanism,
        mechanism_param=parameter.given,
        template=template,
    )


def derive_from_value(
    session: Session, value: bytes, kdf: KdfParameters, row: KeyType, target: KeyTarget, fixed: Template
) -> KeyObjects:
    """A key derived from a value that is on the token for as long as that takes."""
    base = create_secret(session, _SECRET, value, temporary_template(Attribute.DERIVE))
    try:
        return KeyObjects(secret=derive(base, kdf, row, secret_template(target, fixed)))
    finally:
        base.destroy()


def unsupported(kdf: KdfParameters) -> RequestError:
    """For a KDF that the token has not."""
    return RequestError(
        Status.NOT_SUPPORTED,
        f"The token cannot apply {kdf.algorithm}; choose another provider, or a slot that says derive_to_software.",
    )
