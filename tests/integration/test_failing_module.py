"""A vendor module that hangs, crashes, locks its PIN or loses it: typed errors, a new host, everybody else served."""

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pytest

from hsmbridge.client import CryptoStack, KeyOperationPermission
from hsmbridge.client.contexts import SignContext
from hsmbridge.core.contexts import ContextState
from hsmbridge.core.errors import HsmBridgeError, ProviderError, Status
from hsmbridge.lab.lab import Lab
from hsmbridge.lab.options import LabOptions
from tests.faulty_module import ALWAYS, CKR_PIN_LOCKED, FaultyModule

ALGORITHM = "ECDSA-P256-SHA256"
PERMISSIONS = KeyOperationPermission.SIGN | KeyOperationPermission.VERIFY
AT_ONCE = 25
DEADLINE = 0.5
PROMISED = 0.05
"""Seconds past its deadline in which a caller is answered."""
MARGIN = 10
"""By how much a crowded machine may miss that."""
SETTLED = 100
"""Hangs after which nothing new is allocated for the first time."""
LEAK_MAX = 16 * 1024 * 1024


@pytest.fixture
def module() -> Iterator[FaultyModule]:
    directory = Path(tempfile.mkdtemp(prefix="hb", dir="/tmp"))
    yield FaultyModule.build(directory / "faulty")
    shutil.rmtree(directory)


@pytest.fixture
def make_lab(module: FaultyModule) -> Iterator[Callable[[int], Lab]]:
    """Labs with so many threads whose provider softhsm goes through the faulty module."""
    with ExitStack() as labs:

        def make(threads: int) -> Lab:
            lab = labs.enter_context(Lab.start(LabOptions(tpm=False, threads=threads)))
            lab.stop_daemon()
            text = lab.config.read_text().replace(str(lab.token.module), str(module.path))
            lab.config.write_text(text.replace("threads =", f"sessions = {threads}\nthreads ="))
            lab.start_daemon()
            with lab.stack() as stack:
                for provider in ("softhsm", "software"):
                    stack.create_slot(provider, "EC-P256", PERMISSIONS, providers=[provider])
                    stack.sign(provider, ALGORITHM, b"message")
            return lab

        yield make


@pytest.fixture
def lab(make_lab: Callable[[int], Lab]) -> Lab:
    return make_lab(4)


def _refusal(stack: CryptoStack, *, timeout: float) -> HsmBridgeError:
    with pytest.raises(ProviderError) as refused:
        stack.sign("softhsm", ALGORITHM, b"message", timeout=timeout)
    return refused.value


@dataclass(frozen=True)
class Footprint:
    """What a daemon takes: the processes below its supervisor, the worker's and the supervisor's descriptors, bytes."""

    processes: int
    descriptors: int
    memory: int

    @classmethod
    def of(cls, worker: int, supervisor: int) -> Self:
        pids = (worker, supervisor)
        return cls(
            len(Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()),
            sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids),
            sum(_resident(pid) for pid in pids),
        )


def _resident(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _hang(stack: CryptoStack, module: FaultyModule) -> list[float]:
    """Have calls hang, as many as the provider has threads; the seconds that each caller waited past its deadline."""
    contexts = [stack.sign_context("softhsm", ALGORITHM, timeout=DEADLINE) for _ in range(AT_ONCE)]
    for context in contexts:
        context.update(b"message")
    module.hang("C_Sign", 60, AT_ONCE)

    def finalize(context: SignContext) -> float:
        began = time.monotonic()
        with pytest.raises(ProviderError) as refused:
            context.finalize()
        waited = time.monotonic() - began
        assert refused.value.status is Status.OPERATION_TIMED_OUT
        assert context.state is ContextState.ERROR
        context.close()
        return waited - DEADLINE

    with ThreadPoolExecutor(AT_ONCE) as threads:
        late = list(threads.map(finalize, contexts))
    assert module.pending("C_Sign") == 0
    return late


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("hangs", [50, pytest.param(1000, marks=pytest.mark.all)])
def test_calls_that_hang_time_out_their_host_is_replaced_and_nothing_is_leaked(
    module: FaultyModule, make_lab: Callable[[int], Lab], hangs: int
) -> None:
    lab = make_lab(AT_ONCE)
    late: list[float] = []
    with lab.stack() as stack:
        worker, supervisor = stack.status().pid, stack.status().supervisor_pid
        before = Footprint.of(worker, supervisor)
        settled = before
        while len(late) < hangs:
            host = lab.provider("softhsm").pid
            late += _hang(stack, module)
            stack.sign("software", ALGORITHM, b"others are served meanwhile")
            lab.wait_until_available(["softhsm"], replaced=host)
            stack.sign("softhsm", ALGORITHM, b"and so is this slot")
            if len(late) <= SETTLED:
                settled = Footprint.of(worker, supervisor)
        after, now = Footprint.of(worker, supervisor), stack.status()
        assert (now.pid, now.supervisor_pid, now.contexts) == (worker, supervisor, 0)
    assert after.processes == before.processes
    assert after.descriptors <= settled.descriptors
    assert after.memory - settled.memory < LEAK_MAX
    assert max(late) < PROMISED * MARGIN
    print(f"{len(late)} hangs, answered {1000 * max(late):.0f} ms past the deadline at the latest,")
    print(f"{1000 * sorted(late)[len(late) // 2]:.0f} ms in the middle; {before} before, {after} after")


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
