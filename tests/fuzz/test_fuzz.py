"""Whatever anybody sends is read or refused as it should be: with nothing else raised, in bounded memory and time."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS

ROOT = Path(__file__).parents[2]


def _run(*command: str) -> tuple[int, str]:
    """What a program ends with, and all that it says; the fuzzer tells of an exception on standard output."""
    ended = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    return ended.returncode, ended.stdout


def _fuzz(name: str, runs: int, seed: int, found: Path) -> None:
    status, said = _run("-m", "tests.fuzz", name, f"--runs={runs}", f"--seed={seed}", f"--found={found}")
    inputs = [f"{one.name}: {one.read_bytes().hex()}" for one in found.iterdir()]
    assert status == 0, "\n".join((said[-6000:], *inputs, f"seed {seed}"))
    assert not inputs
    executed = re.search(r"number_of_executed_units: (\d+)", said)
    assert executed is not None
    assert int(executed[1]) >= runs


# A reader with a fault, and how it is found: by what it raises, takes, or keeps others waiting for.
BROKEN = """
import argparse, importlib, pathlib, sys
from tests.fuzz.__main__ import fuzz
from tests.fuzz import target
target.SECONDS = 0.05
faults = {
    "raises": lambda data: data.decode("ascii"),
    "takes memory": lambda data: bytes(len(data) << 26),
    "takes time": lambda data: sum(range(20_000_000)),
}
readers = (target.Reader("broken", faults[sys.argv[1]], [b"sound"]),)
fuzzer = importlib.import_module(sys.argv[2]) if sys.argv[2] else None
arguments = argparse.Namespace(runs=10_000, seed=1, corpus=None, found=pathlib.Path(sys.argv[3]))
fuzz(target.Target(readers, refusals=(LookupError,)), fuzzer, arguments)
"""


@pytest.mark.parametrize(
    ("fault", "told"),
    [("raises", "UnicodeDecodeError"), ("takes memory", "MemoryError"), ("takes time", "reading one broken took")],
)
def test_a_reader_with_a_fault_is_found(fault: str, told: str, tmp_path: Path) -> None:
    guided = "atheris" if importlib.util.find_spec("atheris") else ""
    for fuzzer in {"", guided}:
        found = tmp_path / f"found {fuzzer}"
        found.mkdir()
        status, said = _run("-c", BROKEN, fault, fuzzer, str(found))
        assert status != 0
        assert told in said
        assert [one.read_bytes() for one in found.iterdir()]


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_is_raised_but_refusals(name: str, tmp_path: Path) -> None:
    _fuzz(name, TARGETS[name].always, 1, tmp_path)


@pytest.mark.all
@pytest.mark.timeout(6 * 3600)
@pytest.mark.parametrize("name", TARGETS)
def test_nothing_is_raised_but_refusals_in_millions_of_inputs(name: str, tmp_path: Path) -> None:
    _fuzz(name, TARGETS[name].long, 1 + int.from_bytes(os.urandom(3)), tmp_path)
