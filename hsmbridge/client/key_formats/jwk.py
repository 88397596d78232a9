"""JSON Web Keys (RFC 7517): public ones written and read, private and secret ones read only.

Members are those of RFC 7518 (RSA, EC, oct), RFC 8037 (OKP) and the registry's AKP for ML-DSA, whose private part is
the seed. A key's `kid` is its thumbprint (RFC 7638, SHA-256), which anybody can compute again.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, rsa, x448, x25519
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from hsmbridge.client.key_formats.asymmetric import (
    CURVES,
    load_public,
    pkcs8_of,
    public_parts,
    spki_of,
    spki_of_point,
    spki_of_raw,
    spki_of_rsa,
    type_of_spki,
    unreadable,
)
from hsmbridge.client.key_formats.registries import REGISTERED, registered
from hsmbridge.core.errors import RequestError, Status
from hsmbridge.core.key_types import KeyType, key_type

_PRIVATE_MEMBERS = frozenset({"d", "priv", "p", "q", "dp", "dq", "qi", "oth"})
_THUMBPRINT = frozenset({"kty", "crv", "x", "y", "n", "e", "alg", "pub"})
_PARTS = frozenset({"x", "y", "n", "e", "pub"})
_RSA_PRIVATE = ("d", "p", "q", "dp", "dq", "qi")

_SEEDS: Mapping[str, Callable[[bytes], PrivateKeyTypes]] = MappingProxyType(
    {
        "Ed25519": ed25519.Ed25519PrivateKey.from_private_bytes,
        "Ed448": ed448.Ed448PrivateKey.from_private_bytes,
        "X25519": x25519.X25519PrivateKey.from_private_bytes,
        "X448": x448.X448PrivateKey.from_private_bytes,
        "ML-DSA-44": mldsa.MLDSA44PrivateKey.from_seed_bytes,
        "ML-DSA-65": mldsa.MLDSA65PrivateKey.from_seed_bytes,
        "ML-DSA-87": mldsa.MLDSA87PrivateKey.from_seed_bytes,
    }
)


def public_jwk(spki: bytes) -> dict[str, str]:
    """A public key as a JWK. Raises RequestError (NOT_SUPPORTED) where the registry has no form for its type."""
    row = type_of_spki(spki)
    names = registered(row, "JOSE")
    members = {"kty": names.kty}
    if names.crv:
        members["crv"] = names.crv
    if names.alg:
        members["alg"] = names.alg
    key = load_public(spki, row)
    if isinstance(key, rsa.RSAPublicKey):
        numbers = key.public_numbers()
        members |= {"n": _uint(numbers.n), "e": _uint(numbers.e)}
    elif isinstance(key, ec.EllipticCurvePublicKey):
        point = key.public_numbers()
        members |= {"x": _fixed(point.x, row), "y": _fixed(point.y, row)}
    else:
        members["pub" if names.alg else "x"] = _base64url(public_parts(spki, row))
    return members | {"kid": thumbprint(members)}


def jwk_set(public_keys: Iterable[bytes]) -> bytes:
    """A JWK Set of public keys, as a JSON document."""
    return json_document({"keys": [public_jwk(spki) for spki in public_keys]})


def json_document(document: object) -> bytes:
    """A document of JSON for a file."""
    return json.dumps(document, indent=2).encode() + b"\n"


def thumbprint(members: Mapping[str, str]) -> str:
    """The JWK thumbprint by SHA-256 (RFC 7638)."""
    identity = {name: value for name, value in members.items() if name in _THUMBPRINT}
    if members["kty"] != "AKP":
        identity.pop("alg", None)
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":")).encode()
    return _base64url(hashlib.sha256(canonical).digest())


def read_jwk(data: bytes) -> tuple[str, str, bytes]:
    """Form ("spki", "pkcs8", "raw"), key type ("" for a secret key) and material of a JWK or a set of one.

    Raises RequestError (INVALID_ARGUMENT, UNKNOWN_KEY_TYPE).
    """
    members = _members(data)
    if members.get("kty") == "oct":
        return "raw", "", _bytes(members, "k")
    row = _type_of(members)
    spki = _public(members, row)
    row = type_of_spki(spki)
    if not _PRIVATE_MEMBERS & set(members):
        return "spki", row.name, spki
    try:
        private = _private(members, row)
    except ValueError:
        raise unreadable("private JWK") from None
    if spki_of(private.public_key()) != spki:
        raise RequestError(Status.INVALID_ARGUMENT, "The private and the public part of the JWK do not fit together.")
    return "pkcs8", row.name, pkcs8_of(private)


def _members(data: bytes) -> dict[str, str]:
    try:
        document: object = json.loads(data, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        raise unreadable("JWK") from None
    if isinstance(document, dict) and isinstance(document.get("keys"), list):
        keys = document["keys"]
        if len(keys) != 1:
            raise RequestError(
                Status.INVALID_ARGUMENT, f"The JWK Set holds {len(keys)} keys; give a file with the one that is meant."
            )
        document = keys[0]
    if not isinstance(document, dict):
        raise unreadable("JWK")
    # What is no text (key_ops, x5c, ext) says nothing of the key itself.
    return {name: value for name, value in document.items() if isinstance(value, str)}


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a member stands twice")
    return found


def _type_of(members: Mapping[str, str]) -> KeyType:
    kty, crv, alg = (members.get(name, "") for name in ("kty", "crv", "alg"))
    for name, row in REGISTERED.items():
        if row.kty == kty and (kty == "RSA" or (row.crv == crv and (not row.alg or row.alg == alg))):
            return key_type(name)
    shown = " ".join(value[:32] for value in (kty, crv or alg) if value)
    raise RequestError(Status.UNKNOWN_KEY_TYPE, f"No key type here fits this JWK ({shown or 'it has no kty'}).")


def _public(members: Mapping[str, str], row: KeyType) -> bytes:
    if members["kty"] == "RSA":
        return spki_of_rsa(_integer(members, "n"), _integer(members, "e"))
    if row.name in CURVES:
        size = (row.bits + 7) // 8
        x, y = _bytes(members, "x"), _bytes(members, "y")
        if len(x) != size or len(y) != size:
            raise RequestError(Status.INVALID_ARGUMENT, f"A coordinate of {row.name} has {size} bytes (RFC 7518).")
        return spki_of_point(row, b"\x04" + x + y)
    return spki_of_raw(row, _bytes(members, "pub" if members["kty"] == "AKP" else "x"))


def _private(members: Mapping[str, str], row: KeyType) -> PrivateKeyTypes:
    if members["kty"] == "RSA":
        if "oth" in members or not all(name in members for name in _RSA_PRIVATE):
            raise RequestError(Status.INVALID_ARGUMENT, "The private RSA JWK must have exactly two primes: p and q.")
        d, p, q, dp, dq, qi = (_integer(members, name) for name in _RSA_PRIVATE)
        public = rsa.RSAPublicNumbers(_integer(members, "e"), _integer(members, "n"))
        return rsa.RSAPrivateNumbers(p, q, d, dp, dq, qi, public).private_key()
    if row.name in CURVES:
        return ec.derive_private_key(_integer(members, "d"), CURVES[row.name])
    return _SEEDS[row.name](_bytes(members, "priv" if members["kty"] == "AKP" else "d"))


def _bytes(members: Mapping[str, str], name: str) -> bytes:
    text = members.get(name)
    if text is None:
        raise RequestError(Status.INVALID_ARGUMENT, f"The JWK lacks {name}.")
    try:
        value = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        value = b""
    if _base64url(value) != text:
        raise RequestError(Status.INVALID_ARGUMENT, f"{name} of the JWK is not base64url without padding.")
    return value


def _integer(members: Mapping[str, str], name: str) -> int:
    return int.from_bytes(_bytes(members, name), "big")


def _base64url(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def _uint(value: int) -> str:
    return _base64url(value.to_bytes((value.bit_length() + 7) // 8, "big"))


def _fixed(value: int, row: KeyType) -> str:
    return _base64url(value.to_bytes((row.bits + 7) // 8, "big"))
