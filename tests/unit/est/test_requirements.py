"""The table of requirements: current, with tests that exist, and none of level must without one."""

import ast
import importlib.util
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[3]
ROWS = tomllib.loads((ROOT / "docs/est/requirements.toml").read_text())


def names_in(path: Path) -> set[str]:
    return {one.name for one in ast.walk(ast.parse(path.read_text())) if isinstance(one, ast.FunctionDef)}


def test_every_named_test_exists() -> None:
    for row in ROWS.values():
        for test in row["tests"]:
            path, _, name = test.partition("::")
            assert name in names_in(ROOT / path), test


def test_no_must_is_without_a_test_and_every_gap_is_explained() -> None:
    for name, row in ROWS.items():
        assert row["level"] in {"must", "should", "optional"}
        assert row["tests"] or row.get("gap"), name
        assert row["tests"] or row["level"] != "must", name


def test_the_page_is_current() -> None:
    spec = importlib.util.spec_from_file_location("est_generate", ROOT / "docs/est/generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    assert (ROOT / "docs/est/requirements.md").read_text() == generate.page()
