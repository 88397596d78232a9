"""The demo of the README: what a person sees first must never be broken. Every row is checked by openssl."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.timeout(300)
def test_every_row_of_the_demo_holds() -> None:
    demo = subprocess.run(
        [sys.executable, ROOT / "tests" / "demo" / "main.py"], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert demo.returncode == 0, demo.stdout + demo.stderr
