"""What the liboqs that was found can really do: each row that it names is tried once, with the code that serves it.

Verification is tried with known answers as well, for a library that accepts what it made may accept too much.
"""

from dataclasses import dataclass

from hsmbridge.core.algorithms import ALGORITHMS, Algorithm, Scheme
from hsmbridge.core.calls import Claim
from hsmbridge.core.errors import HsmBridgeError
from hsmbridge.core.key_types import Family, KeyType, key_type
from hsmbridge.providers.oqs.importing import check_pair
from hsmbridge.providers.oqs.library import Library
from hsmbridge.providers.oqs.mechanisms import SCHEMES, generate
from hsmbridge.providers.oqs.parameter_sets import PARAMETER_SETS
from hsmbridge.providers.oqs.verification import answers_as_known


@dataclass(frozen=True, slots=True)
class Abilities:
    """What was found to work; an algorithm and its key type have one name.

    Attributes:
        names: what works.
        claims: the same with the operations.
        failed: what the library names, and what does not work.
        misverified: what works, but is not verified as its standard says.
    """

    names: frozenset[str]
    claims: tuple[Claim, ...]
    failed: tuple[str, ...]
    misverified: tuple[str, ...]


def probe(library: Library) -> Abilities:
    """Try everything. It takes some milliseconds."""
    claims, failed, misverified = [], [], []
    for row in ALGORITHMS.values():
        if row.scheme not in SCHEMES or not _has(library, key_type(row.name)):
            continue
        if _works(library, row):
            claims.append(Claim(row.name, tuple(operation.value for operation in row.operations)))
        else:
            failed.append(row.name)
            continue
        if row.scheme is Scheme.ML_DSA and not _verifies_rightly(library, row.name):
            misverified.append(row.name)
    names = frozenset(claim.algorithm for claim in claims)
    return Abilities(names, tuple(claims), tuple(failed), tuple(misverified))


def _has(library: Library, row: KeyType) -> bool:
    return row.name in (library.kems if row.family is Family.ML_KEM else library.signatures)


def _works(library: Library, row: Algorithm) -> bool:
    sizes = PARAMETER_SETS.get(row.name)
    if sizes is None:
        return False
    key_row = key_type(row.name)
    kem = key_row.family is Family.ML_KEM
    with library.kem(row.name) if kem else library.signer(row.name) as mechanism:
        details = mechanism.details
    if (details["length_public_key"], details["length_secret_key"]) != (sizes.public, sizes.private):
        return False
    if details["length_ciphertext" if kem else "length_signature"] != sizes.output:
        return False
    try:
        check_pair(library, generate(library, key_row))
    except (HsmBridgeError, ValueError):
        return False
    return True


def _verifies_rightly(library: Library, name: str) -> bool:
    def verifies(message: bytes, signature: bytes, public_key: bytes) -> bool:
        with library.signer(name) as signer:
            return signer.verify(message, signature, public_key)

    return answers_as_known(name, verifies)
