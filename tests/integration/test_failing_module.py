"""A vendor module that hangs, crashes, locks its PIN or loses it: typed errors, a new host, everybody else served."""

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hsmbridge.client import CryptoStack, KeyOperationPermission
from hsmbridge.core.errors import HsmBridgeError, ProviderError, Status
from hsmbridge.lab.lab import Lab
from hsmbridge.lab.options import LabOptions
from tests.faulty_module import ALWAYS, CKR_PIN_LOCKED, FaultyModule

ALGORITHM = "ECDSA-P256-SHA256"
PERMISSIONS = KeyOperationPermission.SIGN | KeyOperationPermission.VERIFY
HANGS = 5


@pytest.fixture
def module() -> Iterator[FaultyModule]:
    directory = Path(tempfile.mkdtemp(prefix="hb", dir="/tmp"))
    yield FaultyModule.build(directory / "faulty")
    shutil.rmtree(directory)


@pytest.fixture
def lab(module: FaultyModule) -> Iterator[Lab]:
    """A lab whose provider softhsm goes through the faulty module."""
    with Lab.start(LabOptions(tpm=False)) as lab:
        lab.stop_daemon()
        lab.config.write_text(lab.config.read_text().replace(str(lab.token.module), str(module.path)))
        lab.start_daemon()
        with lab.stack() as stack:
            for provider in ("softhsm", "software"):
                stack.create_slot(provider, "EC-P256", PERMISSIONS, providers=[provider])
                stack.sign(provider, ALGORITHM, b"message")
        yield lab


def _refusal(stack: CryptoStack, *, timeout: float) -> HsmBridgeError:
    with pytest.raises(ProviderError) as refused:
        stack.sign("softhsm", ALGORITHM, b"message", timeout=timeout)
    return refused.value


def _descriptors(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


@pytest.mark.timeout(180)
def test_a_call_that_hangs_times_out_its_host_is_replaced_and_nothing_is_leaked(lab: Lab, module: FaultyModule) -> None:
    with lab.stack() as stack:
        worker = stack.status().pid
        before = 0
        for number in range(HANGS):
            host = lab.provider("softhsm").pid
            module.hang("C_Sign", 60)
            began = time.monotonic()
            assert _refusal(stack, timeout=0.5).status is Status.OPERATION_TIMED_OUT
            assert time.monotonic() - began < 1.0
            stack.sign("software", ALGORITHM, b"others are served meanwhile")
            lab.wait_until_available(["softhsm"], replaced=host)
            stack.sign("softhsm", ALGORITHM, b"and so is this slot")
            if number == 0:
                before = _descriptors(worker)
        assert stack.status().pid == worker
        assert _descriptors(worker) <= before


@pytest.mark.timeout(120)
def test_a_module_that_crashes_takes_its_host_along_and_nobody_else(lab: Lab, module: FaultyModule) -> None:
    with lab.stack() as stack:
        worker, host = stack.status().pid, lab.provider("softhsm").pid
        module.crash("C_Sign")
        assert _refusal(stack, timeout=10).status is Status.PROVIDER_UNAVAILABLE
        stack.sign("software", ALGORITHM, b"message")
        lab.wait_until_available(["softhsm"], replaced=host)
        stack.verify("softhsm", ALGORITHM, b"message", stack.sign("softhsm", ALGORITHM, b"message"))
        assert stack.status().pid == worker


@pytest.mark.timeout(120)
def test_a_locked_token_says_who_unlocks_it_and_its_pin_is_not_tried_again(lab: Lab, module: FaultyModule) -> None:
    lab.stop_daemon()
    module.fail("C_Login", CKR_PIN_LOCKED, ALWAYS)
    logins = module.calls("C_Login")
    with pytest.raises(ProviderError):
        lab.start_daemon(timeout=3)
    lab.wait_until_available(["software"])
    with lab.stack() as stack:
        reason = lab.provider("softhsm").reason
        assert "locked" in reason
        assert str(lab.directory) not in reason
        with pytest.raises(HsmBridgeError) as refused:
            stack.sign("softhsm", ALGORITHM, b"message")
        assert refused.value.status is Status.PIN_LOCKED
        assert module.calls("C_Login") == logins + 1
        module.heal("C_Login")
        os.kill(stack.status().supervisor_pid, signal.SIGHUP)
        lab.wait_until_available(["softhsm"])
        stack.sign("softhsm", ALGORITHM, b"nothing was lost")


@pytest.mark.timeout(120)
def test_a_wrong_pin_is_tried_once_until_it_is_corrected_and_reloaded(lab: Lab, module: FaultyModule) -> None:
    lab.stop_daemon()
    right = lab.token.pin_file.read_text()
    lab.token.pin_file.write_text("0000-wrong")
    logins = module.calls("C_Login")
    with pytest.raises(ProviderError):
        lab.start_daemon(timeout=3)
    lab.wait_until_available(["software"])
    with lab.stack() as stack:
        with pytest.raises(HsmBridgeError) as refused:
            stack.sign("softhsm", ALGORITHM, b"message")
        assert refused.value.status is Status.PIN_INCORRECT
        assert "0000-wrong" not in lab.log.read_text() + refused.value.message
        assert module.calls("C_Login") == logins + 1
        lab.token.pin_file.write_text(right)
        os.kill(stack.status().supervisor_pid, signal.SIGHUP)
        lab.wait_until_available(["softhsm"])
        stack.sign("softhsm", ALGORITHM, b"nothing was lost")


@pytest.mark.timeout(120)
def test_a_module_that_is_gone_is_named_as_such_and_its_slots_wait_for_it(lab: Lab, module: FaultyModule) -> None:
    lab.stop_daemon()
    moved = module.path.rename(module.path.with_suffix(".away"))
    with pytest.raises(ProviderError):
        lab.start_daemon(timeout=3)
    lab.wait_until_available(["software"])
    with lab.stack() as stack:
        assert "module cannot be loaded" in lab.provider("softhsm").reason
        assert stack.show_slot("softhsm", probe=True).versions[0].unavailable
        moved.rename(module.path)
        os.kill(stack.status().supervisor_pid, signal.SIGHUP)
        lab.wait_until_available(["softhsm"])
        stack.sign("softhsm", ALGORITHM, b"nothing was lost")
