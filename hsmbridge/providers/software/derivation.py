"""Key derivation: HKDF (RFC 5869), PBKDF2 (RFC 8018), KBKDF (SP 800-108), X9.63, scrypt (RFC 7914), Argon2id
(RFC 9106), the PRF of TLS 1.2 (RFC 5246) and HKDF-Expand-Label (RFC 8446).

None can be interrupted, so what a caller may spend on one is bounded: a few seconds of a processor, and
MAX_MEMORY bytes. Those that take memory are done one at a time, and who would wait long is sent away.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

from cryptography.hazmat.primitives.hashes import HashAlgorithm
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.kdf import argon2, scrypt
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand
from cryptography.hazmat.primitives.kdf.kbkdf import KBKDFHMAC, CounterLocation, Mode
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC
from cryptography.hazmat.primitives.kdf.x963kdf import X963KDF

from hsmbridge.core.algorithms import Algorithm, Scheme, algorithm
from hsmbridge.core.errors import LimitError, RequestError, Status
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

MAX_PBKDF2_ITERATIONS = 2_000_000
MAX_MEMORY = 256 << 20
"""Bytes that scrypt (128 · cost · block size) or Argon2id may fill."""
MAX_SCRYPT_BYTES = 1 << 30
"""Bytes that scrypt may go through in all: its memory, once for each of its parallel parts."""
MAX_ARGON2_BYTES = 4 << 30
"""Bytes that Argon2id may go through in all: its memory, once for each iteration."""
MAX_ARGON2_LANES = 16

_SMALLEST_SALT = 8
PATIENCE = 1.0
"""Seconds to wait for the memory: less than after what the engine takes a provider for hung."""
MEMORY = threading.Lock()
"""Held by the one derivation that takes memory."""

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
    """`length` bytes derived from a secret.

    Raises RequestError (INVALID_ARGUMENT), and LimitError (RATE_LIMITED) where others take the memory.
    """
    row = row_of(kdf)
    try:
        return _prepared(kdf, row, length)(secret)
    except ValueError as error:
        raise RequestError(
            Status.INVALID_ARGUMENT, f"{row.name} cannot be computed with these parameters.", origin=repr(error)
        ) from None


_Derivation = Callable[[bytes | bytearray], bytes]


def _prepared(kdf: KdfParameters, row: Algorithm, length: int) -> _Derivation:
    match kdf:
        case Hkdf():
            return HKDF(HASHES[row.hash], length, kdf.salt, kdf.info).derive
        case Pbkdf2():
            if not 1 <= kdf.iterations <= MAX_PBKDF2_ITERATIONS:
                raise _outside("PBKDF2 iterations", 1, MAX_PBKDF2_ITERATIONS)
            return PBKDF2HMAC(HASHES[row.hash], length, kdf.salt, kdf.iterations).derive
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
            ).derive
        case X963():
            return X963KDF(HASHES[row.hash], length, kdf.shared_info).derive
        case Scrypt():
            return _scrypt(kdf, length)
        case Argon2id():
            return _argon2id(kdf, length)
        case Tls12Prf():
            return lambda secret: _p_hash(secret, HASHES[row.hash], kdf.label + kdf.seed, length)
        case Tls13ExpandLabel():
            return HKDFExpand(HASHES[row.hash], length, _hkdf_label(kdf, length)).derive


def _scrypt(kdf: Scrypt, length: int) -> _Derivation:
    memory = 128 * kdf.cost * kdf.block_size
    if min(kdf.cost, kdf.block_size, kdf.parallelization) < 1 or memory > MAX_MEMORY:
        raise _outside("the bytes that scrypt fills", 128, MAX_MEMORY)
    if memory * kdf.parallelization > MAX_SCRYPT_BYTES:
        raise _outside("the bytes that scrypt goes through", 128, MAX_SCRYPT_BYTES)
    prepared = scrypt.Scrypt(kdf.salt, length, kdf.cost, kdf.block_size, kdf.parallelization)

    def compute(secret: bytes | bytearray) -> bytes:
        with _memory_for_one():
            return prepared.derive(secret)

    return compute


def _argon2id(kdf: Argon2id, length: int) -> _Derivation:
    if not 1 <= kdf.lanes <= MAX_ARGON2_LANES:
        raise _outside("the lanes of Argon2id", 1, MAX_ARGON2_LANES)
    least, most = 8 * kdf.lanes, MAX_MEMORY >> 10
    if not least <= kdf.memory <= most:
        raise _outside("the KiB of memory of Argon2id", least, most)
    often = (MAX_ARGON2_BYTES >> 10) // kdf.memory
    if not 1 <= kdf.iterations <= often:
        raise _outside("the iterations of Argon2id over so much memory", 1, often)
    if len(kdf.salt) < _SMALLEST_SALT:
        raise RequestError(Status.INVALID_ARGUMENT, f"Argon2id takes a salt of {_SMALLEST_SALT} bytes or more.")
    prepared = argon2.Argon2id(
        salt=kdf.salt, length=length, iterations=kdf.iterations, lanes=kdf.lanes, memory_cost=kdf.memory
    )

    def compute(secret: bytes | bytearray) -> bytes:
        with _memory_for_one():
            return prepared.derive(bytes(secret))

    return compute


@contextmanager
def _memory_for_one() -> Iterator[None]:
    if not MEMORY.acquire(timeout=PATIENCE):
        raise LimitError(
            Status.RATE_LIMITED, "Others derive with much memory just now, which is done one at a time; try again."
        )
    try:
        yield
    finally:
        MEMORY.release()


def _p_hash(secret: bytes | bytearray, hash_: HashAlgorithm, seed: bytes, length: int) -> bytes:
    """P_hash of RFC 5246 section 5: HMAC over A(i) and the seed, where A(0) is the seed and A(i) the HMAC of A(i-1)."""
    keyed = HMAC(secret, hash_)

    def hmac(data: bytes) -> bytes:
        one = keyed.copy()
        one.update(data)
        return one.finalize()

    derived, a = b"", seed
    while len(derived) < length:
        a = hmac(a)
        derived += hmac(a + seed)
    return derived[:length]


def _hkdf_label(kdf: Tls13ExpandLabel, length: int) -> bytes:
    """The struct HkdfLabel of RFC 8446 section 7.1."""
    label = b"tls13 " + kdf.label
    if len(label) > 255 or len(kdf.context) > 255:
        raise RequestError(Status.INVALID_ARGUMENT, "An HKDF label has at most 249 bytes and its context 255.")
    return length.to_bytes(2, "big") + bytes((len(label),)) + label + bytes((len(kdf.context),)) + kdf.context


def _outside(what: str, least: int, most: int) -> RequestError:
    return RequestError(Status.INVALID_ARGUMENT, f"This provider takes {least} to {most} for {what}.")
