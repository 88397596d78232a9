"""From cryptography's hash objects to the service's digests, and what is signed where there is no row for the two.

A message goes to the service whole, so that a token can hash it; its digest goes instead where it is large, where
the caller hashed it, or where the digest is not the one that the curve's row names.
"""

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.utils import NoDigestInfo, Prehashed

from hsmbridge.client.calls import Buffer, octets
from hsmbridge.core.algorithms import ALGORITHMS
from hsmbridge.core.key_types import Maturity

LARGEST_WHOLE_MESSAGE = 64 * 1024
"""Bytes of a message that are sent; of a longer one, the digest is."""

Hash = Prehashed | hashes.HashAlgorithm | NoDigestInfo


def digest_name(hash_: hashes.HashAlgorithm) -> str:
    """The service's name of a digest, such as "SHA-256"; of one that it does not have, a name without a row."""
    name = hash_.name.upper()
    return name if name.startswith("SHA3-") else name.replace("SHA", "SHA-", 1)


def hash_of(algorithm: Hash) -> hashes.HashAlgorithm:
    """The hash function. Raises UnsupportedAlgorithm for one that the service does not sign with, and for none."""
    if isinstance(algorithm, NoDigestInfo):
        raise UnsupportedAlgorithm("The service signs digests with their DigestInfo only.")
    # Prehashed shows its hash by no other name; cryptography's own builders read this too.
    hash_ = algorithm._algorithm if isinstance(algorithm, Prehashed) else algorithm  # noqa: SLF001
    row = ALGORITHMS.get(digest_name(hash_))
    if row is None or row.maturity is Maturity.LEGACY:
        raise UnsupportedAlgorithm(f"The service signs nothing over {hash_.name}.")
    return hash_


def digest_of(data: Buffer, algorithm: Hash) -> bytes:
    """The digest of `data`, which is the digest itself where `algorithm` says so. Raises ValueError for its length."""
    hash_ = hash_of(algorithm)
    if isinstance(algorithm, Prehashed):
        if len(data) != hash_.digest_size:
            raise ValueError("The provided data must be the same length as the hash algorithm's digest size.")
        return octets(data)
    computed = hashes.Hash(hash_)
    computed.update(data)
    return computed.finalize()
