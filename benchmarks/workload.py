"""What both sides compute: the sizes of data, the parameters of key derivation, and what a direct side is."""

from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

from hsmbridge.core.algorithms import Algorithm, KeyOperation, Kind, Scheme
from hsmbridge.core.key_types import KeyType
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

MESSAGE = b"a message of ordinary length, as programs sign them all day long"
DATA = bytes(1024)
SHORT = bytes(32)

Operation = Callable[[], object]


class NoDirectCall(Exception):
    """The library has no call of its own for it; the message says why, for the table."""


class NotMeasured(Exception):
    """Ours has no call that could be compared; the message says why, for the table."""


class Direct(Protocol):
    """A library under a provider, used as a program would that holds the key itself."""

    def operation(self, row: Algorithm, key_type: KeyType | None, operation: KeyOperation) -> Operation:
        """One call with a key that is there. Raises NoDirectCall."""


@runtime_checkable
class Distant(Protocol):
    """A library of a token or TPM, which the daemon reaches through another process. Both sides can ask for random."""

    def random(self) -> bytes:
        """One random byte."""


def payload(row: Algorithm) -> bytes:
    """What is signed, authenticated, hashed or encrypted: 64 bytes, 1 KiB, or as much as RSA takes."""
    if row.kind is Kind.SIGNATURE:
        return MESSAGE
    return SHORT if row.scheme in {Scheme.RSAES_OAEP, Scheme.RSAES_PKCS1} else DATA


_KDFS: Mapping[Scheme, Callable[[str], KdfParameters]] = {
    Scheme.HKDF: lambda name: Hkdf(algorithm=name, salt=b"salt", info=b"benchmark"),
    Scheme.PBKDF2: lambda name: Pbkdf2(algorithm=name, salt=b"sixteen bytes of", iterations=10_000),
    Scheme.KBKDF_COUNTER: lambda name: KbkdfCounter(algorithm=name, label=b"benchmark"),
    Scheme.X963: lambda name: X963(algorithm=name, shared_info=b"benchmark"),
    Scheme.SCRYPT: lambda name: Scrypt(algorithm=name, salt=b"sixteen bytes of", cost=1 << 12),
    Scheme.ARGON2ID: lambda name: Argon2id(
        algorithm=name, salt=b"sixteen bytes of", iterations=1, lanes=1, memory=4096
    ),
    Scheme.TLS12_PRF: lambda name: Tls12Prf(algorithm=name, label=b"key expansion", seed=bytes(64)),
    Scheme.TLS13_EXPAND_LABEL: lambda name: Tls13ExpandLabel(algorithm=name, label=b"derived", context=bytes(32)),
}
DERIVED = 32
"""Bytes that are derived."""


def kdf_of(row: Algorithm) -> KdfParameters:
    """The parameters of a derivation; both sides use these."""
    return _KDFS[row.scheme](row.name)
