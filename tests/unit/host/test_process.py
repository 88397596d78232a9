"""What a host process does before it serves: hardening, locks and the log."""

import fcntl
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from hsmbridge.core.errors import Status
from hsmbridge.providers.host.spec import HostReport, HostSpec, write_spec
from hsmbridge.providers.registry import ProviderSpec

HARDENED = """
import ctypes, resource
from hsmbridge.providers.host.hardening import harden_process
harden_process()
print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), resource.getrlimit(resource.RLIMIT_CORE))
"""


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="hb", dir="/tmp") as directory:
        yield Path(directory)


def start(spec: HostSpec) -> tuple[HostReport, subprocess.CompletedProcess[str]]:
    """Run a real host that is expected to fail, and what it reported."""
    spec_fd = write_spec(spec, None)
    report_fd, status_fd = os.pipe()
    command = (sys.executable, "-P", "-m", "hsmbridge.providers.host")
    try:
        done = subprocess.run(
            (*command, "--spec-fd", str(spec_fd), "--status-fd", str(status_fd)),
            pass_fds=(spec_fd, status_fd),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        os.close(spec_fd)
        os.close(status_fd)
    with os.fdopen(report_fd, "rb") as report:
        return msgspec.msgpack.decode(report.read(), type=HostReport), done


def test_a_hardened_process_leaves_no_core_and_cannot_be_traced() -> None:
    done = subprocess.run((sys.executable, "-c", HARDENED), capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split(maxsplit=1) == ["0", "(0, 0)\n"]


def test_a_provider_that_cannot_be_opened_is_reported_and_logged_as_json(directory: Path) -> None:
    report, done = start(HostSpec(provider=ProviderSpec(name="p", uri="kms:nothing"), directory=str(directory)))
    assert done.returncode == 1
    assert report.status == Status.INVALID_CONFIGURATION
    assert "begins with none of" in report.message
    line = json.loads(done.stderr)
    assert (line["process"], line["provider"], line["incident"]) == ("host", "p", report.incident)


def test_a_held_lock_is_reported_and_the_provider_is_not_touched(directory: Path) -> None:
    spec = HostSpec(provider=ProviderSpec(name="p", uri="kms:nothing"), directory=str(directory))
    with spec.lock_path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        report, _ = start(spec)
    assert report.status == Status.PROVIDER_UNAVAILABLE
    assert "still held by another process" in report.message


def test_a_directory_that_is_not_there_is_reported_without_its_path(directory: Path) -> None:
    spec = HostSpec(provider=ProviderSpec(name="p", uri="kms:nothing"), directory=str(directory / "missing"))
    report, done = start(spec)
    assert report.status == Status.INVALID_CONFIGURATION
    assert str(directory) not in report.message
    assert str(directory) in done.stderr
