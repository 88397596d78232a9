"""ML-KEM on the token (FIPS 203; C_EncapsulateKey and C_DecapsulateKey of PKCS#11 v3.2, section 5.18).

The shared secret is made as a session object, read, and destroyed: the contract wants its value.
"""

from pkcs11 import Attribute, DecapsulateMixin, EncapsulateMixin, Mechanism, MechanismFlag, Object
from pkcs11 import KeyType as Ckk
from pkcs11.exceptions import PKCS11Error

from hsmbridge.core.algorithms import Algorithm
from hsmbridge.core.calls import Encapsulated
from hsmbridge.core.errors import DecryptionFailed, RequestError, Status
from hsmbridge.providers.pkcs11.errors import NO_DEVICE_ERRORS, Refusals
from hsmbridge.providers.pkcs11.mechanisms import mechanism_of, not_permitted
from hsmbridge.providers.pkcs11.objects import KeyObjects
from hsmbridge.providers.pkcs11.templates import readable_template

_SHARED_SECRET_BITS = 256
_CIPHERTEXT_SIZES = {"ML-KEM-512": 768, "ML-KEM-768": 1088, "ML-KEM-1024": 1568}
_NO_USES = MechanismFlag(0)


def encapsulate(keys: KeyObjects, row: Algorithm) -> Encapsulated:
    """A fresh shared secret and its ciphertext."""
    key = keys.public
    if not isinstance(key, EncapsulateMixin):
        raise not_permitted("encapsulate")
    ciphertext, secret = key.encapsulate_key(
        Ckk.GENERIC_SECRET,
        _SHARED_SECRET_BITS,
        capabilities=_NO_USES,
        mechanism=_mechanism(row),
        template=readable_template(),
    )
    return Encapsulated(ciphertext, _read(secret))


def decapsulate(keys: KeyObjects, row: Algorithm, ciphertext: bytes, refusals: Refusals = NO_DEVICE_ERRORS) -> bytes:
    """The shared secret. Raises DecryptionFailed for a ciphertext of another length."""
    key = keys.private
    if not isinstance(key, DecapsulateMixin):
        raise not_permitted("decapsulate")
    if len(ciphertext) != _CIPHERTEXT_SIZES[row.name]:
        raise DecryptionFailed(Status.DECRYPTION_FAILED)
    try:
        secret = key.decapsulate_key(
            ciphertext,
            Ckk.GENERIC_SECRET,
            _SHARED_SECRET_BITS,
            capabilities=_NO_USES,
            mechanism=_mechanism(row),
            template=readable_template(),
        )
    except PKCS11Error as failure:
        if refusals.data(failure):
            raise DecryptionFailed(Status.DECRYPTION_FAILED) from None
        raise
    return _read(secret)


def _read(secret: Object) -> bytes:
    try:
        return bytes(secret[Attribute.VALUE])
    finally:
        secret.destroy()


def _mechanism(row: Algorithm) -> Mechanism:
    mechanism = mechanism_of(row)
    if mechanism is None:
        raise RequestError(Status.NOT_SUPPORTED, f"PKCS#11 has no mechanism for {row.name}.")
    return mechanism
