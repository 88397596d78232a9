"""Who is alive: known from the kernel, not from process ids."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hsmbridge.storage.owners import FileOwners

PROGRAM = """
import sys
from pathlib import Path
from hsmbridge.storage.owners import FileOwners
print(FileOwners(Path(sys.argv[1])).incarnation, flush=True)
sys.stdin.read()
"""


def start(directory: Path) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(directory)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def test_a_process_is_alive_until_it_ends_however_it_ends(tmp_path: Path) -> None:
    owners = FileOwners(tmp_path)
    process, other = start(tmp_path)
    with process:
        assert owners.is_alive(other)
        assert owners.is_alive(other), "asking does not take it away"
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=10)
        assert not owners.is_alive(other)
        assert not owners.is_alive(other)
    owners.close()


def test_a_killed_process_that_nobody_has_waited_for_is_dead(tmp_path: Path) -> None:
    owners = FileOwners(tmp_path)
    process, other = start(tmp_path)
    with process:
        pidfd = os.pidfd_open(process.pid)
        process.send_signal(signal.SIGKILL)
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT)
        assert not owners.is_alive(other)
        os.close(pidfd)
    owners.close()


def test_an_owner_knows_itself_alive_and_others_of_its_process_too(tmp_path: Path) -> None:
    first, second = FileOwners(tmp_path), FileOwners(tmp_path)
    assert first.incarnation != second.incarnation
    assert first.is_alive(first.incarnation)
    assert first.is_alive(second.incarnation)
    second.close()
    assert not first.is_alive(second.incarnation)
    first.close()
    first.close()


@pytest.mark.parametrize("name", ["", "0" * 32, "../../etc/passwd", "." * 32, "0" * 33])
def test_a_name_that_nobody_has_is_dead(tmp_path: Path, name: str) -> None:
    owners = FileOwners(tmp_path)
    assert not owners.is_alive(name)
    owners.close()


def test_what_dead_processes_left_is_removed_and_what_living_ones_hold_is_not(tmp_path: Path) -> None:
    (tmp_path / ("a" * 32)).touch()
    (tmp_path / ".starting-x").touch()
    living, owners = FileOwners(tmp_path), FileOwners(tmp_path)
    owners.forget_dead()
    assert {path.name for path in tmp_path.iterdir()} == {living.incarnation, owners.incarnation}
    assert owners.is_alive(living.incarnation)
    living.close()
    owners.close()
    assert list(tmp_path.iterdir()) == []
