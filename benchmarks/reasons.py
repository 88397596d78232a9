"""Why an operation of ours has less than 0.3 of the direct call: the reasons, beside the cases that they are for.

A low ratio that no reason explains is a failure of the run. Each reason says how much time ours takes beside the
direct call, in ways: a way is a request to the provider and back that asks for nothing, measured in the same run. It
explains a case only where a direct call of that length, and as many ways beside it, come to so low a ratio; what is
lower for another reason still shows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from hsmbridge.core.algorithms import Algorithm, KeyOperation, Kind, Scheme

ENOUGH = 0.3
"""A ratio from which on nothing has to be said."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A case with what it took, in microseconds.

    Attributes:
        provider: its kind: software, oqs, pkcs11 or tpm.
        row: the algorithm.
        operation: what was done.
        ratio: of the rates, ours to the direct call's.
        direct: a direct call.
        way: a request that asks the provider for nothing.
    """

    provider: str
    row: Algorithm
    operation: KeyOperation
    ratio: float
    direct: float
    way: float


@dataclass(frozen=True, slots=True)
class Reason:
    """What explains some cases.

    Attributes:
        why: for the table.
        ways: what ours takes beside the direct call, at most.
        operations: that it is about; none is all.
        kinds: of algorithm; none is all.
        schemes: none is all.
        providers: kinds of provider; none is all.
    """

    why: str
    ways: float
    operations: frozenset[KeyOperation] = frozenset()
    kinds: frozenset[Kind] = frozenset()
    schemes: frozenset[Scheme] = frozenset()
    providers: frozenset[str] = frozenset()

    def explains(self, case: Measured) -> bool:
        """Whether this is about the case, and accounts for its ratio."""
        about = (
            (not self.operations or case.operation in self.operations)
            and (not self.kinds or case.row.kind in self.kinds)
            and (not self.schemes or case.row.scheme in self.schemes)
            and (not self.providers or case.provider in self.providers)
        )
        return about and case.direct / (case.direct + self.ways * case.way) <= case.ratio


REASONS: Sequence[Reason] = (
    Reason(
        "the call is short beside the way to the provider and back, and the checks of a request",
        ways=2.5,
    ),
    Reason(
        "two requests, to make a key and to give it back, with a way and a record for each",
        ways=10.0,
        operations=frozenset({KeyOperation.DERIVE}),
    ),
    Reason(
        "two requests, to make a key and to give it back; the peer's public key is read and checked each time; in a"
        " token the secret is an object that is set up, looked at and destroyed",
        ways=22.0,
        operations=frozenset({KeyOperation.AGREE}),
    ),
    Reason(
        "the way, and a nonce is reserved so that it cannot come again",
        ways=4.0,
        operations=frozenset({KeyOperation.ENCRYPT}),
        kinds=frozenset({Kind.AEAD, Kind.CIPHER}),
    ),
    Reason(
        "this liboqs verifies ML-DSA wrongly, so that the slower cryptography library does it (docs/providers-oqs.md)",
        ways=22.0,
        operations=frozenset({KeyOperation.VERIFY}),
        schemes=frozenset({Scheme.ML_DSA}),
        providers=frozenset({"oqs"}),
    ),
    Reason(
        "the TPM does not tell how long a salt is, so that the signature is verified in software besides",
        ways=6.0,
        operations=frozenset({KeyOperation.VERIFY}),
        schemes=frozenset({Scheme.RSASSA_PSS}),
        providers=frozenset({"tpm"}),
    ),
)
"""The first that explains a case is told."""


def reason_for(case: Measured) -> str | None:
    """Why a ratio is low; None where it is not, or where nothing explains it."""
    if case.ratio >= ENOUGH:
        return None
    return next((one.why for one in REASONS if one.explains(case)), None)


def duration(microseconds: float) -> str:
    """Microseconds for people: three digits."""
    if microseconds < 999.5:
        return f"{microseconds:.3g} µs"
    if microseconds < 999_500:
        return f"{microseconds / 1e3:.3g} ms"
    return f"{microseconds / 1e6:.3g} s"
