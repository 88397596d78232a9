"""What the commands print: one JSON document, or text for people, never both.

Tables have borders and colour on a terminal and are plain columns elsewhere. Text that came from elsewhere is
shown without control characters, which could tell a terminal anything.
"""

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import TypeVar

Json = str | int | float | bool | None | list["Json"] | dict[str, "Json"]

_T = TypeVar("_T")


def print_json(document: Json) -> None:
    """One JSON document on stdout."""
    print(json.dumps(document, ensure_ascii=False, indent=2 if sys.stdout.isatty() else None))


def print_line(text: str) -> None:
    """One line on stdout."""
    print(printable(text))


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on stdout."""
    cells = [[printable(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _print_rich(headings, cells)
    else:
        _print_columns([list(headings), *cells])


def print_list(
    found: Iterable[_T],
    *,
    as_json: bool,
    document: Callable[[_T], Json],
    headings: Sequence[str],
    row: Callable[[_T], Sequence[str]],
) -> None:
    """What was found: a JSON list of documents, or a table."""
    if as_json:
        print_json([document(one) for one in found])
    else:
        print_table(headings, [row(one) for one in found])


def print_removed(what: str, name: str, *, as_json: bool) -> None:
    """Say that something is gone."""
    if as_json:
        print_json({"name": name, "removed": True})
    else:
        print_line(f"removed {what} {name}")


def print_pairs(pairs: Sequence[tuple[str, str]]) -> None:
    """Names and their values on stdout, one pair a line; empty values are left out."""
    shown = [(name, printable(value)) for name, value in pairs if value]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        print(f"{name:<{width}}  {value}")


def printable(text: str) -> str:
    """`text` with every control character made visible."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def timestamp(seconds: float) -> str:
    """Seconds since 1970 as RFC 3339, to the second, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _print_rich(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*headings, box=box.SIMPLE_HEAD, header_style="bold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)


def _print_columns(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
