"""The challenges of ML-DSA signatures under public keys without t1, worked out from FIPS 204 and nothing else.

Where t1 is zero, w' is A*z, and a signature of any z needs no private key. Slow and for these cases only: one
coefficient of z at most is not zero. What the product holds as known answers is checked against it.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

Q, N, ROOT = 8380417, 256, 1753


@dataclass(frozen=True, slots=True)
class Parameters:
    """Those of FIPS 204 table 1 that matter here. `challenge` is lambda / 4, in bytes."""

    k: int
    l: int  # noqa: E741 - the standard's letter
    gamma2: int
    challenge: int


PARAMETERS = {
    "ML-DSA-44": Parameters(4, 4, (Q - 1) // 88, 32),
    "ML-DSA-65": Parameters(6, 5, (Q - 1) // 32, 48),
    "ML-DSA-87": Parameters(8, 7, (Q - 1) // 32, 64),
}


def challenge(
    name: str, public_key: bytes, message: bytes, *, place: int = 0, value: int = 0, hints: frozenset[int] = frozenset()
) -> bytes:
    """c~ of the signature whose z is `value` in one place, counted through the vector, and whose hints are there."""
    chosen = PARAMETERS[name]
    column, power = divmod(place, N)
    w1: list[int] = []
    for row in range(chosen.k):
        w = _times(_column_entry(public_key[:32], row, column), power, value) if value else [0] * N
        w1 += [_use_hint(chosen.gamma2, row * N + index in hints, one) for index, one in enumerate(w)]
    tr = hashlib.shake_256(public_key).digest(64)
    mu = hashlib.shake_256(tr + bytes(2) + message).digest(64)
    return hashlib.shake_256(mu + _encoded(w1, (Q - 1) // (2 * chosen.gamma2) - 1)).digest(chosen.challenge)


def _column_entry(rho: bytes, row: int, column: int) -> Sequence[int]:
    """The entry of A as a polynomial: RejNTTPoly (algorithm 30), with the transform of section 7.5 undone."""
    stream = hashlib.shake_128(rho + bytes((column, row))).digest(3 * 512)
    found = (int.from_bytes(stream[at : at + 3], "little") & 0x7FFFFF for at in range(0, len(stream), 3))
    transformed = [one for one in found if one < Q][:N]
    # The entry at i is the value at ROOT ** (2 * brv(i) + 1); the inverse is the sum over the roots, divided by N.
    exponents = [2 * int(f"{index:08b}"[::-1], 2) + 1 for index in range(N)]
    powers = [pow(ROOT, exponent, Q) for exponent in range(2 * N)]
    scale = pow(N, -1, Q)
    return [
        scale
        * sum(one * powers[-exponent * index % (2 * N)] for one, exponent in zip(transformed, exponents, strict=True))
        % Q
        for index in range(N)
    ]


def _times(polynomial: Sequence[int], power: int, value: int) -> list[int]:
    """A polynomial times value * X ** power, modulo X ** 256 + 1."""
    return [value * (polynomial[i - power] if i >= power else -polynomial[i - power]) % Q for i in range(N)]


def _use_hint(gamma2: int, hint: bool, r: int) -> int:
    """Algorithms 36 and 40."""
    count = (Q - 1) // (2 * gamma2)
    r0 = r % (2 * gamma2)
    if r0 > gamma2:
        r0 -= 2 * gamma2
    r1, r0 = (0, r0 - 1) if r - r0 == Q - 1 else ((r - r0) // (2 * gamma2), r0)
    if not hint:
        return r1
    return (r1 + 1) % count if r0 > 0 else (r1 - 1) % count


def _encoded(values: Sequence[int], largest: int) -> bytes:
    """w1Encode (algorithm 28)."""
    return b"".join(_packed(values[at : at + N], largest.bit_length()) for at in range(0, len(values), N))


def _packed(values: Sequence[int], bits: int) -> bytes:
    return sum(one << bits * at for at, one in enumerate(values)).to_bytes(bits * N // 8, "little")


def published() -> Iterator[tuple[str, str, str]]:
    """Set, case and challenge of each known answer, as `python -m tests.unit.providers.oqs.challenges` prints them."""
    from hsmbridge.providers.oqs.verification import CASES, MESSAGE, SHAPES, public_key

    for name, shape in SHAPES.items():
        for case in CASES:
            place, value = case.coefficient(shape)
            hints = frozenset({0}) if case.hint else frozenset[int]()
            made = challenge(name, public_key(name), MESSAGE, place=place, value=value, hints=hints)
            yield name, case.name, made.hex()


if __name__ == "__main__":
    for line in published():
        print(*line)
