"""Simulators from tpm-sim, one a directory, and the providers that tests open on them."""

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hsmbridge.providers.tpm import TpmProvider, TpmSettings, open_tpm

_TPM_SIM = Path(__file__).parents[4] / "tpm-sim"


class Rig:
    """One simulated TPM."""

    def __init__(self, directory: Path, *, manufacture: bool = False) -> None:
        self.directory = directory
        self.tcti = self._run("start", *(["--manufacture"] if manufacture else []))

    @property
    def settings(self) -> TpmSettings:
        return TpmSettings(tcti=self.tcti)

    def stop(self, *, kill: bool = False) -> None:
        self._run("stop", *(["--kill"] if kill else []))

    def start(self) -> None:
        self._run("start")

    def restart(self, *, kill: bool = False) -> None:
        self._run("restart", *(["--kill"] if kill else []))

    def _run(self, script: str, *options: str) -> str:
        done = subprocess.run(
            [_TPM_SIM / script, *options, self.directory], check=True, timeout=30, capture_output=True, text=True
        )
        return done.stdout.strip()


@pytest.fixture
def new_rig() -> Iterator[Callable[[], Rig]]:
    """Makes a TPM of its own each time."""
    rigs: list[Rig] = []

    def make() -> Rig:
        rigs.append(Rig(Path(tempfile.mkdtemp(prefix="hb", dir="/tmp"))))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.stop(kill=True)
        shutil.rmtree(rig.directory)


@pytest.fixture
def manufactured() -> Iterator[Callable[[], Rig]]:
    """Makes a TPM with a maker's certificates."""
    rigs: list[Rig] = []

    def make() -> Rig:
        rigs.append(Rig(Path(tempfile.mkdtemp(prefix="hb", dir="/tmp")), manufacture=True))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.stop(kill=True)
        shutil.rmtree(rig.directory)


@pytest.fixture
def rig(new_rig: Callable[[], Rig]) -> Rig:
    return new_rig()


@pytest.fixture
def tpm(rig: Rig) -> Iterator[TpmProvider]:
    """A provider on a TPM that nothing else uses."""
    provider = open_tpm(rig.settings)
    yield provider
    provider.close()


@pytest.fixture(scope="module")
def shared_rig() -> Iterator[Rig]:
    """A TPM for tests that leave it as it was."""
    rig = Rig(Path(tempfile.mkdtemp(prefix="hb", dir="/tmp")))
    yield rig
    rig.stop(kill=True)
    shutil.rmtree(rig.directory)


@pytest.fixture(scope="module")
def shared_tpm(shared_rig: Rig) -> Iterator[TpmProvider]:
    """A provider for tests that leave it as it was."""
    provider = open_tpm(shared_rig.settings)
    yield provider
    provider.close()
