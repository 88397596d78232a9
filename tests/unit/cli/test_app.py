"""How a command line ends: exit codes, one line of error, JSON, and nothing loaded that is not needed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hsmbridge.cli.app import COMMANDS
from hsmbridge.core.errors import STATUS_TABLE, Status
from tests.unit.cli.command import hsmbridge

MISSING = "/tmp/hb-no-such-daemon.sock"
EXPECTED = {
    "serve",
    "status",
    "doctor",
    "providers",
    "slot",
    "sign",
    "verify",
    "encrypt",
    "decrypt",
    "mac",
    "agree",
    "derive",
    "encapsulate",
    "wrap",
    "unwrap",
    "decapsulate",
    "cert",
    "trust",
    "crl",
    "digest",
    "random",
    "pkcs11",
    "ssh-agent",
    "config",
    "lab",
}


def test_every_command_is_there_and_explains_itself() -> None:
    assert set(COMMANDS) == EXPECTED
    for name in COMMANDS:
        ended = hsmbridge(name, "--help")
        assert ended.code == 0
        assert ended.text.startswith(f"Usage: hsmbridge {name}")


@pytest.mark.parametrize("name", ["create", "list", "show", "rotate", "revoke", "destroy", "grant", "ungrant"])
def test_every_slot_command_is_there(name: str) -> None:
    assert hsmbridge("slot", name, "--help").code == 0


def test_the_version_is_told() -> None:
    assert hsmbridge("--version").text.startswith("hsmbridge, version ")


def test_an_error_is_one_line_and_an_exit_code_of_the_table() -> None:
    ended = hsmbridge("status", "--socket", MISSING)
    assert ended.code == STATUS_TABLE[Status.DAEMON_UNREACHABLE].exit_code == 12
    assert ended.stdout == b""
    assert ended.stderr.startswith(f"hsmbridge: No daemon answers at {MISSING}; start it")
    assert ended.stderr.count("\n") == 1


def test_with_json_an_error_is_a_document() -> None:
    ended = hsmbridge("status", "--socket", MISSING, "--json")
    assert ended.code == 12
    assert ended.problem["status"] == "DAEMON_UNREACHABLE"
    assert ended.problem["code"] == "0x01020006"
    assert ended.problem["exit_code"] == 12


@pytest.mark.parametrize(
    "arguments", [("sing",), ("sign",), ("sign", "--slot", "web", "--algorythm", "x"), ("random", "many")]
)
def test_a_command_that_makes_no_sense_ends_with_2(arguments: tuple[str, ...]) -> None:
    ended = hsmbridge(*arguments)
    assert ended.code == 2
    assert ended.stderr.startswith("hsmbridge: ")
    assert ended.stderr.count("\n") == 1
    assert hsmbridge(*arguments, "--json").problem["exit_code"] == 2


def test_no_arguments_show_the_help() -> None:
    ended = hsmbridge()
    assert ended.code == 2
    assert "Usage: hsmbridge" in ended.text + ended.stderr


def test_exit_codes_follow_the_category() -> None:
    for status, row in STATUS_TABLE.items():
        if status is Status.OK:
            assert row.exit_code == 0
        elif status is Status.SIGNATURE_INVALID:
            assert row.exit_code == 1
        else:
            assert row.exit_code == 10 + status.category


def test_every_exit_code_is_documented() -> None:
    page = (Path(__file__).parents[3] / "docs" / "cli.md").read_text()
    for code in {row.exit_code for row in STATUS_TABLE.values()} | {2, 130}:
        assert f"| {code} |" in page


def run_process(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **environment},
    )


def test_a_call_loads_nothing_heavy() -> None:
    program = f"""
import sys
from hsmbridge.cli.app import run
try:
    run(["sign", "--slot", "web", "--socket", {MISSING!r}])
except SystemExit:
    pass
print(sorted({{name.partition(".")[0] for name in sys.modules}}))
"""
    loaded = run_process("-c", program).stdout
    for heavy in ("rich", "sqlalchemy", "cryptography", "alembic", "structlog", "uvloop", "asyncio", "tpm2_pytss"):
        assert f"'{heavy}'" not in loaded


def test_output_that_nobody_reads_is_no_error() -> None:
    command = f"{sys.executable} -m hsmbridge.cli --help | true; echo ${{PIPESTATUS[0]}}"
    ended = subprocess.run(
        ["/bin/bash", "-c", command],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert ended.stderr == ""
    assert ended.stdout.strip() in {"0", "141"}


def test_the_module_runs_like_the_command() -> None:
    assert run_process("-m", "hsmbridge.cli", "--version").stdout.startswith("hsmbridge, version ")
