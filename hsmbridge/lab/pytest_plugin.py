"""The lab as a pytest plugin: real tokens, TPMs and daemons as fixtures, for any suite that installs hsmbridge.

    def test_the_service_signs(hsmbridge_lab):
        with hsmbridge_lab.stack() as stack:
            stack.create_slot("web", "EC-P256", SIGN | VERIFY, providers=["tpm"])
            ...

pytest loads this module in every run, so nothing else is imported before a fixture is used.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from hsmbridge.lab.lab import Lab
    from hsmbridge.lab.options import LabOptions
    from hsmbridge.lab.rigs import SoftHsmToken, Swtpm


@pytest.fixture(scope="session")
def hsmbridge_lab_options() -> "LabOptions":
    """How `hsmbridge_lab` is to be; define a session-scoped fixture of this name to have it otherwise.

    For example `return LabOptions(workers=2, tpm=False)`, with LabOptions of `hsmbridge.lab.options`.
    """
    from hsmbridge.lab.options import LabOptions

    return LabOptions()


@pytest.fixture(scope="session")
def hsmbridge_lab(hsmbridge_lab_options: "LabOptions") -> "Iterator[Lab]":
    """A running daemon with the providers software, softhsm and tpm, one for the whole session.

    `hsmbridge_lab.stack()` is a client of it, `.socket` and `.config` are where its socket and configuration are, and
    `.environment` holds the variables for a subprocess. `kill_daemon()`, `kill_host(name)`, `kill_tpm()` and
    `restart_daemon()` are there for tests of what comes after a crash. Slots live as long as the session: give them
    names of your own. With pytest-xdist every worker process has a lab of its own.
    """
    from hsmbridge.lab.lab import Lab

    with Lab.start(hsmbridge_lab_options) as lab:
        yield lab


@pytest.fixture
def softhsm_token() -> "Iterator[SoftHsmToken]":
    """A fresh SoftHSM token: `configuration`, `module`, `label`, `pin_file`, `so_pin_file`, `uri`.

    Nothing is set globally: give a subprocess `environment`, which names the token's configuration for the module. A
    process that loads the module reads that variable once, so one process sees one token.
    """
    from hsmbridge.lab.places import temporary_directory
    from hsmbridge.lab.rigs import SoftHsmToken

    with temporary_directory() as directory:
        yield SoftHsmToken.make(directory / "token", "test")


@pytest.fixture
def swtpm() -> "Iterator[Swtpm]":
    """A fresh simulated TPM 2.0 that runs: `tcti`, `environment`, and `stop()`, `kill()`, `start()`, `restart()`.

    `tcti` is what tpm2-tools and tpm2-pytss take; `environment` holds it for tpm2-tools and for OpenSSL's tpm2
    provider. `restart()` is a machine's reboot: loaded keys are gone, persistent ones stay.
    """
    from hsmbridge.lab.places import temporary_directory
    from hsmbridge.lab.rigs import Swtpm

    with temporary_directory() as directory:
        tpm = Swtpm.make(directory / "tpm")
        try:
            yield tpm
        finally:
            tpm.stop()
