"""The page that leads from each decision of the resource model to its module and test: all of them are there."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/resource-model.md").read_text()
MODULES = sorted(set(re.findall(r"`(hsmbridge/[\w/.]+)`", PAGE)))
TESTS = sorted(set(re.findall(r"`(tests/[\w/.]+)(?:::(\w+))?`", PAGE)))
ON_EACH_PROVIDER = sorted(set(re.findall(r"● `(tests/[\w/.]+)::(\w+)`", PAGE)))
RECORDS = sorted(set(re.findall(r"\]\((decisions/[\w.-]+)\)", PAGE)))
OTHERWISE = ("too-long-is-refused", "versions-have-states", "answers-its-version", "messagepack", "ids-are-random")


@cache
def defined_in(path: str) -> dict[str, ast.stmt]:
    """What a file defines or assigns at its top."""
    found: dict[str, ast.stmt] = {}
    for node in ast.parse((ROOT / path).read_text()).body:
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                found[name] = node
            case ast.Assign(targets=[ast.Name(id=name)]):
                found[name] = node
            case _:
                continue
    return found


@pytest.mark.parametrize("path", MODULES)
def test_a_module_that_is_named_is_there(path: str) -> None:
    assert (ROOT / path).exists()


@pytest.mark.parametrize(("path", "name"), TESTS, ids=lambda part: part.removeprefix("tests/"))
def test_a_test_that_is_named_is_there(path: str, name: str) -> None:
    assert not name or name in defined_in(path)


@pytest.mark.parametrize(("path", "name"), ON_EACH_PROVIDER, ids=lambda part: part.removeprefix("tests/"))
def test_what_is_said_to_run_on_each_provider_takes_one(path: str, name: str) -> None:
    function = defined_in(path)[name]
    assert isinstance(function, ast.FunctionDef)
    assert "provider" in {argument.arg for argument in function.args.args}


@pytest.mark.parametrize("path", RECORDS)
def test_a_record_that_is_named_is_there(path: str) -> None:
    assert (ROOT / "docs" / path).exists()


def test_what_was_decided_otherwise_has_its_record() -> None:
    assert [part for part in OTHERWISE if not any(part in path for path in RECORDS)] == []
    rows = [line for line in PAGE.splitlines() if line.startswith("|")]
    without_test = [row for row in rows if "`tests/" not in row and "---" not in row and "Shown by" not in row]
    assert without_test == []
