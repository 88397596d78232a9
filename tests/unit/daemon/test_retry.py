"""A provider inside the workers that could not be opened is tried again when the service is told to reload."""

import os
import signal
import time

import pytest

from hsmbridge.client import KeyOperationPermission
from hsmbridge.core.errors import HsmBridgeError, Status
from hsmbridge.lab.lab import Lab, LabUnusable
from hsmbridge.lab.options import LabOptions
from hsmbridge.providers.registry import Isolation

ALGORITHM = "ECDSA-P256-SHA256"
PATIENCE = 30.0


def supervisor_of(lab: Lab) -> int:
    with lab.stack() as stack:
        return stack.status().supervisor_pid


def pid_of_the_worker(lab: Lab) -> int:
    with lab.stack() as stack:
        return stack.status().pid


def reload_until(lab: Lab, state: str) -> None:
    """Tell the service to reload, once, and wait for a provider to be as it should."""
    os.kill(supervisor_of(lab), signal.SIGHUP)
    until = time.monotonic() + PATIENCE
    while lab.provider("softhsm").state != state:
        assert time.monotonic() < until, lab.provider("softhsm").reason


def test_a_module_that_was_missing_serves_after_a_reload_and_its_keys_with_it() -> None:
    with Lab.start(LabOptions(isolation=Isolation.THREAD, tpm=False)) as lab:
        with lab.stack() as stack:
            stack.create_slot("kept", "EC-P256", KeyOperationPermission.SIGN, providers=["softhsm"])
        lab.stop_daemon()
        away = lab.directory / "module.so"
        lab.config.write_text(lab.config.read_text().replace(str(lab.token.module), str(away)))
        with pytest.raises(LabUnusable):
            lab.start_daemon(timeout=0.1)
        lab.wait_until_available(["software"])
        assert lab.provider("softhsm").state == "unavailable"
        worker = pid_of_the_worker(lab)
        with lab.stack() as stack, pytest.raises(HsmBridgeError) as refused:
            stack.sign("kept", ALGORITHM, b"message")
        assert refused.value.status is not Status.OK
        away.symlink_to(lab.token.module)
        reload_until(lab, "available")
        with lab.stack() as stack:
            assert stack.sign("kept", ALGORITHM, b"message").version == 1
        # It was done in passing: nobody was disconnected for it.
        assert pid_of_the_worker(lab) == worker
