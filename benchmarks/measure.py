"""Interleaved measurement: two contenders take turns, medians of their rates are compared."""

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

TURN = 0.25
"""Seconds of one turn of one contender."""

Contender = Callable[[float], float]
"""Runs for about so many seconds and answers its rate, in operations a second."""


@dataclass(frozen=True, slots=True)
class Result:
    """One line of output. `ours` and `against` are medians of rates; `ratio` is the median over pairs of turns.

    `target` is the least `ratio`, or the least rate where a case is about that. `reason` says why a ratio is low, or
    why there is none.
    """

    suite: str
    case: str
    ours: float
    against: float | None
    against_name: str
    ratio: float | None
    unit: str
    repeats: int
    target: float | None
    holds: bool | None
    reason: str | None = None

    def print(self) -> None:
        """Write the JSON line."""
        values = asdict(self)
        values[values.pop("against_name")] = values.pop("against")
        kept = {key: value for key, value in values.items() if value is not None}
        print(json.dumps(kept), flush=True)


def repeating(operation: Callable[[], object], operations: int = 1) -> Contender:
    """A contender that calls `operation` again and again; each call counts for `operations`."""

    def run(seconds: float) -> float:
        count = 0
        began = time.perf_counter()
        until = began + seconds
        while (now := time.perf_counter()) < until:
            operation()
            count += operations
        return count / (now - began)

    return run


def compare(
    suite: str,
    case: str,
    ours: Contender,
    against: Contender,
    *,
    against_name: str = "direct",
    target: float | None = None,
    least: float | None = None,
    unit: str = "operations/s",
    turns: int = 12,
    turn: float = TURN,
) -> Result:
    """Let both take turns, the first one alternating, and compare. A warm-up turn of each is not counted.

    `target` is the least ratio; or `least`, the least rate of ours.
    """
    sys.stderr.write(f"{suite}: {case} ...")
    sys.stderr.flush()
    ours(turn)
    against(turn)
    pairs: list[tuple[float, float]] = []
    for number in range(turns):
        if number % 2:
            theirs = against(turn)
            pairs.append((ours(turn), theirs))
        else:
            mine = ours(turn)
            pairs.append((mine, against(turn)))
    ratio = statistics.median(mine / theirs for mine, theirs in pairs)
    rate = statistics.median(mine for mine, _ in pairs)
    holds = None if target is None else ratio >= target
    if least is not None:
        target, holds = least, rate >= least
    result = Result(
        suite=suite,
        case=case,
        ours=round(rate, 1),
        against=round(statistics.median(theirs for _, theirs in pairs), 1),
        against_name=against_name,
        ratio=round(ratio, 3),
        unit=unit,
        repeats=turns,
        target=target,
        holds=holds,
    )
    verdict = "" if target is None else f"  (target {target}: {'holds' if result.holds else 'MISSED'})"
    sys.stderr.write(f" {result.ratio}{verdict}\n")
    return result
