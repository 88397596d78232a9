"""The examples of docs/python-client.md, run one after the other as the page says."""

import re
import subprocess
import sys
from pathlib import Path

from hsmbridge.client import KeyOperationPermission as P
from hsmbridge.lab.lab import Lab
from hsmbridge.lab.options import LabOptions

PAGE = Path(__file__).resolve().parents[2] / "docs/python-client.md"


def test_the_examples_of_the_python_client_run() -> None:
    examples = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert len(examples) >= 9
    with Lab.start(LabOptions(tpm=False)) as lab:
        with lab.stack() as stack:
            stack.create_slot("web", "EC-P256", P.SIGN | P.VERIFY, providers=["softhsm"])
        command = (sys.executable, "-W", "error", "-c", "\n".join(examples))
        done = subprocess.run(command, env=lab.environment, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stderr) == (0, "")
