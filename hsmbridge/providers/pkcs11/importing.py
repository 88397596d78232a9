"""Keys given in the clear: secrets, private keys as PKCS#8, public keys as SubjectPublicKeyInfo (RFC 5958, RFC 5280).

They go into C_CreateObject as the attributes that PKCS#11 v3.2, section 6 has for their type. A private key brings its
public object along, and ML-DSA and ML-KEM come as the seed.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import get_args

from asn1crypto.core import OctetString
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, mlkem, rsa, x448, x25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
    load_der_public_key,
)
from pkcs11 import Attribute, Object, ObjectClass, Session
from pkcs11.exceptions import PKCS11Error

from hsmbridge.core.calls import KeyTarget
from hsmbridge.core.errors import HsmBridgeError, RequestError, Status
from hsmbridge.core.key_types import Family, KeyType
from hsmbridge.core.public_keys import checked
from hsmbridge.providers.pkcs11.making import curve_parameters, pair_kind, secret_kind
from hsmbridge.providers.pkcs11.objects import KeyObjects
from hsmbridge.providers.pkcs11.parameter_sets import PARAMETER_SETS
from hsmbridge.providers.pkcs11.public_keys import curve_of, is_of_type, key_bits
from hsmbridge.providers.pkcs11.templates import Template, pair_templates, secret_template

_Raw = (
    ed25519.Ed25519PrivateKey
    | ed448.Ed448PrivateKey
    | x25519.X25519PrivateKey
    | x448.X448PrivateKey
    | mldsa.MLDSA44PrivateKey
    | mldsa.MLDSA65PrivateKey
    | mldsa.MLDSA87PrivateKey
    | mlkem.MLKEM768PrivateKey
    | mlkem.MLKEM1024PrivateKey
)
_RAW_CLASSES: tuple[type[_Raw], ...] = get_args(_Raw)
_Private = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | _Raw


def import_key(
    session: Session, row: KeyType, target: KeyTarget, format_: str, material: bytes, fixed: Template
) -> KeyObjects:
    """Put a key given in the clear on the token.

    Raises:
        RequestError: INVALID_ARGUMENT for another format or what cannot be read, KEY_TYPE_MISMATCH for another type.
    """
    if row.symmetric:
        return KeyObjects(secret=_import_secret(session, row, target, format_, material, fixed))
    if format_ == "spki":
        return KeyObjects(public=import_public(session, row, target, _checked(row, material), fixed))
    if format_ != "pkcs8":
        raise RequestError(Status.INVALID_ARGUMENT, f'A key of type {row.name} is imported as "pkcs8" or "spki".')
    private, info = _private_key(row, material)
    kind, _ = pair_kind(row)
    _, template = pair_templates(target, fixed)
    made = session.create_object(
        {
            Attribute.CLASS: ObjectClass.PRIVATE_KEY,
            Attribute.KEY_TYPE: kind,
            **_PRIVATE_ATTRIBUTES[row.family](row, private),
            **template,
        }
    )
    try:
        return KeyObjects(private=made, public=import_public(session, row, target, info, fixed))
    except PKCS11Error:
        made.destroy()
        raise


def import_public(session: Session, row: KeyType, target: KeyTarget, info: bytes, fixed: Template) -> Object:
    """A public object from a SubjectPublicKeyInfo that is known to be of the type."""
    kind, _ = pair_kind(row)
    template, _ = pair_templates(target, fixed)
    return session.create_object(
        {
            Attribute.CLASS: ObjectClass.PUBLIC_KEY,
            Attribute.KEY_TYPE: kind,
            **_public_attributes(row, info),
            **template,
        }
    )


def _import_secret(
    session: Session, row: KeyType, target: KeyTarget, format_: str, material: bytes, fixed: Template
) -> Object:
    if format_ != "raw":
        raise RequestError(Status.INVALID_ARGUMENT, f'A key of type {row.name} is imported as "raw".')
    if len(material) != row.bytes:
        raise RequestError(
            Status.KEY_TYPE_MISMATCH, f"A key of type {row.name} has {row.bytes} bytes; this one has {len(material)}."
        )
    return create_secret(session, row, material, secret_template(target, fixed))


def create_secret(session: Session, row: KeyType, value: bytes, template: Template) -> Object:
    """A secret object with a value."""
    kind, _ = secret_kind(row)
    return session.create_object(
        {Attribute.CLASS: ObjectClass.SECRET_KEY, Attribute.KEY_TYPE: kind, Attribute.VALUE: value, **template}
    )


def _private_key(row: KeyType, pkcs8: bytes) -> tuple[_Private, bytes]:
    try:
        private = load_der_private_key(pkcs8, None)
        info = private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, TypeError, UnsupportedAlgorithm) as problem:
        raise _unreadable("pkcs8", problem) from None
    if not isinstance(private, _Private) or not is_of_type(row, info):
        raise _mismatch(row)
    return private, info


def _checked(row: KeyType, info: bytes) -> bytes:
    try:
        checked(load_der_public_key(info))
    except (ValueError, TypeError, UnsupportedAlgorithm) as problem:
        raise _unreadable("spki", problem) from None
    if not is_of_type(row, info):
        raise _mismatch(row)
    return info


def _public_attributes(row: KeyType, info: bytes) -> Template:
    if row.family is Family.RSA:
        key = load_der_public_key(info)
        if not isinstance(key, rsa.RSAPublicKey):
            raise _mismatch(row)
        numbers = key.public_numbers()
        return {Attribute.MODULUS: _big(numbers.n), Attribute.PUBLIC_EXPONENT: _big(numbers.e)}
    if row.name in PARAMETER_SETS:
        return {Attribute.PARAMETER_SET: PARAMETER_SETS[row.name], Attribute.VALUE: key_bits(info)}
    return {Attribute.EC_PARAMS: curve_parameters(row), Attribute.EC_POINT: OctetString(key_bits(info)).dump()}


def _rsa_attributes(row: KeyType, private: _Private) -> Template:
    if not isinstance(private, rsa.RSAPrivateKey):
        raise _mismatch(row)
    numbers = private.private_numbers()
    return {
        Attribute.MODULUS: _big(numbers.public_numbers.n),
        Attribute.PUBLIC_EXPONENT: _big(numbers.public_numbers.e),
        Attribute.PRIVATE_EXPONENT: _big(numbers.d),
        Attribute.PRIME_1: _big(numbers.p),
        Attribute.PRIME_2: _big(numbers.q),
        Attribute.EXPONENT_1: _big(numbers.dmp1),
        Attribute.EXPONENT_2: _big(numbers.dmq1),
        Attribute.COEFFICIENT: _big(numbers.iqmp),
    }


def _ec_attributes(row: KeyType, private: _Private) -> Template:
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise _mismatch(row)
    value = private.private_numbers().private_value
    return {Attribute.EC_PARAMS: curve_parameters(row), Attribute.VALUE: value.to_bytes((row.bits + 7) // 8)}


def _curve_attributes(row: KeyType, private: _Private) -> Template:
    if not isinstance(private, _Raw):
        raise _mismatch(row)
    return {Attribute.EC_PARAMS: curve_parameters(row), Attribute.VALUE: private.private_bytes_raw()}


def _set_attributes(row: KeyType, private: _Private) -> Template:
    if not isinstance(private, _Raw):
        raise _mismatch(row)
    return {Attribute.PARAMETER_SET: PARAMETER_SETS[row.name], Attribute.SEED: private.private_bytes_raw()}


_PRIVATE_ATTRIBUTES: Mapping[Family, Callable[[KeyType, _Private], Template]] = MappingProxyType(
    {
        Family.RSA: _rsa_attributes,
        Family.EC: _ec_attributes,
        Family.EDWARDS: _curve_attributes,
        Family.MONTGOMERY: _curve_attributes,
        Family.ML_DSA: _set_attributes,
        Family.ML_KEM: _set_attributes,
    }
)


IMPORTED_FAMILIES = frozenset(_PRIVATE_ATTRIBUTES)
"""Families of key pairs that can be given in the clear."""


def sample_private_key(row: KeyType) -> tuple[str, bytes]:
    """The form and the material of a fresh private key, to try an import with. Raises RequestError (NOT_SUPPORTED)."""
    made: _Private
    if row.family is Family.RSA:
        made = rsa.generate_private_key(65537, row.bits)
    elif row.family is Family.EC:
        made = ec.generate_private_key(curve_of(row))
    else:
        classes = {one.__name__.removesuffix("PrivateKey"): one for one in _RAW_CLASSES}
        found = classes.get(row.name.replace("-", ""))
        if found is None:
            raise RequestError(Status.NOT_SUPPORTED, f"Keys of type {row.name} cannot be imported.")
        made = found.generate()
    return "pkcs8", made.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def _big(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8)


def _unreadable(format_: str, problem: Exception) -> HsmBridgeError:
    return RequestError(
        Status.INVALID_ARGUMENT, f"The material is not a key in {format_} form that can be read.", origin=repr(problem)
    )


def _mismatch(row: KeyType) -> HsmBridgeError:
    return RequestError(Status.KEY_TYPE_MISMATCH, f"The key that was given is not of type {row.name}.")
