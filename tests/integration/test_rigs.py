"""softhsm-config/ and tpm-sim/ do what their READMEs say, with the real SoftHSM and the real swtpm."""

import os
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography import x509

ROOT = Path(__file__).resolve().parents[2]
PROVISION = ROOT / "softhsm-config" / "provision"
SOFTHSM = "/usr/lib/softhsm/libsofthsm2.so"
LONGEST_SOCKET_PATH = 107


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory whose path is short enough for a unix socket; no swtpm outlives it."""
    path = Path(tempfile.mkdtemp(prefix="hb", dir="/tmp"))
    yield path
    for pid_file in path.glob("*/swtpm.pid"):
        tpm("stop", pid_file.parent)
    shutil.rmtree(path)


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **environment}
    )


def tpm(script: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return run(ROOT / "tpm-sim" / script, *arguments)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# --- SoftHSM -----------------------------------------------------------------------------------------------------


def token_info(directory: Path) -> str:
    return run("softhsm2-util", "--show-slots", SOFTHSM2_CONF=str(directory / "softhsm2.conf")).stdout


def login(directory: Path, *action: str) -> subprocess.CompletedProcess[str]:
    """Use the token with the PIN of the file; pkcs11-tool has no way but its environment to take it unseen."""
    return run(
        *("pkcs11-tool", "--module", SOFTHSM, "--login", "--pin", "env:TOKEN_PIN", *action),
        SOFTHSM2_CONF=str(directory / "softhsm2.conf"),
        TOKEN_PIN=(directory / "pin").read_text(),
    )


def test_a_provisioned_token_takes_the_pin_of_its_file(folder: Path) -> None:
    answer = run(PROVISION, folder / "t", "web")
    assert (answer.returncode, answer.stdout) == (0, f"{folder / 't'}\n")
    assert re.search(r"Label: +web *$", token_info(folder / "t"), re.MULTILINE)
    made = login(folder / "t", "--keypairgen", "--key-type", "EC:prime256v1", "--label", "k")
    assert made.returncode == 0, made.stderr


def test_only_the_owner_can_read_a_provisioned_token_and_its_pins(folder: Path) -> None:
    run(PROVISION, folder / "t", "web")
    assert mode(folder / "t") == 0o700
    assert mode(folder / "t" / "tokens") == 0o700
    assert mode(folder / "t" / "pin") == mode(folder / "t" / "so-pin") == 0o600


def test_every_token_has_pins_of_its_own(folder: Path) -> None:
    for name in ("a", "b"):
        run(PROVISION, folder / name, name)
    pins = {(folder / name / file).read_text() for name in ("a", "b") for file in ("pin", "so-pin")}
    assert len(pins) == 4
    assert all(re.fullmatch(r"[0-9a-f]{32}", pin) for pin in pins)


def test_provisioning_again_changes_nothing(folder: Path) -> None:
    run(PROVISION, folder / "t", "web")
    before = {path: path.read_bytes() for path in (folder / "t").rglob("*") if path.is_file()}
    answer = run(PROVISION, folder / "t", "web")
    assert (answer.returncode, answer.stdout) == (0, f"{folder / 't'}\n")
    assert {path: path.read_bytes() for path in (folder / "t").rglob("*") if path.is_file()} == before


def test_several_at_once_make_one_token(folder: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: run(PROVISION, folder / "t", "web"), range(4)))
    assert [answer.returncode for answer in answers] == [0] * 4
    assert len(list((folder / "t" / "tokens").iterdir())) == 1
    assert login(folder / "t", "--list-objects").returncode == 0


def test_a_cut_off_run_is_completed_by_the_next(folder: Path) -> None:
    (folder / "t").mkdir(mode=0o700)
    (folder / "t" / "so-pin").write_text("0" * 32)
    (folder / "t" / "pin.new").write_text("half")
    assert run(PROVISION, folder / "t", "web").returncode == 0
    assert (folder / "t" / "so-pin").read_text() == "0" * 32
    assert login(folder / "t", "--list-objects").returncode == 0


@pytest.mark.parametrize(
    ("label", "complaint"),
    [("", "1 to 32 bytes"), ("x" * 33, "1 to 32 bytes"), (" web", "no spaces around"), ("é" * 17, "has 34")],
    ids=["empty", "33 bytes", "leading space", "34 bytes of UTF-8"],
)
def test_an_unfit_label_is_refused_before_anything_is_made(folder: Path, label: str, complaint: str) -> None:
    answer = run(PROVISION, folder / "t", label)
    assert answer.returncode == 1
    assert complaint in answer.stderr
    assert not (folder / "t").exists()


def test_a_second_label_in_a_directory_is_refused(folder: Path) -> None:
    run(PROVISION, folder / "t", "web")
    answer = run(PROVISION, folder / "t", "other")
    assert answer.returncode == 1
    assert "already holds the token 'web'" in answer.stderr


def test_a_directory_open_to_others_is_refused(folder: Path) -> None:
    (folder / "t").mkdir(mode=0o755)
    answer = run(PROVISION, folder / "t", "web")
    assert answer.returncode == 1
    assert "chmod 700" in answer.stderr
    assert list((folder / "t").iterdir()) == []


def test_a_missing_module_is_named(folder: Path) -> None:
    answer = run(PROVISION, "--module", "/nonexistent.so", folder / "t", "web")
    assert answer.returncode == 1
    assert "/nonexistent.so" in answer.stderr
    assert "Traceback" not in answer.stderr


# --- TPM ---------------------------------------------------------------------------------------------------------


def command(rig: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    return run(*words, TPM2TOOLS_TCTI=f"swtpm:path={rig / 'swtpm.sock'}", TSS2_LOG="all+NONE")


def persistent_handles(rig: Path) -> list[str]:
    return re.findall(r"0x81[0-9a-fA-F]+", command(rig, "tpm2_getcap", "handles-persistent").stdout)


def lockout_counter(rig: Path) -> int:
    text = command(rig, "tpm2_getcap", "properties-variable").stdout
    match = re.search(r"TPM2_PT_LOCKOUT_COUNTER: (0x[0-9a-fA-F]+)", text)
    assert match, text
    return int(match[1], 16)


def test_a_started_tpm_answers_at_the_tcti_that_start_printed(folder: Path) -> None:
    rig = folder / "t"
    answer = tpm("start", rig)
    assert (answer.returncode, answer.stdout) == (0, f"swtpm:path={rig}/swtpm.sock\n")
    assert len(run("tpm2_getrandom", "--tcti", answer.stdout.strip(), "--hex", "16").stdout) == 32
    assert tpm("status", rig).returncode == 0


def test_only_the_owner_can_open_the_sockets_and_the_state(folder: Path) -> None:
    rig = folder / "t"
    tpm("start", rig)
    assert mode(rig) == mode(rig / "state") == 0o700
    assert mode(rig / "swtpm.sock") == mode(rig / "swtpm.sock.ctrl") == 0o600


def test_starting_a_running_tpm_leaves_it_as_it_is(folder: Path) -> None:
    rig = folder / "t"
    first = tpm("start", rig)
    running = (rig / "swtpm.pid").read_text()
    second = tpm("start", rig)
    assert (second.returncode, second.stdout) == (0, first.stdout)
    assert (rig / "swtpm.pid").read_text() == running


def test_several_starts_at_once_make_one_tpm(folder: Path) -> None:
    rig = folder / "t"
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: tpm("start", rig), range(4)))
    assert {(answer.returncode, answer.stdout) for answer in answers} == {(0, f"swtpm:path={rig}/swtpm.sock\n")}
    assert command(rig, "tpm2_getrandom", "--hex", "4").returncode == 0


def test_several_tpms_side_by_side_are_different_tpms(folder: Path) -> None:
    primaries = set()
    for name in ("a", "b"):
        tpm("start", folder / name)
        command(folder / name, "tpm2_createprimary", "-C", "o", "-G", "ecc", "-c", folder / f"{name}.ctx")
        shown = command(folder / name, "tpm2_readpublic", "-c", folder / f"{name}.ctx", "-n", folder / f"{name}.name")
        assert shown.returncode == 0, shown.stderr
        primaries.add((folder / f"{name}.name").read_bytes())
    assert len(primaries) == 2


@pytest.mark.parametrize("how", [[], ["--kill"]], ids=["in order", "cut off"])
def test_a_restart_keeps_persistent_objects(folder: Path, how: list[str]) -> None:
    rig = folder / "t"
    tpm("start", rig)
    command(rig, "tpm2_createprimary", "-C", "o", "-G", "ecc", "-c", folder / "p.ctx")
    assert command(rig, "tpm2_evictcontrol", "-C", "o", "-c", folder / "p.ctx", "0x81000001").returncode == 0
    before = (rig / "swtpm.pid").read_text()
    assert tpm("restart", *how, rig).returncode == 0
    assert (rig / "swtpm.pid").read_text() != before
    assert persistent_handles(rig) == ["0x81000001"]


def fail_an_authorization(rig: Path, folder: Path) -> None:
    """Make the TPM count: use a key that dictionary-attack protection covers, with the wrong authorization."""
    made = command(rig, "tpm2_createprimary", "-C", "o", "-G", "ecc", "-p", "right", "-c", folder / "p.ctx")
    assert made.returncode == 0, made.stderr
    used = command(rig, "tpm2_create", "-C", folder / "p.ctx", "-P", "wrong", "-u", folder / "u", "-r", folder / "r")
    assert used.returncode != 0
    assert lockout_counter(rig) == 1


def test_stop_tells_the_tpm_so_that_no_failed_authorization_is_counted(folder: Path) -> None:
    rig = folder / "t"
    tpm("start", rig)
    fail_an_authorization(rig, folder)
    assert tpm("restart", rig).returncode == 0
    assert lockout_counter(rig) == 1


def test_a_tpm_that_is_cut_off_counts_it(folder: Path) -> None:
    rig = folder / "t"
    tpm("start", rig)
    fail_an_authorization(rig, folder)
    assert tpm("restart", "--kill", rig).returncode == 0
    assert lockout_counter(rig) == 2


def test_stop_leaves_no_process_and_no_socket(folder: Path) -> None:
    rig = folder / "t"
    tpm("start", rig)
    running = (rig / "swtpm.pid").read_text().strip()
    assert tpm("stop", rig).returncode == 0
    assert b"swtpm" not in _command_line(running)
    assert not (rig / "swtpm.sock").exists()
    assert (tpm("status", rig).returncode, tpm("status", rig).stdout) == (3, "stopped\n")
    assert tpm("stop", rig).returncode == 0


def _command_line(process: str) -> bytes:
    try:
        return Path("/proc", process, "cmdline").read_bytes()
    except FileNotFoundError:
        return b""


def test_a_stale_pid_file_stops_nobody_else(folder: Path) -> None:
    rig = folder / "t"
    rig.mkdir(mode=0o700)
    with subprocess.Popen(["sleep", "60"]) as bystander:
        (rig / "swtpm.pid").write_text(str(bystander.pid))
        assert tpm("status", rig).returncode == 3
        assert tpm("stop", rig).returncode == 0
        assert bystander.poll() is None
        bystander.kill()


def test_a_manufactured_tpm_has_certificates_from_its_makers_authority(folder: Path) -> None:
    authority = folder / "ca"
    for name in ("a", "b"):
        answer = tpm("start", "--manufacture", "--ca", authority, folder / name)
        assert answer.returncode == 0, answer.stderr
    issuer = x509.load_pem_x509_certificate((authority / "issuercert.pem").read_bytes())
    serials = set()
    for path in [*folder.glob("a/ek/*.pem"), *folder.glob("b/ek/*.pem")]:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        certificate.verify_directly_issued_by(issuer)
        serials.add(certificate.serial_number)
    assert len(serials) == 4
    command(folder / "a", "tpm2_nvread", "0x1c00002", "-o", folder / "ek.der")
    inside = x509.load_der_x509_certificate((folder / "ek.der").read_bytes())
    assert inside == x509.load_pem_x509_certificate((folder / "a" / "ek" / "ek-rsa2048.pem").read_bytes())


def test_a_tpm_stays_what_it_is_when_started_with_manufacture_again(folder: Path) -> None:
    rig = folder / "t"
    tpm("start", "--manufacture", rig)
    before = (rig / "ek" / "ek-rsa2048.pem").read_bytes()
    tpm("stop", rig)
    assert tpm("start", "--manufacture", rig).returncode == 0
    assert (rig / "ek" / "ek-rsa2048.pem").read_bytes() == before


def test_a_directory_too_long_for_a_socket_is_refused_with_a_way_out(folder: Path) -> None:
    fits = LONGEST_SOCKET_PATH - len(str(folder)) - len("//swtpm.sock.ctrl")
    answer = tpm("start", folder / ("x" * (fits + 1)))
    assert answer.returncode == 1
    assert "108 bytes; the system allows 107" in answer.stderr
    assert "mktemp -d" in answer.stderr
    assert list(folder.iterdir()) == []
    assert tpm("start", folder / ("x" * fits)).returncode == 0


@pytest.mark.parametrize("name", ["a,b", "a\nb"], ids=["comma", "line break"])
def test_a_path_that_swtpm_would_misread_is_refused(folder: Path, name: str) -> None:
    answer = tpm("start", folder / name)
    assert answer.returncode == 1
    assert "must not contain a comma or a line break" in answer.stderr


@pytest.mark.parametrize("script", ["start", "stop", "restart", "status"])
def test_an_unknown_option_is_refused(script: str) -> None:
    answer = tpm(script, "--frobnicate", "x")
    assert answer.returncode == 1
    assert "there is no option --frobnicate" in answer.stderr
