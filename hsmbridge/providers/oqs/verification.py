"""Whether the liboqs that was found verifies ML-DSA as FIPS 204 says, and verification by pyca/cryptography if not.

The AVX2 code that liboqs had up to 0.13 and later (pqcrystals-dilithium-standard) does not check that z is short, so
that it accepts signatures that algorithm 8 refuses, and it takes a remainder of zero for a positive one where a hint
is used, so that it refuses some valid signatures. Signing is not touched by either.

A signature that only the norm makes wrong cannot be made of a valid one: whatever changes z changes the commitment, and
the challenge does not fit any more. So there are known answers: signatures under a public key of zeros. Where t1 is
zero, anybody can sign, and the commitment is A*z; all that has to be known beforehand is its hash, the challenge.
Nothing of ML-DSA is computed here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import mldsa

from hsmbridge.core.algorithms import Algorithm
from hsmbridge.providers.oqs.library import Library
from hsmbridge.providers.oqs.material import OqsKey
from hsmbridge.providers.oqs.mechanisms import MlDsa
from hsmbridge.providers.oqs.parameter_sets import PARAMETER_SETS

MESSAGE = b"hsmbridge: does this library verify as FIPS 204 says?"
_N = 256


@dataclass(frozen=True, slots=True)
class Shape:
    """How a parameter set encodes signatures (FIPS 204, table 1 and algorithm 26).

    Attributes:
        bits: of a coefficient of z.
        vector: polynomials in z.
        gamma1: what the encoding counts down from.
        norm: the absolute value that no coefficient of z may reach, gamma1 - beta.
        hints: the most hints, omega.
        commitment: polynomials that hints are for, k.
    """

    bits: int
    vector: int
    gamma1: int
    norm: int
    hints: int
    commitment: int


@dataclass(frozen=True, slots=True)
class Case:
    """A signature with at most one coefficient that is not zero, and at most one hint.

    Attributes:
        name: what it is.
        valid: whether a verifier accepts it.
        sign: of the coefficient, which is as long as is just not allowed; or 0.
        last: that coefficient is the last of the vector, otherwise the first.
        hint: the first coefficient of the commitment has a hint.
    """

    name: str
    valid: bool
    sign: int = 0
    last: bool = False
    hint: bool = False

    def coefficient(self, shape: Shape) -> tuple[int, int]:
        """Place, counted through the vector, and value."""
        return (shape.vector * _N - 1 if self.last else 0), self.sign * shape.norm


SHAPES: Mapping[str, Shape] = MappingProxyType(
    {
        "ML-DSA-44": Shape(18, 4, 1 << 17, (1 << 17) - 78, 80, 4),
        "ML-DSA-65": Shape(20, 5, 1 << 19, (1 << 19) - 196, 55, 6),
        "ML-DSA-87": Shape(20, 7, 1 << 19, (1 << 19) - 120, 75, 8),
    }
)
CASES: Sequence[Case] = (
    Case("short", valid=True),
    Case("hint-at-zero", valid=True, hint=True),
    Case("too-long-first", valid=False, sign=1),
    Case("too-long-last", valid=False, sign=-1, last=True),
)
CHALLENGES: Mapping[tuple[str, str], str] = MappingProxyType(
    {
        ("ML-DSA-44", "short"): "66c7062f2e1d464af1f22aaedcd8c98550a50b781b213081adfe1cb9111d05b7",
        ("ML-DSA-44", "hint-at-zero"): "d0397d8dbcaf3945f41d724b2dce360dfb9f6666ad2e9aa0be82c5f616b95049",
        ("ML-DSA-44", "too-long-first"): "51ad5bd9601be1e99c4b85f9e75692a72167a1d9b76d5f13a622fcb24ec143f8",
        ("ML-DSA-44", "too-long-last"): "4444de3e91c71a98f6b0be2a195075db12976027b18ccf97bdde198726e926db",
        ("ML-DSA-65", "short"): (
            "83004c50cf3ce80d80f4f076dfa2283a41d22f482a0c29b9759f60360cda37083541c372ffb94aa134144b9832d907dd"
        ),
        ("ML-DSA-65", "hint-at-zero"): (
            "8cc6ea2451beb3e00819f528747a9b7185cc3193eda7dbb61b185acf198d8422aeb87be42edcb411258580a3918cbc4a"
        ),
        ("ML-DSA-65", "too-long-first"): (
            "08fd93f8a0552b204d3f3803740ed257617d63ac2ac9afc0cbac67c7717c4ced3988246aaf7950b21a62f168c6306ee7"
        ),
        ("ML-DSA-65", "too-long-last"): (
            "564ace4eaa2d99db3f8586594536df81d9592809f78b0062d4528e0519fb35451bfbdaf50b5fda01af230011f1b84a50"
        ),
        ("ML-DSA-87", "short"): (
            "7a910124dff7172e2e685b47efae912f8af58283f6b84d8481fb1b70875636fc"
            "2baebd220e9f76400751f243ecf97d2fb154eb8337f88e171753092a7a010af8"
        ),
        ("ML-DSA-87", "hint-at-zero"): (
            "3406e2c4620e3076f47d5844f6df32570944277a091ef3f5879a4a340522c569"
            "249c556f61a281e273c4bcde6c5aa3fce61b839b384373f0cd77d45a55f809e6"
        ),
        ("ML-DSA-87", "too-long-first"): (
            "9203ebf5b8e2135d6434ce9636674f08bbd596ee7028cfbaf3a44c750fcde475"
            "d9bb97a0735a05b68fbcecbe0cf1bb6b65bb83f43e636397a3ad7d286a52d92b"
        ),
        ("ML-DSA-87", "too-long-last"): (
            "f72a558d3b7c65c4b0d39610356c5b6bc48d023f1afa77c7f4c208fe4443ecf4"
            "d32ee001bd95f96d670ef45564462c6f77bb64d7f5aa8470947ba7ce12fa1614"
        ),
    }
)
"""The hashes of the commitments; the tests compute them anew."""


class MlDsaVerifiedByCryptography(MlDsa):
    """ML-DSA that liboqs signs and pyca/cryptography verifies."""

    __slots__ = ("_verifier",)

    def __init__(self, library: Library, key: OqsKey, row: Algorithm) -> None:
        super().__init__(library, key, row)
        self._verifier = _VERIFIERS[row.name](key.public)

    def _accepts(self, message: bytes, signature: bytes, context: bytes) -> bool:
        try:
            self._verifier.verify(signature, message, context)
        except InvalidSignature:
            return False
        return True


def answers_as_known(name: str, verifies: Callable[[bytes, bytes, bytes], bool]) -> bool:
    """Whether a verifier of a parameter set is right about every case.

    Args:
        name: of the parameter set.
        verifies: called with message, signature and public key.
    """
    return all(verifies(MESSAGE, known_signature(name, case), public_key(name)) is case.valid for case in CASES)


def public_key(name: str) -> bytes:
    """The public key of the known answers: zeros."""
    return bytes(PARAMETER_SETS[name].public)


def known_signature(name: str, case: Case) -> bytes:
    """The signature of a case, encoded."""
    shape = SHAPES[name]
    place, value = case.coefficient(shape)
    z = sum((shape.gamma1 - (value if at == place else 0)) << shape.bits * at for at in range(shape.vector * _N))
    # Places of hints, then for each polynomial where its places end. The first place is 0.
    hints = bytes(shape.hints) + bytes((1 if case.hint else 0,)) * shape.commitment
    return (
        bytes.fromhex(CHALLENGES[name, case.name]) + z.to_bytes(shape.bits * shape.vector * _N // 8, "little") + hints
    )


class _Verifier(Protocol):
    """A public key of ML-DSA of pyca/cryptography."""

    def verify(self, signature: bytes, data: bytes, context: bytes | None = None) -> None: ...


_VERIFIERS: Mapping[str, Callable[[bytes], _Verifier]] = MappingProxyType(
    {
        "ML-DSA-44": mldsa.MLDSA44PublicKey.from_public_bytes,
        "ML-DSA-65": mldsa.MLDSA65PublicKey.from_public_bytes,
        "ML-DSA-87": mldsa.MLDSA87PublicKey.from_public_bytes,
    }
)
