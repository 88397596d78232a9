"""COSE_Key (RFC 9052 section 7, RFC 9053): public keys, written in deterministic CBOR and read in any.

Private parts are refused, not read over: who has one as a COSE_Key gives it as PKCS#8.
"""

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from hsmbridge.client.key_formats import cbor
from hsmbridge.client.key_formats.asymmetric import (
    CURVES,
    load_public,
    public_parts,
    spki_of_point,
    spki_of_raw,
    spki_of_rsa,
    type_of_spki,
    unreadable,
)
from hsmbridge.client.key_formats.registries import AKP, EC2, OKP, REGISTERED, RSA, registered
from hsmbridge.core.errors import RequestError, Status
from hsmbridge.core.key_types import KeyType, key_type

_KTY, _ALG = 1, 3
_CRV, _X, _Y = -1, -2, -3
_N, _E = -1, -2
_PUB = -1
_PRIVATE = {OKP: {-4}, EC2: {-4}, RSA: set(range(-12, -2)), AKP: {-2}}
"""Labels of private parts, by key type."""


def public_cose_key(spki: bytes) -> bytes:
    """A public key as a COSE_Key. Raises RequestError (NOT_SUPPORTED) where the registry has no form for it."""
    row = type_of_spki(spki)
    names = registered(row, "COSE")
    members: dict[int, cbor.Value] = {_KTY: names.cose_kty}
    key = load_public(spki, row)
    if isinstance(key, rsa.RSAPublicKey):
        numbers = key.public_numbers()
        members |= {_N: _uint(numbers.n), _E: _uint(numbers.e)}
    elif isinstance(key, ec.EllipticCurvePublicKey):
        point, size = key.public_numbers(), (row.bits + 7) // 8
        members |= {_CRV: names.cose_crv, _X: point.x.to_bytes(size, "big"), _Y: point.y.to_bytes(size, "big")}
    elif names.cose_alg:
        members |= {_ALG: names.cose_alg, _PUB: public_parts(spki, row)}
    else:
        members |= {_CRV: names.cose_crv, _X: public_parts(spki, row)}
    return cbor.encode_map(members)


def read_cose_key(data: bytes) -> tuple[str, bytes]:
    """Key type and SubjectPublicKeyInfo of a COSE_Key. Raises RequestError (INVALID_ARGUMENT, UNKNOWN_KEY_TYPE)."""
    try:
        members = cbor.decode_map(data)
    except ValueError:
        raise unreadable("COSE_Key") from None
    row = _type_of(members)
    kty = members[_KTY]
    if any(label in members for label in _PRIVATE[REGISTERED[row.name].cose_kty]):
        raise RequestError(
            Status.INVALID_ARGUMENT, "The COSE_Key has a private part; give a private key as PKCS#8 instead."
        )
    if kty == RSA:
        spki = spki_of_rsa(int.from_bytes(_bytes(members, _N), "big"), int.from_bytes(_bytes(members, _E), "big"))
    elif row.name in CURVES:
        spki = spki_of_point(row, _point(members, row))
    else:
        spki = spki_of_raw(row, _bytes(members, _PUB if kty == AKP else _X))
    return type_of_spki(spki).name, spki


def _type_of(members: cbor.Map) -> KeyType:
    kty, crv, alg = members.get(_KTY), members.get(_CRV), members.get(_ALG)
    for name, row in REGISTERED.items():
        if isinstance(kty, bool) or row.cose_kty != kty:
            continue
        if kty == RSA or (alg == row.cose_alg if row.cose_alg else crv == row.cose_crv):
            return key_type(name)
    raise RequestError(Status.UNKNOWN_KEY_TYPE, "No key type here fits this COSE_Key.")


def _point(members: cbor.Map, row: KeyType) -> bytes:
    size = (row.bits + 7) // 8
    x, y = _bytes(members, _X), members.get(_Y)
    if len(x) != size or not (isinstance(y, bool) or (isinstance(y, bytes) and len(y) == size)):
        raise RequestError(Status.INVALID_ARGUMENT, f"A coordinate of {row.name} has {size} bytes (RFC 9053).")
    # RFC 9053 section 7.1.1: y may be its sign alone.
    return bytes((2 + y,)) + x if isinstance(y, bool) else b"\x04" + x + bytes(y)


def _bytes(members: cbor.Map, label: int) -> bytes:
    value = members.get(label)
    if not isinstance(value, bytes):
        raise RequestError(Status.INVALID_ARGUMENT, f"The COSE_Key lacks its parameter {label}.")
    return value


def _uint(value: int) -> bytes:
    return value.to_bytes((value.bit_length() + 7) // 8, "big")
