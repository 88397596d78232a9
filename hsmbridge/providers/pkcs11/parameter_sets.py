"""CKA_PARAMETER_SET of ML-DSA, ML-KEM and SLH-DSA keys (PKCS#11 v3.2, sections 6.67 to 6.69)."""

from collections.abc import Mapping
from types import MappingProxyType

from hsmbridge.core.key_types import KEY_TYPES, Family, KeyType

MODULE_LATTICE_AND_HASH = frozenset({Family.ML_DSA, Family.ML_KEM, Family.SLH_DSA})
"""Families whose keys have a parameter set, and a public key that is CKA_VALUE."""

# CKP_SLH_DSA_* go by size and speed, with SHA2 before SHAKE.
_SLH_DSA = tuple(
    f"SLH-DSA-{hash_}-{size}{variant}" for size in (128, 192, 256) for variant in "sf" for hash_ in ("SHA2", "SHAKE")
)


def _numbered(names: tuple[str, ...]) -> dict[str, int]:
    return {name: number for number, name in enumerate(names, 1)}


PARAMETER_SETS: Mapping[str, int] = MappingProxyType(
    {
        **_numbered(tuple(name for name, row in KEY_TYPES.items() if row.family is Family.ML_DSA)),
        **_numbered(tuple(name for name, row in KEY_TYPES.items() if row.family is Family.ML_KEM)),
        **_numbered(_SLH_DSA),
    }
)
"""CKP_* by key type."""


def parameter_set_type(ckk: int, number: int) -> KeyType | None:
    """The key type with a CKK_* and a CKP_*."""
    return next((row for row in KEY_TYPES.values() if row.ckk == ckk and PARAMETER_SETS.get(row.name) == number), None)
