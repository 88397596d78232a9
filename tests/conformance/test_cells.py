"""The published table says what is pinned, and what is pinned is proved: no cell is filled that no test runs."""

import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

from docs.generate import HEADS, REFERENCE, providers_page
from hsmbridge.core.algorithms import KeyOperation
from hsmbridge.core.key_types import KEY_TYPES
from tests.conformance.cells import PROOFS, Cell, pinned_cells, proved_cells
from tests.conformance.pinned import PINNED

_PUBLISHED = REFERENCE / "providers.md"
_ROW = re.compile(r"^\| `(?P<name>[^`]+)` \| (?P<cells>.*) \|$", re.MULTILINE)


def _suite() -> list[ModuleType]:
    found = sorted(Path(__file__).parent.glob("test_*.py"))
    return [import_module(f"{__package__}.{path.stem}") for path in found if path.stem != Path(__file__).stem]


def _filled(page: str, heading: str) -> Iterator[tuple[str, str, str]]:
    """Provider, row and word of each word in the table under a heading of a page."""
    table = page.split(f"## {heading}\n", maxsplit=1)[1].split("\n## ", maxsplit=1)[0]
    backends = {head: backend for backend, head in HEADS.items()}
    head = next(line for line in table.splitlines() if line.startswith("| "))
    columns = [backends.get(cell, cell) for cell in head.strip("| ").split(" | ")[1:]]
    for row in _ROW.finditer(table):
        for column, cell in zip(columns, row["cells"].split(" | "), strict=True):
            for word in filter(None, cell.strip().split(", ")):
                yield column, row["name"], word


def _cells(page: str) -> set[Cell]:
    return {(backend, name, KeyOperation(word)) for backend, name, word in _filled(page, "Algorithms")}


def _made(page: str) -> set[tuple[str, str, str]]:
    return set(_filled(page, "Key types"))


def test_every_pinned_cell_is_proved_by_a_test() -> None:
    proved = {cell for module in _suite() for cell in proved_cells(module)}
    assert sorted(set(pinned_cells()) - proved) == []


def test_every_proof_is_a_test_of_the_suite() -> None:
    suite = _suite()
    assert [name for name in PROOFS if not any(hasattr(module, name) for module in suite)] == []


def test_the_generated_table_has_the_pinned_cells_and_no_other() -> None:
    assert _cells(providers_page()) == set(pinned_cells())


def test_the_published_table_has_the_pinned_cells_and_no_other() -> None:
    difference = _cells(_PUBLISHED.read_text()) ^ set(pinned_cells())
    assert not difference, f"{len(difference)} cells differ, such as {min(difference)}: run ./dev docs"


def test_the_published_table_has_the_pinned_key_types_and_no_other() -> None:
    pinned = {(one.backend, name, "generated") for one in PINNED.values() for name in one.key_types}
    pinned |= {(one.backend, name, "imported") for one in PINNED.values() for name in one.imports}
    assert _made(providers_page()) == pinned
    assert _made(_PUBLISHED.read_text()) == pinned
    assert {name for _, name, _ in pinned} <= set(KEY_TYPES)
