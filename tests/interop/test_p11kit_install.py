"""`hsmbridge pkcs11`: the module file, the variable and the usual place lead p11-kit applications to the daemon."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.interop.p11kit_client import MODULE, Service, service

__all__ = ["service"]


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """An environment with folders of its own."""
    (tmp_path / "runtime").mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("P11_KIT")}
    return {**kept, "XDG_CONFIG_HOME": str(tmp_path / "config"), "XDG_RUNTIME_DIR": str(tmp_path / "runtime")}


def run(*command: str | Path, environment: dict[str, str]) -> str:
    ended = subprocess.run(
        [str(part) for part in command], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def hsmbridge(service: Service, *arguments: str, environment: dict[str, str]) -> str:
    return run(
        *(sys.executable, "-m", "hsmbridge.cli", "pkcs11", *arguments),
        environment={**environment, "HSMBRIDGE_CONFIG": str(service.lab.config)},
    )


def test_the_variable_leads_an_application_here(service: Service, home: dict[str, str]) -> None:
    exported = hsmbridge(service, "env", environment=home)
    said = run("bash", "-c", f'{exported}\npkcs11-tool --module "$PKCS11_MODULE_PATH" -L', environment=home)
    assert "token label        : tpm" in said


def test_a_module_file_leads_every_p11_kit_application_here(service: Service, home: dict[str, str]) -> None:
    hsmbridge(service, "install", "--user", environment=home)
    file = Path(home["XDG_CONFIG_HOME"]) / "pkcs11" / "modules" / "hsmbridge.module"
    assert f"remote: unix:path={service.socket}\n" in file.read_text()
    assert "trust-policy" not in file.read_text()
    hsmbridge(service, "install", "--user", "--trust", environment=home)
    assert "\ntrust-policy: yes\n" in file.read_text()
    hsmbridge(service, "uninstall", "--user", environment=home)
    assert not file.exists()


def test_the_usual_place_needs_no_variable_at_all(service: Service, home: dict[str, str]) -> None:
    hsmbridge(service, "install", "--user", "--default-address", environment=home)
    said = run("pkcs11-tool", "--module", MODULE, "-L", environment=home)
    assert "token label        : tpm" in said
    hsmbridge(service, "uninstall", "--user", environment=home)
    assert not list(Path(home["XDG_RUNTIME_DIR"]).rglob("pkcs11"))


def test_what_others_wrote_is_left_alone(service: Service, home: dict[str, str]) -> None:
    file = Path(home["XDG_CONFIG_HOME"]) / "pkcs11" / "modules" / "hsmbridge.module"
    file.parent.mkdir(parents=True)
    file.write_text("module: mine.so\n")
    with pytest.raises(AssertionError, match="was not written by hsmbridge"):
        hsmbridge(service, "install", "--user", environment=home)
    hsmbridge(service, "uninstall", "--user", environment=home)
    assert file.read_text() == "module: mine.so\n"
