"""What the installed cryptography library can really do: every row is tried once, with the code that serves it.

A row that fails is not claimed. The trial takes some tens of milliseconds and happens once in a process.
"""

import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from types import MappingProxyType

from cryptography.exceptions import InternalError, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from hsmbridge.core.algorithms import ALGORITHMS, Algorithm, KeyOperation, Kind, Scheme
from hsmbridge.core.calls import Claim
from hsmbridge.core.errors import HsmBridgeError
from hsmbridge.core.key_types import KEY_TYPES, Family, KeyType
from hsmbridge.core.params import (
    DEFAULT_SIGNATURE,
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
from hsmbridge.providers.software import families
from hsmbridge.providers.software.bound_key import BoundKey
from hsmbridge.providers.software.derivation import derive
from hsmbridge.providers.software.digests import digest
from hsmbridge.providers.software.material import KeyMaterial, KeyPair
from hsmbridge.providers.software.schemes import SCHEMES

_MESSAGE = b"hsmbridge self-check"
_VALUE = bytes(16)
_LACKS = (UnsupportedAlgorithm, InternalError, ValueError, HsmBridgeError)
"""What it looks like when the library, or OpenSSL under the policy of the machine, does not have something."""

# Making an RSA key takes longer than all the rest; these primes are published here and protect nothing.
_P = int(
    "c06a1a073303f75479dc25c4d16f3fbc520cb17971858dc2fea6daad2bbae8c0f79fe7bc1c5d4956"
    "b8ba2b8832f28a734ee060e650b91ffcc0bab5887072c79758b8341c8731173cd2ff70292db62a5b"
    "0fda4722f0527679ed925dffa5a9feb9d5d4e0e8b3e523398b00541c6db98d4eae35fa53da4b65c9"
    "04b7bda16e0ea607",
    16,
)
_Q = int(
    "b659cfa42f89c2cc8db6701e93fb7b0d9c3c723bdcaa065aa87a4b61cf743eae21b36e1a409e270a"
    "9e8e942e410b12f94e8de2e5abb19787b4df51b03f29853aed39d580ceb8caa3d2b80331505fc44b"
    "83f0166c2a6f232e2f930a0b211b8bcddaebd8a3e3bc3635418e749a54c4d1619264ce7c75156266"
    "eba97edaed6074d9",
    16,
)


@dataclass(frozen=True, slots=True)
class Abilities:
    """What was found to work: names of key types, and a claim for each algorithm by its name."""

    key_types: tuple[str, ...]
    claims: Mapping[str, Claim]


@cache
def abilities() -> Abilities:
    """Try everything; from the second call on, what was found."""
    keys: dict[str, KeyMaterial] = {}
    for key_type_row in KEY_TYPES.values():
        with suppress(*_LACKS):
            keys[key_type_row.name] = _make(key_type_row)
    claims: dict[str, Claim] = {}
    for row in ALGORITHMS.values():
        with suppress(*_LACKS):
            if _works(row, keys):
                operations = _ONLY.get(row.scheme, row.operations)
                claims[row.name] = Claim(row.name, tuple(operation.value for operation in operations))
    return Abilities(tuple(keys), MappingProxyType(claims))


def _make(row: KeyType) -> KeyMaterial:
    return _rsa_key() if row.family is Family.RSA else families.generate(row)


@cache
def _rsa_key() -> KeyPair:
    exponent = 65537
    public = rsa.RSAPublicNumbers(exponent, _P * _Q)
    d = pow(exponent, -1, (_P - 1) * (_Q - 1))
    numbers = rsa.RSAPrivateNumbers(
        _P, _Q, d, rsa.rsa_crt_dmp1(d, _P), rsa.rsa_crt_dmq1(d, _Q), rsa.rsa_crt_iqmp(_P, _Q), public
    )
    return KeyPair.of(numbers.private_key(unsafe_skip_rsa_key_validation=True))


def _works(row: Algorithm, keys: Mapping[str, KeyMaterial]) -> bool:
    if row.kind is Kind.DIGEST:
        return len(digest(row.hash, _MESSAGE)) == row.output_size
    if row.kind is Kind.KDF:
        parameters = _KDF_TRIALS.get(row.scheme)
        return parameters is not None and len(derive(_MESSAGE, parameters(algorithm=row.name), 16)) == 16
    bind = SCHEMES.get(row.scheme)
    material = next((keys[name] for name in row.key_types if name in keys), None)
    trial = _rejects_implicitly if row.scheme is Scheme.RSAES_PKCS1 else _TRIALS[row.kind]
    return bind is not None and material is not None and trial(bind(material, row), row, material)


def _signs(key: BoundKey, _row: Algorithm, _material: KeyMaterial) -> bool:
    key.verify(_MESSAGE, key.sign(_MESSAGE, DEFAULT_SIGNATURE), DEFAULT_SIGNATURE)
    return True


def _encrypts(key: BoundKey, row: Algorithm, _material: KeyMaterial) -> bool:
    sealed = key.encrypt(bytes(row.nonce_size), _MESSAGE, b"")
    return key.decrypt(sealed.nonce, sealed.ciphertext, b"", sealed.tag) == _MESSAGE


def _wraps(key: BoundKey, row: Algorithm, _material: KeyMaterial) -> bool:
    iv = bytes(row.nonce_size)
    return key.unwrap(key.wrap(_VALUE, iv, b""), iv, b"") == _VALUE


def _encrypts_and_wraps(key: BoundKey, row: Algorithm, material: KeyMaterial) -> bool:
    return _encrypts(key, row, material) and _wraps(key, row, material)


def _rejects_implicitly(key: BoundKey, _row: Algorithm, material: KeyMaterial) -> bool:
    """Whether it decrypts, and tells nobody that a padding is wrong: what is no ciphertext yields something too."""
    if not isinstance(material, KeyPair) or not isinstance(material.public, rsa.RSAPublicKey):
        return False
    sealed = material.public.encrypt(_MESSAGE, padding.PKCS1v15())
    size = material.public.key_size // 8
    wrong = [b"\0" + secrets.token_bytes(size - 1) for _ in range(2)]
    return key.decrypt(b"", sealed, b"", b"") == _MESSAGE and all(
        key.decrypt(b"", one, b"", b"") == key.decrypt(b"", one, b"", b"") for one in wrong
    )


def _encapsulates(key: BoundKey, _row: Algorithm, _material: KeyMaterial) -> bool:
    made = key.encapsulate()
    return key.decapsulate(made.ciphertext) == made.secret


def _agrees(key: BoundKey, _row: Algorithm, material: KeyMaterial) -> bool:
    return bool(key.agree(material.public_key))


_ONLY: Mapping[Scheme, tuple[KeyOperation, ...]] = MappingProxyType({Scheme.RSAES_PKCS1: (KeyOperation.DECRYPT,)})
"""What a scheme offers, where that is not all that its kind does."""
_TRIALS: Mapping[Kind, Callable[[BoundKey, Algorithm, KeyMaterial], bool]] = MappingProxyType(
    {
        Kind.SIGNATURE: _signs,
        Kind.MAC: _signs,
        Kind.AEAD: _encrypts_and_wraps,
        Kind.CIPHER: _encrypts,
        Kind.PUBLIC_KEY_ENCRYPTION: _encrypts_and_wraps,
        Kind.KEY_WRAP: _wraps,
        Kind.KEM: _encapsulates,
        Kind.KEY_AGREEMENT: _agrees,
    }
)
_KDF_TRIALS: Mapping[Scheme, Callable[..., KdfParameters]] = MappingProxyType(
    {
        Scheme.HKDF: Hkdf,
        Scheme.PBKDF2: partial(Pbkdf2, salt=_MESSAGE, iterations=1),
        Scheme.KBKDF_COUNTER: KbkdfCounter,
        Scheme.X963: X963,
        Scheme.SCRYPT: partial(Scrypt, salt=_MESSAGE, cost=2),
        Scheme.ARGON2ID: partial(Argon2id, salt=_MESSAGE, iterations=1, lanes=1, memory=8),
        Scheme.TLS12_PRF: partial(Tls12Prf, label=_MESSAGE, seed=_MESSAGE),
        Scheme.TLS13_EXPAND_LABEL: partial(Tls13ExpandLabel, label=_MESSAGE),
    }
)
