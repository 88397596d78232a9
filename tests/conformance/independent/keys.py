"""Key pairs made elsewhere: by openssl, or by pqcrypto for what openssl lacks."""

from collections.abc import Callable, Mapping
from functools import cache

from hsmbridge.core.key_types import Family, KeyType
from tests.conformance.independent import openssl


def private_key(row: KeyType, number: int = 0) -> bytes:
    """A private key of a type, PKCS#8 DER; one for each number in a session."""
    return _private_key(row, number)


@cache
def _private_key(row: KeyType, number: int) -> bytes:
    return _MAKERS[row.family](row)


def public_key(row: KeyType, number: int = 0) -> bytes:
    """Its SubjectPublicKeyInfo, DER."""
    return openssl.public_half(private_key(row, number))


_MAKERS: Mapping[Family, Callable[[KeyType], bytes]] = {
    Family.RSA: lambda row: openssl.genpkey("RSA", f"rsa_keygen_bits:{row.bits}"),
    Family.EC: lambda row: openssl.genpkey("EC", f"ec_paramgen_curve:P-{row.bits}"),
    Family.EDWARDS: lambda row: openssl.genpkey(row.name),
    Family.MONTGOMERY: lambda row: openssl.genpkey(row.name),
}
