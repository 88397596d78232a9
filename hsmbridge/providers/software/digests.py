"""Hash functions by the name that rows give them (FIPS 180-4, FIPS 202, RFC 7693)."""

from collections.abc import Mapping
from types import MappingProxyType

from cryptography.hazmat.primitives import hashes

HASHES: Mapping[str, hashes.HashAlgorithm] = MappingProxyType(
    {
        "SHA-1": hashes.SHA1(),  # noqa: S303 - for RSA-OAEP-SHA1, where it is sound, and digests of what exists
        "SHA-256": hashes.SHA256(),
        "SHA-384": hashes.SHA384(),
        "SHA-512": hashes.SHA512(),
        "SHA3-256": hashes.SHA3_256(),
        "SHA3-384": hashes.SHA3_384(),
        "SHA3-512": hashes.SHA3_512(),
        "BLAKE2b-512": hashes.BLAKE2b(64),
        "BLAKE2s-256": hashes.BLAKE2s(32),
    }
)


def digest(hash_: str, data: bytes) -> bytes:
    """The digest of `data`, by the hash's name in the table."""
    return hashes.Hash.hash(HASHES[hash_], data)
