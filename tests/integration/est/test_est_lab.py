"""`est lab`: a CA and its server, made and taken down as a shell does it."""

import json
import os
import shlex
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509

from est.key_places import KeyPlaces
from hsmbridge.core.errors import STATUS_TABLE, Status
from hsmbridge.lab.lab import Lab
from tests.integration.est.command import est, est_here

_ABSENT = STATUS_TABLE[Status.RESOURCE_NOT_FOUND].exit_code


def environment(printed: str) -> dict[str, str]:
    assignments = (shlex.split(line)[1] for line in printed.splitlines())
    return dict(one.split("=", 1) for one in assignments)


def enrol(held: dict[str, str], folder: Path) -> x509.Certificate:
    known = (held["EST_SERVER"], "--ca", held["EST_CA"], "--user", "device")
    files = ("--password-file", held["EST_PASSWORD_FILE"], "--key", folder / "key.pem", "--cert", folder / "cert.pem")
    est_here("enroll", *known, *files, "--subject", "CN=lab")
    return x509.load_pem_x509_certificate((folder / "cert.pem").read_bytes())


@pytest.fixture
def places(hsmbridge_lab: Lab) -> Iterator[KeyPlaces]:
    with KeyPlaces(hsmbridge_lab.socket) as made:
        yield made


def test_a_lab_enrols_and_leaves_nothing_behind(tmp_path: Path) -> None:
    place = tmp_path / "lab"
    held = environment(est("lab", "up", "--dir", place).stdout)
    try:
        assert enrol(held, tmp_path).subject.rfc4514_string() == "CN=lab"
        assert environment(est_here("lab", "env", place).stdout) == held
        assert json.loads(est_here("lab", "env", place, "--json").stdout)["environment"] == held
        assert place.stat().st_mode & 0o077 == 0
        (process,) = (json.loads(one.read_text())["pid"] for one in [place / "est-lab.json"])
        assert "not empty" in est_here("lab", "up", "--dir", place, expect=11).stderr
    finally:
        est_here("lab", "down", place)
    assert not place.exists()
    # Whoever adopted it may not have asked for its end yet; then it is a zombie.
    state = Path(f"/proc/{process}/stat")
    assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"
    assert "no lab" in est_here("lab", "down", place, expect=_ABSENT).stderr


def test_the_shell_of_the_lab_forgets_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = environment(est("lab", "up", "--dir", tmp_path / "lab").stdout)
    monkeypatch.setenv("EST_LAB", held["EST_LAB"])
    os.kill(json.loads((tmp_path / "lab/est-lab.json").read_text())["pid"], signal.SIGKILL)
    assert est_here("lab", "down").stdout == f"unset {' '.join(held)}\n"
    assert not (tmp_path / "lab").exists()


def test_a_lab_whose_ca_is_in_softhsm(hsmbridge_lab: Lab, places: KeyPlaces, tmp_path: Path) -> None:
    prefix = f"lab-{os.getpid()}"
    at = ("--slots", prefix, "--provider", "softhsm", "--socket", hsmbridge_lab.socket)
    held = environment(est("lab", "up", "--dir", tmp_path / "lab", *at).stdout)
    try:
        issuing = places.open(f"slot:{prefix}-issuing").signer.public_key()
        certificate = enrol(held, tmp_path)
        (issuer,) = (
            one
            for one in x509.load_pem_x509_certificates(Path(held["EST_CA"]).read_bytes())
            if one.public_key() == issuing
        )
        certificate.verify_directly_issued_by(issuer)
    finally:
        est_here("lab", "down", tmp_path / "lab")
    assert not places.exists(f"slot:{prefix}-issuing")


def test_a_lab_that_cannot_start_leaves_nothing_behind(tmp_path: Path) -> None:
    refused = est_here("lab", "up", "--dir", tmp_path / "lab", "--slots", "x", expect=11)
    assert "--provider" in refused.stderr
    assert not (tmp_path / "lab").exists()
