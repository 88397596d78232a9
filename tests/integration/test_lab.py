"""The lab: a token, a TPM and a daemon that come and go together; from the shell, from Python and from pytest."""

import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import textwrap
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hsmbridge.client import CryptoStack, KeyOperationPermission
from hsmbridge.client.shared import SharedConnection
from hsmbridge.core.errors import RequestError, ResourceError
from hsmbridge.core.messages import StatusReply, StatusRequest
from hsmbridge.lab import resources
from hsmbridge.lab.lab import Lab, LabUnusable
from hsmbridge.lab.options import LabOptions
from hsmbridge.lab.processes import Part, daemon_processes, kill
from hsmbridge.lab.rigs import SoftHsmToken, Swtpm
from hsmbridge.providers.registry import Isolation
from hsmbridge.wire.codec import decode_reply, encode_request

pytest_plugins = ["pytester"]

SIGN = KeyOperationPermission.SIGN | KeyOperationPermission.VERIFY
HSMBRIDGE = Path(sys.executable).with_name("hsmbridge")
PROVIDERS = ("software", "softhsm", "tpm")
ALGORITHM = "ECDSA-P256-SHA256"


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="hb", dir="/tmp"))
    yield path
    for record in path.glob("*/lab.json"):
        Lab.at(record.parent).down()
    shutil.rmtree(path)


@pytest.fixture
def home(folder: Path) -> dict[str, str]:
    """An environment in which new labs are in `folder`, and none is chosen."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HSMBRIDGE_")}
    return {**kept, "XDG_RUNTIME_DIR": str(folder), "PATH": f"{HSMBRIDGE.parent}:{os.environ['PATH']}"}


def lab(home: dict[str, str], *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        (HSMBRIDGE, "lab", *arguments), env=home, capture_output=True, text=True, timeout=90, check=False
    )


def shell(home: dict[str, str], script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ("/bin/sh", "-euc", script), env=home, capture_output=True, text=True, timeout=90, check=False
    )


def mentioning(directory: Path) -> list[str]:
    """The command lines of the processes that name a directory."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(directory) in line:
            found.append(line)
    return found


def sign_and_verify(stack: CryptoStack, slot: str) -> None:
    stack.verify(stack.slot(slot), ALGORITHM, b"message", stack.sign(stack.slot(slot), ALGORITHM, b"message"))


# --- the rigs ----------------------------------------------------------------------------------------------------


def test_a_token_is_described_by_its_uri_and_its_environment(softhsm_token: SoftHsmToken) -> None:
    shown = subprocess.run(
        ("softhsm2-util", "--show-slots"),
        env={**os.environ, **softhsm_token.environment},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert re.search(rf"Label: +{softhsm_token.label} *$", shown, re.MULTILINE)
    assert softhsm_token.uri == f"pkcs11:token={softhsm_token.label}?module-path={softhsm_token.module}"
    assert stat.S_IMODE(softhsm_token.pin_file.stat().st_mode) == 0o600


def test_a_token_sets_nothing_globally(softhsm_token: SoftHsmToken) -> None:
    assert str(softhsm_token.directory) not in os.environ.get("SOFTHSM2_CONF", "")


def random_of(tpm: Swtpm) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ("tpm2_getrandom", "--hex", "8"),
        env={**os.environ, **tpm.environment, "TSS2_LOG": "all+NONE"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_tpm_that_was_killed_comes_back_by_restart(swtpm: Swtpm) -> None:
    assert random_of(swtpm).returncode == 0
    swtpm.kill()
    assert random_of(swtpm).returncode != 0
    swtpm.restart()
    assert random_of(swtpm).returncode == 0


# --- in Python ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", PROVIDERS)
def test_every_provider_of_a_lab_signs(hsmbridge_lab: Lab, provider: str) -> None:
    with hsmbridge_lab.stack() as stack:
        stack.create_slot(f"signs-{provider}", "EC-P256", SIGN, providers=[provider])
        sign_and_verify(stack, f"signs-{provider}")


def test_the_files_of_a_lab_are_its_owners_alone(hsmbridge_lab: Lab) -> None:
    assert stat.S_IMODE(hsmbridge_lab.directory.stat().st_mode) == 0o700


def test_no_pin_is_in_the_configuration_the_environment_or_a_command_line(hsmbridge_lab: Lab) -> None:
    pins = [hsmbridge_lab.token.pin_file.read_text(), hsmbridge_lab.token.so_pin_file.read_text()]
    shown = [hsmbridge_lab.config.read_text(), hsmbridge_lab.log.read_text(), *hsmbridge_lab.environment.values()]
    shown += mentioning(hsmbridge_lab.directory)
    assert not [text for text in shown for pin in pins if pin in text]


def test_slots_outlive_a_kill_of_every_part(hsmbridge_lab: Lab) -> None:
    with hsmbridge_lab.stack() as stack:
        for provider in PROVIDERS:
            stack.create_slot(f"outlives-{provider}", "EC-P256", SIGN, providers=[provider])
    hsmbridge_lab.kill_daemon()
    hsmbridge_lab.restart_daemon()
    for provider in ("softhsm", "tpm"):
        killed = hsmbridge_lab.kill_host(provider)
        hsmbridge_lab.wait_until_available([provider], replaced=killed)
    hsmbridge_lab.kill_tpm()
    hsmbridge_lab.restart_tpm()
    with hsmbridge_lab.stack() as stack:
        for provider in PROVIDERS:
            sign_and_verify(stack, f"outlives-{provider}")


def test_a_killed_daemon_leaves_its_hosts_to_the_next(hsmbridge_lab: Lab) -> None:
    before = {name: hsmbridge_lab.provider(name).pid for name in ("softhsm", "tpm")}
    hsmbridge_lab.kill_daemon()
    assert not hsmbridge_lab.running
    hsmbridge_lab.start_daemon()
    assert {name: hsmbridge_lab.provider(name).pid for name in ("softhsm", "tpm")} == before


def test_a_provider_without_a_host_process_cannot_lose_it(hsmbridge_lab: Lab) -> None:
    with pytest.raises(RequestError, match="has no host process"):
        hsmbridge_lab.kill_host("software")
    with pytest.raises(RequestError, match="has no provider hsm"):
        hsmbridge_lab.kill_host("hsm")


def test_labs_side_by_side_know_nothing_of_each_other(hsmbridge_lab: Lab) -> None:
    with Lab.start(LabOptions(tpm=False)) as other, hsmbridge_lab.stack() as first, other.stack() as second:
        first.create_slot("mine", "EC-P256", SIGN, providers=["softhsm"])
        second.create_slot("mine", "EC-P256", SIGN, providers=["softhsm"])
        keys = [stack.show_slot("mine").versions[0].public_key for stack in (first, second)]
        assert keys[0] != keys[1]
        tokens = [found.provider("softhsm").token for found in (hsmbridge_lab, other)]
        assert tokens[0] is not None
        assert tokens[0] != tokens[1]


def test_a_lab_on_threads_has_no_host_process() -> None:
    with Lab.start(LabOptions(isolation=Isolation.THREAD)) as found:
        assert not list(found.runtime_directory.glob("providers/*.sock"))
        with found.stack() as stack:
            for provider in PROVIDERS:
                stack.create_slot(provider, "EC-P256", SIGN, providers=[provider])
                sign_and_verify(stack, provider)


def test_a_tpm_on_threads_of_several_workers_is_refused() -> None:
    with pytest.raises(RequestError, match="A TPM has one owner"):
        LabOptions(workers=2, isolation=Isolation.THREAD)


def test_down_removes_what_a_killed_lab_left(folder: Path) -> None:
    found = Lab.start(directory=folder / "lab")
    with daemon_processes(found.config, found.runtime_directory) as processes:
        assert Counter(process.part for process in processes) == {Part.SUPERVISOR: 1, Part.WORKER: 1, Part.HOST: 2}
        kill(processes, grace=10)
    found.kill_tpm()
    Lab.at(folder / "lab").down()
    assert mentioning(folder / "lab") == []
    assert not (folder / "lab").exists()
    found.stop_daemon()


def test_a_lab_whose_daemon_does_not_start_says_why_and_leaves_nothing(folder: Path) -> None:
    found = Lab.start(LabOptions(tpm=False), folder / "lab")
    found.config.write_text("[daemon]\nworkersss = 2\n")
    with pytest.raises(LabUnusable, match="the daemon ended with status 11") as refusal:
        found.restart_daemon()
    assert "did you mean workers" in refusal.value.log
    found.down()
    assert mentioning(folder / "lab") == []


def test_a_lab_waits_for_every_worker(folder: Path) -> None:
    with Lab.start(LabOptions(tpm=False, workers=2), folder / "lab") as lab, ExitStack() as held:
        # One worker has many clients, so that the next ones all go to the other. Stacks would share one connection.
        clients: dict[int, list[SharedConnection]] = {}
        for _ in range(8):
            client = SharedConnection(lab.socket)
            held.callback(client.close)
            status = decode_reply(client.connection(5).exchange(encode_request, StatusRequest(), 5))
            assert isinstance(status, StatusReply)
            clients.setdefault(status.pid, []).append(client)
        _, fewer = clients.values()
        for client in fewer:
            client.close()
        lab.wait_until_available(timeout=10)
        lab.options = msgspec.structs.replace(lab.options, workers=3)
        with pytest.raises(LabUnusable, match="after 1 seconds 2 of 3 workers answer"):
            lab.wait_until_available(timeout=1)


# --- from the shell ----------------------------------------------------------------------------------------------


def test_a_shell_takes_a_lab_up_uses_it_and_takes_it_down(home: dict[str, str], folder: Path) -> None:
    done = shell(
        home,
        """
        eval "$(hsmbridge lab up --workers 2)"
        test -f "$SOFTHSM2_CONF" && test "$TPM2TOOLS_TCTI" = "$TPM2OPENSSL_TCTI"
        hsmbridge slot create web --provider tpm --key-type EC-P256 --permissions sign,verify >&2
        hsmbridge sign --slot web --algorithm ECDSA-P256-SHA256 --in "$HSMBRIDGE_CONFIG" --out "$XDG_RUNTIME_DIR/sig"
        tpm2_getrandom --hex 4 >&2
        eval "$(hsmbridge lab down)"
        echo "${HSMBRIDGE_SOCKET-gone} ${HSMBRIDGE_LAB-gone} ${TPM2TOOLS_TCTI-gone}"
        """,
    )
    assert (done.returncode, done.stdout) == (0, "gone gone gone\n"), done.stderr
    assert [path.name for path in folder.iterdir()] == ["sig"]
    assert mentioning(folder) == []


def listed_in(home: dict[str, str], folder: Path) -> list[dict[str, Any]]:
    """The labs in a folder; other suites may have theirs in /tmp."""
    listed: list[dict[str, Any]] = json.loads(lab(home, "list", "--json").stdout)
    return [each for each in listed if Path(each["directory"]).parent == folder]


def test_up_prints_exports_and_nothing_else(home: dict[str, str], folder: Path) -> None:
    up = lab(home, "up", "--without-tpm", "--frontend", "ssh-agent", "--frontend", "p11kit")
    names = re.findall(r"^export ([A-Z0-9_]+)=\S+$", up.stdout, re.MULTILINE)
    assert names == ["HSMBRIDGE_SOCKET", "HSMBRIDGE_CONFIG", "HSMBRIDGE_LAB", "SOFTHSM2_CONF"]
    assert len(up.stdout.splitlines()) == len(names)
    assert "available" in up.stderr
    listed = listed_in(home, folder)
    assert [(each["running"], each["providers"]) for each in listed] == [(True, ["software", "softhsm"])]
    assert lab(home, "env", listed[0]["directory"]).stdout == up.stdout
    assert {"p11kit.sock", "ssh-agent.sock"} <= {path.name for path in Path(listed[0]["directory"], "run").iterdir()}
    assert lab(home, "down", listed[0]["directory"]).returncode == 0
    assert listed_in(home, folder) == []


def test_a_script_stops_where_a_lab_does_not_come_up(home: dict[str, str], folder: Path) -> None:
    tools = folder / "bin"
    tools.mkdir()
    (tools / "hsmbridge").symlink_to(HSMBRIDGE)
    done = shell({**home, "PATH": str(tools)}, 'eval "$(hsmbridge lab up)"; echo went on')
    assert done.returncode != 0
    assert done.stdout == ""
    assert "apt-get install swtpm" in done.stderr
    assert [path.name for path in folder.iterdir()] == ["bin"]


def test_a_missing_softhsm_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    (folder / "softhsm-config").mkdir()
    (folder / "softhsm-config" / "provision").write_text("MODULES = ('/nonexistent/libsofthsm2.so',)\n")
    monkeypatch.setattr(resources, "_PLACES", (folder,))
    resources.softhsm_module.cache_clear()
    try:
        with pytest.raises(RequestError, match="apt-get install softhsm2"):
            Lab.start(directory=folder / "lab")
    finally:
        resources.softhsm_module.cache_clear()
    assert not (folder / "lab").exists()


def test_down_touches_nothing_that_is_no_lab(home: dict[str, str], folder: Path) -> None:
    (folder / "precious").write_text("x")
    refused = lab(home, "down", folder)
    assert refused.returncode == 13
    assert "There is no lab in" in refused.stderr
    assert (folder / "precious").read_text() == "x"


def test_down_asks_which_lab_where_the_environment_names_none(home: dict[str, str]) -> None:
    refused = lab(home, "down")
    assert refused.returncode == 13
    assert "HSMBRIDGE_LAB is not set" in refused.stderr


def test_a_folder_that_holds_something_is_refused(home: dict[str, str], folder: Path) -> None:
    (folder / "precious").write_text("x")
    refused = lab(home, "up", "--dir", folder)
    assert "is not empty" in refused.stderr
    assert [path.name for path in folder.iterdir()] == ["precious"]


def test_a_folder_that_is_too_deep_for_sockets_is_refused(home: dict[str, str], folder: Path) -> None:
    refused = lab(home, "up", "--dir", folder / ("x" * 80))
    assert "too long a path" in refused.stderr
    assert list(folder.iterdir()) == []


def test_a_folder_open_to_others_is_refused(home: dict[str, str], folder: Path) -> None:
    (folder / "open").mkdir()
    (folder / "open").chmod(0o755)
    assert "chmod 700" in lab(home, "up", "--dir", folder / "open").stderr


def test_a_lab_of_somebody_else_is_none() -> None:
    with pytest.raises(ResourceError, match="There is no lab"):
        Lab.at(Path("/nonexistent"))


# --- for users' own suites ---------------------------------------------------------------------------------------


def test_users_take_the_fixtures_into_their_own_suite(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        textwrap.dedent(
            """
            import os
            import subprocess

            import pytest

            from hsmbridge.client import KeyOperationPermission as P
            from hsmbridge.lab.options import LabOptions


            @pytest.fixture(scope="session")
            def hsmbridge_lab_options():
                return LabOptions(workers=2)


            @pytest.mark.parametrize("provider", ["software", "softhsm", "tpm"])
            def test_signing(hsmbridge_lab, provider):
                with hsmbridge_lab.stack() as stack:
                    assert stack.status().workers == 2
                    stack.create_slot(provider, "EC-P256", P.SIGN | P.VERIFY, providers=[provider])
                    slot = stack.slot(provider)
                    slot.verify("ECDSA-P256-SHA256", b"x", slot.sign("ECDSA-P256-SHA256", b"x"))


            def test_token(softhsm_token):
                assert softhsm_token.configuration.exists() and len(softhsm_token.pin_file.read_text()) == 32


            def test_tpm(swtpm):
                swtpm.restart()
                subprocess.run(["tpm2_getrandom", "4"], check=True, env={**os.environ, **swtpm.environment})
            """
        )
    )
    result = pytester.runpytest_subprocess("-q", "-p", "no:cacheprovider", timeout=100)
    result.assert_outcomes(passed=5)


def test_the_fixtures_are_documented(pytester: pytest.Pytester) -> None:
    listed = pytester.runpytest_subprocess("--fixtures", "-v", timeout=60).stdout.str()
    for fixture in ("hsmbridge_lab_options", "hsmbridge_lab", "softhsm_token", "swtpm"):
        assert re.search(rf"^{fixture}\b.*\n    [A-Z]", listed, re.MULTILINE), fixture


def test_the_plugin_loads_nothing_while_nobody_uses_it() -> None:
    script = """
        import sys
        import pytest
        before = set(sys.modules)
        import hsmbridge.lab.pytest_plugin
        print(sorted(set(sys.modules) - before))
    """
    loaded = subprocess.run(
        (sys.executable, "-c", textwrap.dedent(script)), capture_output=True, text=True, check=True, timeout=60
    ).stdout
    assert loaded.strip() == "['hsmbridge', 'hsmbridge.lab', 'hsmbridge.lab.pytest_plugin']"


def test_a_spread_daemon_keeps_its_worker_and_its_providers_on_different_processors() -> None:
    available = sorted(os.sched_getaffinity(0))
    with (
        Lab.start(LabOptions(spread=True, tpm=False)) as lab,
        daemon_processes(lab.config, lab.runtime_directory) as all_,
    ):
        where = {process.part: os.sched_getaffinity(process.pid) for process in all_}
    assert where[Part.WORKER] == set(available[:1])
    assert where[Part.HOST] == set(available[1:] or available)
    assert where[Part.SUPERVISOR] == set(available)
