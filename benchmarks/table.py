"""The table of a run, for people: a line for each algorithm of a provider, a cell for each operation, and reasons."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.measure import Result
from benchmarks.reasons import duration

UNEXPLAINED = "NOTHING EXPLAINS THIS"
_MARKS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True)
class Entry:
    """A case and what came out."""

    provider: str
    algorithm: str
    operation: str
    result: Result

    @property
    def reason(self) -> str:
        """What has to be said of it, or ""."""
        return self.result.reason or (UNEXPLAINED if self.result.holds is False else "")


def table(entries: Sequence[Entry]) -> Iterator[str]:
    """Lines of text."""
    yield "Ratio of ours to the direct call (time of ours / of the direct call); letters: reasons, below each provider."
    for provider in dict.fromkeys(entry.provider for entry in entries):
        mine = [entry for entry in entries if entry.provider == provider]
        reasons = list(dict.fromkeys(entry.reason for entry in mine if entry.reason))
        marks = {reason: _MARKS[number % len(_MARKS)] for number, reason in enumerate(reasons)}
        yield ""
        yield provider
        yield from _aligned(list(_rows(mine, marks)))
        yield from (f"  {marks[reason]}: {reason}" for reason in reasons)


def _rows(entries: Sequence[Entry], marks: dict[str, str]) -> Iterator[Sequence[str]]:
    for name in dict.fromkeys(entry.algorithm for entry in entries):
        cells = [
            f"{entry.operation} {cell(entry, marks.get(entry.reason, ''))}"
            for entry in entries
            if entry.algorithm == name
        ]
        yield ("  " + name, *cells)


def cell(entry: Entry, mark: str) -> str:
    """Ratio, mark and the two times."""
    result = entry.result
    ratio = "-" if result.ratio is None else f"{result.ratio:.2f}"
    return f"{ratio}{mark} ({_time(result.ours)} / {_time(result.against)})"


def _time(rate: float | None) -> str:
    return duration(1e6 / rate) if rate else "-"


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    columns = max((len(row) for row in rows), default=0)
    full = [[*row, *[""] * (columns - len(row))] for row in rows]
    widths = [max(len(row[column]) for row in full) for column in range(columns)]
    for row in full:
        yield "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
