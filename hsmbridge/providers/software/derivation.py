"""Key derivation: HKDF (RFC 5869), PBKDF2 (RFC 8018), KBKDF (SP 800-108), X9.63, scrypt (RFC 7914), HKDF-Expand-Label.

The TLS 1.2 PRF and Argon2id are not here. What a caller may spend on one derivation is bounded, because none can be
interrupted.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

from cryptography.hazmat.primitives.kdf import scrypt
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand
from cryptography.hazmat.primitives.kdf.kbkdf import KBKDFHMAC, CounterLocation, Mode
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC
from cryptography.hazmat.primitives.kdf.x963kdf import X963KDF

from hsmbridge.core.algorithms import Algorithm, Scheme, algorithm
from hsmbridge.core.errors import RequestError, Status
from hsmbridge.core.params import (
    X963,
    Argon2id,
    Hkdf,
    KbkdfCounter,
    KdfParameters,
    Pbkdf2,
    Scrypt,
    Tls12Prf,
    Tls13ExpandLabel,
)
from hsmbridge.providers.software.digests import HASHES

MAX_PBKDF2_ITERATIONS = 10_000_000
MAX_SCRYPT_BYTES = 1 << 30
"""What scrypt may read and write in all: 128 · cost · block size · parallelization."""

_SCHEMES: Mapping[type[object], Scheme] = MappingProxyType(
    {
        Hkdf: Scheme.HKDF,
        Pbkdf2: Scheme.PBKDF2,
        KbkdfCounter: Scheme.KBKDF_COUNTER,
        X963: Scheme.X963,
        Scrypt: Scheme.SCRYPT,
        Tls12Prf: Scheme.TLS12_PRF,
        Tls13ExpandLabel: Scheme.TLS13_EXPAND_LABEL,
        Argon2id: Scheme.ARGON2ID,
    }
)


def row_of(kdf: KdfParameters) -> Algorithm:
    """The algorithm that the parameters name. Raises RequestError where it is not the one that they are for."""
    row = algorithm(kdf.algorithm)
    if row.scheme is not _SCHEMES[type(kdf)]:
        raise RequestError(
            Status.INVALID_ARGUMENT, f"These are parameters of {_SCHEMES[type(kdf)]}, and {row.name} is none."
        )
    return row


def derive(secret: bytes | bytearray, kdf: KdfParameters, length: int) -> bytes:
    """`length` bytes derived from a secret. Raises RequestError (NOT_SUPPORTED, INVALID_ARGUMENT)."""
    row = row_of(kdf)
    try:
        return _prepare(kdf, row, length).derive(secret)
    except ValueError as error:
        raise RequestError(
            Status.INVALID_ARGUMENT, f"{row.name} cannot be computed with these parameters.", origin=repr(error)
        ) from None


class _Derivation(Protocol):
    def derive(self, key_material: bytes | bytearray, /) -> bytes: ...


def _prepare(kdf: KdfParameters, row: Algorithm, length: int) -> _Derivation:
    match kdf:
        case Hkdf():
            return HKDF(HASHES[row.hash], length, kdf.salt, kdf.info)
        case Pbkdf2():
            if not 1 <= kdf.iterations <= MAX_PBKDF2_ITERATIONS:
                raise _outside("PBKDF2 iterations", 1, MAX_PBKDF2_ITERATIONS)
            return PBKDF2HMAC(HASHES[row.hash], length, kdf.salt, kdf.iterations)
        case KbkdfCounter():
            return KBKDFHMAC(
                algorithm=HASHES[row.hash],
                mode=Mode.CounterMode,
                length=length,
                rlen=4,
                llen=4,
                location=CounterLocation.BeforeFixed,
                label=kdf.label,
                context=kdf.context,
                fixed=None,
            )
        case X963():
            return X963KDF(HASHES[row.hash], length, kdf.shared_info)
        case Scrypt():
            spent = 128 * kdf.cost * kdf.block_size * kdf.parallelization
            if min(kdf.cost, kdf.block_size, kdf.parallelization) < 1 or spent > MAX_SCRYPT_BYTES:
                raise _outside("the bytes that scrypt goes through", 128, MAX_SCRYPT_BYTES)
            return scrypt.Scrypt(kdf.salt, length, kdf.cost, kdf.block_size, kdf.parallelization)
        case Tls13ExpandLabel():
            return HKDFExpand(HASHES[row.hash], length, _hkdf_label(kdf, length))
        case Tls12Prf() | Argon2id():
            raise RequestError(Status.NOT_SUPPORTED, f"The software provider cannot derive keys with {row.name}.")


def _hkdf_label(kdf: Tls13ExpandLabel, length: int) -> bytes:
    """The struct HkdfLabel of RFC 8446 section 7.1."""
    label = b"tls13 " + kdf.label
    if len(label) > 255 or len(kdf.context) > 255:
        raise RequestError(Status.INVALID_ARGUMENT, "An HKDF label has at most 249 bytes and its context 255.")
    return length.to_bytes(2, "big") + bytes((len(label),)) + label + bytes((len(kdf.context),)) + kdf.context


def _outside(what: str, least: int, most: int) -> RequestError:
    return RequestError(Status.INVALID_ARGUMENT, f"This provider takes {least} to {most} for {what}.")
