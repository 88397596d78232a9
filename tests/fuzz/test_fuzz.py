"""Whatever anybody sends is read or refused as it should be: with nothing else raised, in bounded memory and time."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS


def _fuzz(name: str, runs: int, seed: int, found: Path) -> None:
    command = (sys.executable, "-m", "tests.fuzz", name, f"--runs={runs}", f"--seed={seed}", f"--found={found}")
    ended = subprocess.run(
        command,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONHASHSEED": "0"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        check=False,
    )
    inputs = [f"{one.name}: {one.read_bytes().hex()}" for one in found.iterdir()]
    assert ended.returncode == 0, "\n".join((ended.stderr[-4000:], *inputs, f"seed {seed}"))
    assert not inputs
    executed = re.search(r"number_of_executed_units: (\d+)", ended.stderr)
    assert executed is not None
    assert int(executed[1]) >= runs


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_is_raised_but_refusals(name: str, tmp_path: Path) -> None:
    _fuzz(name, TARGETS[name].always, 1, tmp_path)


@pytest.mark.all
@pytest.mark.timeout(6 * 3600)
@pytest.mark.parametrize("name", TARGETS)
def test_nothing_is_raised_but_refusals_in_millions_of_inputs(name: str, tmp_path: Path) -> None:
    _fuzz(name, TARGETS[name].long, 1 + int.from_bytes(os.urandom(3)), tmp_path)
