"""The names and numbers of key types in the IANA registries of JOSE and COSE (RFC 7518, 8037, 9053 and later).

Key types that neither registry has, such as ML-KEM and SLH-DSA so far, have no row: they go as SPKI.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from hsmbridge.core.algorithms import ALGORITHMS, Kind
from hsmbridge.core.errors import RequestError, Status
from hsmbridge.core.key_types import KEY_TYPES, Family, KeyType


@dataclass(frozen=True, slots=True)
class Registered:
    """How JOSE and COSE name keys of a type.

    Attributes:
        kty, cose_kty: the key type.
        crv, cose_crv: the curve, or "" and 0.
        alg, cose_alg: where the algorithm is a part of the key's identity (AKP), else "" and 0.
    """

    kty: str
    cose_kty: int
    crv: str = ""
    cose_crv: int = 0
    alg: str = ""
    cose_alg: int = 0


OKP, EC2, RSA, AKP = 1, 2, 3, 7

_CURVES: Mapping[str, Registered] = MappingProxyType(
    {
        "EC-P256": Registered("EC", EC2, "P-256", 1),
        "EC-P384": Registered("EC", EC2, "P-384", 2),
        "EC-P521": Registered("EC", EC2, "P-521", 3),
        "X25519": Registered("OKP", OKP, "X25519", 4),
        "X448": Registered("OKP", OKP, "X448", 5),
        "Ed25519": Registered("OKP", OKP, "Ed25519", 6),
        "Ed448": Registered("OKP", OKP, "Ed448", 7),
    }
)


def _registered(row: KeyType) -> Registered | None:
    if row.family is Family.RSA:
        return Registered("RSA", RSA)
    if row.name in _CURVES:
        return _CURVES[row.name]
    # What is no curve and no modulus goes as an algorithm key pair, if its one algorithm is registered.
    for algorithm in ALGORITHMS.values():
        if algorithm.key_types == (row.name,) and algorithm.kind is Kind.SIGNATURE and algorithm.cose:
            return Registered("AKP", AKP, alg=algorithm.jose, cose_alg=algorithm.cose)
    return None


REGISTERED: Mapping[str, Registered] = MappingProxyType(
    {row.name: found for row in KEY_TYPES.values() if (found := _registered(row)) is not None}
)
"""By key type."""


def registered(row: KeyType, format_: str) -> Registered:
    """The row of a key type. Raises RequestError (NOT_SUPPORTED), naming the format."""
    found = REGISTERED.get(row.name)
    if found is None:
        raise RequestError(
            Status.NOT_SUPPORTED, f"{format_} has no registered form for keys of type {row.name}; take pem or der."
        )
    return found
