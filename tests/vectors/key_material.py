"""Builds what the service imports out of what vectors give: numbers, points, seeds and raw bytes.

A public key that is wrong on purpose has to arrive as it is, so SubjectPublicKeyInfo is written here byte by byte.
Private keys are built with the `cryptography` library, as PKCS#8.
"""

from collections.abc import Callable, Mapping

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa, x448, x25519
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from hsmbridge.client import KeyOperationPermission
from hsmbridge.core.key_types import KEY_TYPES, Family, KeyType
from tests.vectors.cases import SECRET_TYPES, Key, LeftOut

P = KeyOperationPermission

CURVES: Mapping[str, ec.EllipticCurve] = {
    "EC-P256": ec.SECP256R1(),
    "EC-P384": ec.SECP384R1(),
    "EC-P521": ec.SECP521R1(),
}
HASHES: Mapping[str, hashes.HashAlgorithm] = {
    "SHA256": hashes.SHA256(),
    "SHA384": hashes.SHA384(),
    "SHA512": hashes.SHA512(),
    "SHA3-256": hashes.SHA3_256(),
    "SHA3-384": hashes.SHA3_384(),
    "SHA3-512": hashes.SHA3_512(),
}
"""Hashes as they end the names of HMAC rows."""
_BLOCKS = {"SHA256": 64, "SHA384": 128, "SHA512": 128, "SHA3-256": 136, "SHA3-384": 104, "SHA3-512": 72}
"""Bytes that HMAC fills its key up to (FIPS 180-4, FIPS 202 table 3)."""

_RAW_PRIVATE: Mapping[str, Callable[[bytes], PrivateKeyTypes]] = {
    "Ed25519": ed25519.Ed25519PrivateKey.from_private_bytes,
    "Ed448": ed448.Ed448PrivateKey.from_private_bytes,
    "X25519": x25519.X25519PrivateKey.from_private_bytes,
    "X448": x448.X448PrivateKey.from_private_bytes,
}


# Public keys


def spki(row: KeyType, key: bytes) -> bytes:
    """SubjectPublicKeyInfo (RFC 5280) around the bits of a public key, whether they make sense or not."""
    parameters = _oid(row.ec_parameters) if row.spki_oid == "1.2.840.10045.2.1" else b""
    return _der(0x30, _der(0x30, _oid(row.spki_oid) + parameters) + _der(0x03, b"\0" + key))


def public_key(key_type: str, key: bytes, permissions: P = P.VERIFY) -> Key:
    """A public key by its bits: an EC point, the bytes of RFC 8032 or FIPS 203 and 204."""
    return Key(key_type, "spki", spki(KEY_TYPES[key_type], key), permissions)


def ec_point(key_type: str, x: bytes, y: bytes) -> bytes:
    """An uncompressed point (SEC 1); coordinates that are too long stay so."""
    size = (CURVES[key_type].key_size + 7) // 8
    return b"\4" + x.lstrip(b"\0").rjust(size, b"\0") + y.lstrip(b"\0").rjust(size, b"\0")


def rsa_public_key(modulus: int, exponent: int) -> Key | LeftOut:
    """An RSA key to verify with; sizes that no key type has are left out."""
    row = KEY_TYPES.get(f"RSA-{modulus.bit_length()}")
    if row is None:
        return LeftOut("RSA key of a size that no key type has")
    body = _der(0x30, _integer(modulus) + _integer(exponent))
    algorithm = _der(0x30, _oid(row.spki_oid) + b"\x05\x00")
    return Key(row.name, "spki", _der(0x30, algorithm + _der(0x03, b"\0" + body)), P.VERIFY)


# Private keys


def ec_private_key(key_type: str, scalar: int, permissions: P) -> Key:
    return Key(key_type, "pkcs8", pkcs8(ec.derive_private_key(scalar, CURVES[key_type])), permissions)


def raw_private_key(key_type: str, value: bytes, permissions: P) -> Key:
    """A key of RFC 7748 or RFC 8032 by its bytes."""
    return Key(key_type, "pkcs8", pkcs8(_RAW_PRIVATE[key_type](value)), permissions)


def seeded_key(key_type: str, seed: bytes, permissions: P) -> Key:
    """A key of FIPS 203 or 204 by its seed (d and z, or xi; RFC 9935, RFC 9881), or one of X-Wing."""
    row = KEY_TYPES[key_type]
    private = seed if row.family is Family.HYBRID_KEM else _der(0x80, seed)
    body = _integer(0) + _der(0x30, _oid(row.spki_oid)) + _der(0x04, private)
    return Key(key_type, "pkcs8", _der(0x30, body), permissions, seed=True)


def rsa_private_key(modulus: int, exponent: int, private: int, p: int, q: int, permissions: P) -> Key | LeftOut:
    row = KEY_TYPES.get(f"RSA-{modulus.bit_length()}")
    if row is None:
        return LeftOut("RSA key of a size that no key type has")
    numbers = rsa.RSAPrivateNumbers(
        p,
        q,
        private,
        rsa.rsa_crt_dmp1(private, p),
        rsa.rsa_crt_dmq1(private, q),
        rsa.rsa_crt_iqmp(p, q),
        rsa.RSAPublicNumbers(exponent, modulus),
    )
    return Key(row.name, "pkcs8", pkcs8(numbers.private_key()), permissions)


def pkcs8(key: PrivateKeyTypes) -> bytes:
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


# Secret keys


def aes_key(value: bytes, permissions: P) -> Key | LeftOut:
    if len(value) not in {16, 24, 32}:
        return LeftOut("AES key of a size that no key type has")
    return Key(f"AES-{8 * len(value)}", "raw", value, permissions)


def secret_key(value: bytes) -> Key | LeftOut:
    """A secret to derive from."""
    if len(value) not in SECRET_TYPES:
        return LeftOut("secret of a size that no key type has")
    return Key(SECRET_TYPES[len(value)], "raw", value, P.DERIVE)


def hmac_keys(hash_name: str, value: bytes, permissions: P) -> tuple[Key, ...] | LeftOut:
    """Keys that compute the same HMAC: of the value's own size, and those that RFC 2104 makes of it.

    HMAC fills a key with zeros up to the block of the hash, and hashes a longer one first. So a key of a size that no
    key type has is taken in with the zeros that it would get anyway. PBKDF2 and scrypt use their passwords so too.
    """
    algorithm = HASHES[hash_name]
    block = _BLOCKS[hash_name]
    values = [value]
    if len(value) > block:
        digest = hashes.Hash(algorithm)
        digest.update(value)
        value = digest.finalize()
        values.append(value)
    sizes = [*(row.bytes for row in KEY_TYPES.values() if row.name == f"HMAC-{hash_name}"), *sorted(SECRET_TYPES)]
    values += [value.ljust(size, b"\0") for size in sizes if len(value) <= size <= block]
    keys: dict[Key, None] = {}
    for same in values:
        own = KEY_TYPES.get(f"HMAC-{hash_name}")
        if own is not None and own.bytes == len(same):
            keys[Key(own.name, "raw", same, permissions)] = None
        if len(same) in SECRET_TYPES:
            keys[Key(SECRET_TYPES[len(same)], "raw", same, permissions)] = None
    return tuple(keys) or LeftOut("HMAC key of a size that no key type has")


# DER (X.690)


def _der(tag: int, content: bytes) -> bytes:
    length = len(content)
    if length < 0x80:
        return bytes((tag, length)) + content
    size = (length.bit_length() + 7) // 8
    return bytes((tag, 0x80 | size)) + length.to_bytes(size, "big") + content


def _integer(value: int) -> bytes:
    return _der(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def _oid(dotted: str) -> bytes:
    first, second, *rest = map(int, dotted.split("."))
    content = bytearray()
    for arc in (40 * first + second, *rest):
        groups = [arc & 0x7F]
        while arc := arc >> 7:
            groups.append(0x80 | arc & 0x7F)
        content += bytes(reversed(groups))
    return _der(0x06, bytes(content))
