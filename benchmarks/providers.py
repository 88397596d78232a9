"""Every provider, algorithm and operation: the daemon against the library under the provider.

The cases are what the providers claim when they are asked; the direct side is what a program would do that held the
key itself, in a token, TPM or memory of its own. Wrapping and unwrapping are left out, which make keys as derivation
does. Key types: the first that the provider generates for an algorithm, so RSA is RSA-2048 and AES as the name says.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from itertools import groupby

import pkcs11.exceptions
from tpm2_pytss import TSS2_Exception

from benchmarks.measure import Result, compare, repeating
from benchmarks.ours import Ours
from benchmarks.reasons import ENOUGH, Measured, duration, reason_for
from benchmarks.rigs import Rig, running
from benchmarks.table import Entry, table
from benchmarks.workload import Direct, Distant, NoDirectCall, NotMeasured, Operation
from hsmbridge.client import CryptoStack, ProviderInfo
from hsmbridge.core.algorithms import Algorithm, KeyOperation, algorithm
from hsmbridge.core.errors import HsmBridgeError
from hsmbridge.core.key_types import KeyType

SUITE = "providers"
TURNS = 4
_TURN = 0.03
"""Seconds of a turn: there are some hundred cases."""
TRIES = 3
"""How often a case is measured that comes out low without a reason."""
OPERATIONS = (
    KeyOperation.SIGN,
    KeyOperation.VERIFY,
    KeyOperation.ENCRYPT,
    KeyOperation.DECRYPT,
    KeyOperation.ENCAPSULATE,
    KeyOperation.DECAPSULATE,
    KeyOperation.AGREE,
    KeyOperation.DERIVE,
    KeyOperation.DIGEST,
)


def run(only: str, turns: int) -> Iterator[Result]:
    """Every case whose name contains `only`, or whose provider's name it begins with; the table at the end."""
    done: list[Entry] = []
    with running(lambda name: not only or only.startswith(name) or not _names_a_provider(only)) as (stack, rigs):
        offered = {info.name: info for info in stack.providers()}
        ours = Ours(stack)
        for rig in rigs:
            if rig.missing:
                sys.stderr.write(f"{SUITE}: {rig.name} is not measured: {rig.missing}\n")
                continue
            for row, operation, result in _of_provider(rig, offered[rig.name], stack, ours, only, turns):
                done.append(Entry(rig.name, row.name, operation, result))
                yield result
    for line in table(done):
        sys.stderr.write(line + "\n")


def _names_a_provider(only: str) -> bool:
    return only.split(" ", maxsplit=1)[0] in {"software", "oqs", "softhsm", "softokn", "kryoptic", "tpm"}


def _of_provider(
    rig: Rig, info: ProviderInfo, stack: CryptoStack, ours: Ours, only: str, turns: int
) -> Iterator[tuple[Algorithm, KeyOperation, Result]]:
    with ExitStack() as closing:
        direct = rig.direct(closing)

        def way() -> float:
            return _way(info, stack, direct)

        usual = way()
        sys.stderr.write(f"{SUITE}: {rig.name}: a way takes {duration(usual)}\n")
        for row, operations in groupby(claimed(info), key=lambda one: one[0]):
            for _, operation in operations:
                case = f"{rig.name} {row.name} {operation}"
                if only in case:
                    result = _case(case, info, row, operation, ours, direct, (usual, way), turns)
                    yield row, operation, result
            ours.leave(info, row)


def claimed(info: ProviderInfo) -> Iterator[tuple[Algorithm, KeyOperation]]:
    """What a provider says that it does, of what is measured here."""
    for claim in info.claims:
        for operation in OPERATIONS:
            if operation in claim.operations:
                yield algorithm(claim.algorithm), operation


def _way(info: ProviderInfo, stack: CryptoStack, direct: Direct) -> float:
    """Microseconds of a request that asks the provider for nothing.

    One that the daemon computes itself is reached by `ping`. Of one in a process of its own it is what a random byte
    takes, less what the byte itself takes.
    """
    if not isinstance(direct, Distant):
        return _microseconds(stack.ping)
    return _microseconds(lambda: stack.random(1, provider=info.name)) - _microseconds(direct.random)


def _microseconds(operation: Operation) -> float:
    contender = repeating(operation)
    contender(_TURN)
    return 1e6 / contender(10 * _TURN)


def _case(
    case: str,
    info: ProviderInfo,
    row: Algorithm,
    operation: KeyOperation,
    ours: Ours,
    direct: Direct,
    ways: tuple[float, Callable[[], float]],
    turns: int,
) -> Result:
    try:
        mine, key = ours.operation(info, row, operation)
    except NotMeasured as problem:
        return _alone(case, 0.0, f"not measured: {problem}", turns)
    except HsmBridgeError as problem:
        return _alone(case, 0.0, f"not measured: {problem.message}", turns)
    try:
        theirs = _working(direct, row, key, operation)
    except NoDirectCall as problem:
        return _alone(case, _rate(mine), f"no direct call: {problem}", turns)
    usual, again = ways

    def measured(way: float) -> Result:
        result = compare(SUITE, case, repeating(mine), repeating(theirs), turns=turns, turn=_TURN)
        return judged(result, info.scheme, row, operation, way)

    return settled(measured, usual, again)


def settled(measured: Callable[[float], Result], usual: float, again: Callable[[], float]) -> Result:
    """The first result that holds, of as many as are tried; each try after the first takes the way anew.

    Somebody else's work on the machine makes one result low, a defect of ours all of them.
    """
    result = measured(usual)
    for _ in range(TRIES - 1):
        if result.holds is not False:
            break
        result = measured(again())
    return result


def judged(result: Result, scheme: str, row: Algorithm, operation: KeyOperation, way: float) -> Result:
    """The result with its reason, if it needs one; `holds` is whether nothing is left unexplained."""
    if result.ratio is None or result.against is None:
        return result
    measured = Measured(scheme, row, operation, result.ratio, 1e6 / result.against, way)
    reason = reason_for(measured)
    holds = result.ratio >= ENOUGH or reason is not None
    return replace(result, target=ENOUGH, holds=holds, reason=reason)


def _working(direct: Direct, row: Algorithm, key: KeyType | None, operation: KeyOperation) -> Operation:
    """A direct call that has worked once. Raises NoDirectCall."""
    try:
        call = direct.operation(row, key, operation)
        call()
    except (pkcs11.exceptions.PKCS11Error, TSS2_Exception) as problem:
        raise NoDirectCall(f"the library says {type(problem).__name__} {problem}".rstrip()) from problem
    return call


def _rate(operation: Operation) -> float:
    return repeating(operation)(4 * _TURN)


def _alone(case: str, rate: float, reason: str, turns: int) -> Result:
    sys.stderr.write(f"{SUITE}: {case}: {reason}\n")
    return Result(SUITE, case, round(rate, 1), None, "direct", None, "operations/s", turns, None, None, reason)
