"""From a row of the algorithm table to PKCS#11 mechanisms.

The row's CKM number is the mechanism. Where a token has a signature mechanism only without its hash (SoftHSM and
ECDSA), the hash is computed here and the bare mechanism used. PKCS#11 v3.2, section 6.
"""

import hashlib
from collections.abc import Callable, Mapping
from types import MappingProxyType

from pkcs11 import MGF, Mechanism

from hsmbridge.core.algorithms import ALGORITHMS, Algorithm, Scheme
from hsmbridge.core.errors import KeyUseError, RequestError, Status
from hsmbridge.providers.pkcs11.newer_constants import mechanism_by_number

HASHES: Mapping[str, Callable[[bytes], bytes]] = MappingProxyType(
    {
        "SHA-1": lambda data: hashlib.sha1(data, usedforsecurity=False).digest(),
        "SHA-256": lambda data: hashlib.sha256(data).digest(),
        "SHA-384": lambda data: hashlib.sha384(data).digest(),
        "SHA-512": lambda data: hashlib.sha512(data).digest(),
        "SHA3-256": lambda data: hashlib.sha3_256(data).digest(),
        "SHA3-384": lambda data: hashlib.sha3_384(data).digest(),
        "SHA3-512": lambda data: hashlib.sha3_512(data).digest(),
        "BLAKE2b-512": lambda data: hashlib.blake2b(data).digest(),
    }
)
"""Digests as the standard library computes them, by row."""
MGFS: Mapping[str, MGF] = MappingProxyType(
    {"SHA-1": MGF.SHA1, "SHA-256": MGF.SHA256, "SHA-384": MGF.SHA384, "SHA-512": MGF.SHA512}
)
"""CKG_MGF1_*, by row of the hash."""
WITHOUT_HASH: Mapping[Scheme, Mechanism] = MappingProxyType(
    {
        Scheme.RSASSA_PKCS1: Mechanism.RSA_PKCS,
        Scheme.RSASSA_PSS: Mechanism.RSA_PKCS_PSS,
        Scheme.ECDSA: Mechanism.ECDSA,
    }
)
"""Signature mechanisms that take the digest, or for PKCS#1 the DigestInfo."""
WITH_CONTEXT = frozenset({Scheme.ML_DSA, Scheme.SLH_DSA})
"""Signatures that take a context string (CK_SIGN_ADDITIONAL_CONTEXT)."""
SIGNATURE_SCHEMES = frozenset({*WITHOUT_HASH, *WITH_CONTEXT, Scheme.EDDSA, Scheme.HMAC, Scheme.CMAC})
ENCRYPTION_SCHEMES = frozenset(
    {Scheme.GCM, Scheme.CCM, Scheme.CHACHA20_POLY1305, Scheme.CBC, Scheme.CFB, Scheme.CTR, Scheme.RSAES_OAEP}
)
AGREEMENT_SCHEMES = frozenset({Scheme.ECDH, Scheme.XDH})
DERIVATION_SCHEMES = frozenset({Scheme.HKDF, Scheme.KBKDF_COUNTER})
WRAPPING_SCHEMES = frozenset(
    {
        Scheme.KEY_WRAP,
        Scheme.KEY_WRAP_PADDED,
        Scheme.RSA_AES_KEY_WRAP,
        Scheme.RSAES_OAEP,
        Scheme.GCM,
        Scheme.CHACHA20_POLY1305,
    }
)
"""CCM is not among them: its parameter has the size of what is wrapped, which only the token knows."""
_KNOWN_SCHEMES = (
    SIGNATURE_SCHEMES
    | ENCRYPTION_SCHEMES
    | AGREEMENT_SCHEMES
    | DERIVATION_SCHEMES
    | WRAPPING_SCHEMES
    | {Scheme.ML_KEM, Scheme.CHACHA20_POLY1305}
)


RSA_AES_NEEDS = (0x09, 0x210B)
"""CKM_RSA_PKCS_OAEP and CKM_AES_KEY_WRAP_KWP, the halves of RSA-AES key wrap."""


def mechanism_of(row: Algorithm) -> Mechanism | None:
    """The row's mechanism, or None where PKCS#11 has none."""
    return None if row.ckm is None else mechanism_by_number(row.ckm)


def hash_mechanism(row: Algorithm) -> Mechanism:
    """The mechanism of the row's hash."""
    mechanism = mechanism_of(ALGORITHMS[row.hash])
    if mechanism is None:
        raise RequestError(Status.NOT_SUPPORTED, f"PKCS#11 has no mechanism for {row.hash}.")
    return mechanism


def mechanisms_for(row: Algorithm) -> tuple[Mechanism, ...]:
    """The mechanisms of which a token needs at least one."""
    full, bare = mechanism_of(row), WITHOUT_HASH.get(row.scheme)
    return tuple(mechanism for mechanism in (full, bare) if mechanism is not None)


def is_known(row: Algorithm) -> bool:
    """Whether this module can do the row at all, on a token that has it."""
    return row.scheme in _KNOWN_SCHEMES or row.name in HASHES


def hashed(row: Algorithm, data: bytes) -> bytes:
    """The digest of a hash row, computed here."""
    return HASHES[row.name](data)


def not_permitted(what: str) -> KeyUseError:
    """For an object whose attributes do not allow an operation."""
    return KeyUseError(Status.KEY_OPERATION_NOT_PERMITTED, f"The token does not let this key {what}.")
