"""The ground that everything stands on: the lock, the scripts, and what they promise."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "requirements.lock"
BUILD_CONSTRAINTS = ROOT / "build-constraints.txt"
BASH_SCRIPTS = ["dev", ".ci/run"]
SH_SCRIPTS = ["tpm-sim/start", "tpm-sim/stop", "tpm-sim/restart", "tpm-sim/status"]
COMMANDS = ["setup", "demo", "test", "check", "bench", "docs", "lock"]

# What the source distribution of tpm2-pytss asks for when it is compiled.
TPM2_PYTSS_BUILD = ["setuptools", "setuptools-scm", "pkgconfig", "pycparser", "cffi", "cryptography", "packaging"]


def pins(path: Path) -> dict[str, tuple[Version, int]]:
    """The version of each pinned name, and the number of its hashes."""
    found: dict[str, tuple[Version, int]] = {}
    for entry in re.split(r"(?<!\\)\n", path.read_text()):
        match = re.match(r"([A-Za-z0-9._-]+)==([^\s;\\]+)", entry)
        if match:
            found[canonicalize_name(match[1])] = (Version(match[2]), entry.count("--hash=sha256:"))
    return found


def project() -> dict[str, object]:
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert isinstance(table, dict)
    return table


def declared() -> Iterator[Requirement]:
    table = project()
    groups = [table["dependencies"]]
    extras = table["optional-dependencies"]
    assert isinstance(extras, dict)
    groups.extend(extras.values())
    for group in groups:
        assert isinstance(group, list)
        yield from map(Requirement, group)


@pytest.mark.parametrize("requirement", list(declared()), ids=lambda requirement: requirement.name)
def test_every_declared_dependency_is_locked_at_a_version_that_it_allows(requirement: Requirement) -> None:
    version, _ = pins(LOCK)[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(version, prereleases=True)


@pytest.mark.parametrize("path", [LOCK, BUILD_CONSTRAINTS], ids=lambda path: path.name)
def test_every_pin_has_a_hash(path: Path) -> None:
    assert pins(path)
    assert [name for name, (_, hashes) in pins(path).items() if not hashes] == []


@pytest.mark.parametrize("path", [LOCK, BUILD_CONSTRAINTS], ids=lambda path: path.name)
def test_the_lock_names_no_address(path: Path) -> None:
    text = path.read_text()
    assert "://" not in text
    assert not re.search(r"^\s*(-i|-f|--(extra-)?index-url|--find-links|--trusted-host)\b", text, re.MULTILINE)


def test_what_builds_a_package_is_pinned_too() -> None:
    system = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]
    needed = [Requirement(text).name for text in system["requires"]] + TPM2_PYTSS_BUILD + ["editables", "uv"]
    assert [name for name in needed if canonicalize_name(name) not in pins(BUILD_CONSTRAINTS)] == []


def test_both_lists_agree_on_what_is_in_both() -> None:
    lock, constraints = pins(LOCK), pins(BUILD_CONSTRAINTS)
    assert {name: lock[name][0] for name in lock.keys() & constraints.keys()} == {
        name: constraints[name][0] for name in lock.keys() & constraints.keys()
    }


@pytest.mark.parametrize("script", [*BASH_SCRIPTS, *SH_SCRIPTS, "softhsm-config/provision"])
def test_a_script_is_executable_and_says_what_runs_it(script: str) -> None:
    path = ROOT / script
    assert os.access(path, os.X_OK)
    assert path.read_bytes().startswith(b"#!/")


@pytest.mark.parametrize("script", SH_SCRIPTS)
def test_a_shell_script_parses(script: str) -> None:
    subprocess.run(["sh", "-n", ROOT / script], check=True, timeout=30)


@pytest.mark.parametrize("script", BASH_SCRIPTS)
def test_a_bash_script_parses(script: str) -> None:
    subprocess.run(["bash", "-n", ROOT / script], check=True, timeout=30)


def dev(*arguments: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ)
    if path:
        environment["PATH"] = f"{path}:{environment['PATH']}"
    return subprocess.run(
        [ROOT / "dev", *arguments], capture_output=True, text=True, timeout=60, check=False, env=environment
    )


def test_dev_lists_its_commands() -> None:
    answer = dev("help")
    assert answer.returncode == 0
    assert [command for command in COMMANDS if f"\n  {command} " not in answer.stdout] == []


def test_dev_refuses_a_command_that_it_does_not_have() -> None:
    answer = dev("tset")
    assert answer.returncode == 1
    assert "there is no command 'tset'" in answer.stderr
    assert answer.stdout == ""


def program(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_without_root_and_with_a_package_missing_setup_says_what_to_run(tmp_path: Path) -> None:
    known = "for name in gcc swtpm; do printf 'installed %s\\n' $name; done"
    program(tmp_path, "dpkg-query", known)
    program(tmp_path, "id", "echo 1000")
    program(tmp_path, "sudo", "exit 1")
    answer = dev("setup", path=tmp_path)
    assert answer.returncode == 1
    line = next(line for line in answer.stderr.splitlines() if "apt-get" in line)
    assert "apt-get update && apt-get install --no-install-recommends" in line
    assert "softhsm2" in line.split()
    assert "gcc" not in line.split()


def pytest_in(folder: Path, text: str, *options: str) -> tuple[subprocess.CompletedProcess[str], str]:
    """Run the text as a test under this repository's settings; also what --counts wrote."""
    (folder / "tests").mkdir()
    shutil.copy(ROOT / "pyproject.toml", folder)
    shutil.copy(ROOT / "tests" / "conftest.py", folder / "tests")
    (folder / "tests" / "test_it.py").write_text(text)
    counts = folder / "counts"
    command: list[str | Path] = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--counts", counts, *options]
    answer = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    return answer, counts.read_text()


@pytest.mark.parametrize("options", [[], ["-n", "2"]], ids=["one process", "two workers"])
def test_a_skip_fails_the_run(tmp_path: Path, options: list[str]) -> None:
    text = "import pytest\ndef test_a(): pass\ndef test_b(): pytest.skip('no')\n"
    answer, counts = pytest_in(tmp_path, text, *options)
    assert answer.returncode == 1
    assert "a skip is a failure here: 1 skipped" in answer.stdout
    assert counts == "1 1 0\n"


LONG = "import pytest\n@pytest.mark.all\ndef test_long(): pass\ndef test_short(): pass\n"


@pytest.mark.parametrize("options", [[], ["-n", "2"]], ids=["one process", "two workers"])
def test_long_runs_are_left_out_by_name(tmp_path: Path, options: list[str]) -> None:
    answer, counts = pytest_in(tmp_path, LONG, *options)
    assert answer.returncode == 0
    assert "deselected: --all set: 1 tests" in answer.stdout
    assert counts == "1 0 1\n"


def test_all_runs_the_long_ones_too(tmp_path: Path) -> None:
    answer, counts = pytest_in(tmp_path, LONG, "--all")
    assert answer.returncode == 0
    assert counts == "2 0 0\n"


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("hsmbridge.core.probe", "hsmbridge.wire"),
        ("hsmbridge.wire.probe", "hsmbridge.client"),
        ("hsmbridge.client.probe", "hsmbridge.storage"),
        ("hsmbridge.providers.probe", "hsmbridge.storage"),
        ("hsmbridge.engine.probe", "hsmbridge.service"),
        ("hsmbridge.frontends.probe", "hsmbridge.cli"),
        ("hsmbridge.frontends.probe", "hsmbridge.providers"),
        ("hsmbridge.frontends.probe", "hsmbridge.keys"),
        ("hsmbridge.cli.probe", "est"),
        ("est.probe", "hsmbridge.wire"),
        ("est.probe", "hsmbridge.cli"),
        ("hsmbridge.room_without_a_rank", "hsmbridge.core"),
    ],
)
def test_an_import_against_the_ranks_is_refused(tmp_path: Path, importer: str, imported: str) -> None:
    """The contracts of pyproject.toml, on packages of the same names that are otherwise empty."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for room in ("est", *(f"hsmbridge/{rank}" for rank in RANKED)):
        (tmp_path / room).mkdir(parents=True)
        (tmp_path / room / "__init__.py").touch()
    (tmp_path / "hsmbridge" / "__init__.py").touch()
    assert lint_imports(tmp_path) == 0
    (tmp_path / (importer.replace(".", "/") + ".py")).write_text(f"import {imported}\n")
    assert lint_imports(tmp_path) == 1


RANKED = ["core", "wire", "providers", "storage", "client", "keys", "engine", "service", "frontends", "cli"]


def lint_imports(folder: Path) -> int:
    """In a process of its own, without site-packages' editable hsmbridge getting in the way."""
    program = Path(sys.executable).with_name("lint-imports")
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    command: list[str | Path] = [program, "--no-cache"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, timeout=60, check=False).returncode


def test_the_package_has_the_version_that_the_project_declares() -> None:
    import hsmbridge

    assert hsmbridge.__version__ == project()["version"]
