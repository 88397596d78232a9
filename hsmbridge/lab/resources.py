"""Where the lab finds what it runs: the scripts of `softhsm-config/` and `tpm-sim/`, and the programs under them.

A wheel carries the scripts inside this package; in a checkout they stand at its top, where they are used by hand.
"""

import runpy
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

from hsmbridge.core.errors import RequestError, Status

SCRIPT_TIMEOUT = 60.0
"""Seconds that a script may take; each takes well under one, and some machines are busy."""

_PLACES = (Path(__file__).resolve().parent, Path(__file__).resolve().parents[2])


def script(folder: str, name: str) -> Path:
    """The script `name` of `folder`, such as ("tpm-sim", "start"). Raises RequestError (INVALID_CONFIGURATION)."""
    for place in _PLACES:
        found = place / folder / name
        if found.is_file():
            return found
    raise _missing(f"{folder}/{name} is neither beside the package nor in it", "install hsmbridge again")


def run_script(path: Path, *arguments: str | Path) -> str:
    """Run one of the scripts and answer what it printed.

    Raises:
        RequestError: INVALID_CONFIGURATION with what the script said, where it failed.
    """
    # The shell scripts need only sh; provision has to run on an interpreter that is there: this one.
    interpreter = (sys.executable, "-I") if path.name == "provision" else ("/bin/sh",)
    try:
        ended = subprocess.run(
            (*interpreter, path, *arguments),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=SCRIPT_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise RequestError(
            Status.INVALID_CONFIGURATION, f"{path} did not end within {SCRIPT_TIMEOUT:.0f} seconds."
        ) from None
    if ended.returncode != 0:
        raise RequestError(Status.INVALID_CONFIGURATION, ended.stderr.strip() or f"{path} failed and said nothing.")
    return ended.stdout.strip()


@cache
def softhsm_module() -> Path:
    """The PKCS#11 module of SoftHSM. Raises RequestError (INVALID_CONFIGURATION) where it is not installed."""
    # The script stands alone, so the list of places is there and nowhere else.
    for candidate in runpy.run_path(str(script("softhsm-config", "provision")))["MODULES"]:
        if Path(candidate).exists():
            return Path(candidate)
    raise _missing("SoftHSM is not installed", "on Debian: apt-get install softhsm2")


def require_swtpm() -> None:
    """Raises RequestError (INVALID_CONFIGURATION) where swtpm is not installed."""
    if shutil.which("swtpm") is None:
        raise _missing("swtpm is not installed", "on Debian: apt-get install swtpm swtpm-tools tpm2-tools")


def _missing(what: str, remedy: str) -> RequestError:
    return RequestError(Status.INVALID_CONFIGURATION, f"{what}; {remedy}.")
