"""The command `est` end to end: a CA in a folder, its server as a process, a device that enrols, renews and rekeys."""

import json
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import mlkem

from tests.integration.est.command import PASSWORD, Server, est, est_here, root_fingerprint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    est("ca", "init", tmp_path / "ca", "--name", "Test")
    (tmp_path / "ca" / "users").write_text(f"device:{PASSWORD}\n")
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    (tmp_path / "passphrase").write_text("correct horse\n")
    with (tmp_path / "ca" / "ca.toml").open("a") as file:
        file.write('\n[profile.manual]\napprove = false\nretry_after = 0\n\n[profile.strict]\nkey = "EC-P384"\n')
    return tmp_path


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    running = Server(folder / "ca")
    yield running
    assert running.stop() == 0


def test_a_device_from_first_contact_to_rekey(folder: Path, server: Server) -> None:
    anchors, key, cert = folder / "anchors.pem", folder / "key.pem", folder / "cert.pem"
    wrong = est("bootstrap", server.address, "--fingerprint", "00" * 32, "--out", anchors, expect=19)
    assert "fingerprint" in wrong.stderr
    assert not anchors.exists()
    est("bootstrap", server.address, "--fingerprint", root_fingerprint(folder), "--out", anchors)
    known = (server.address, "--ca", anchors)
    login = ("--user", "device", "--password-file", folder / "password")
    name = ("--subject", "CN=device-1", "--dns", "device-1.example", "--ip", "192.0.2.1")
    est("enroll", *known, *login, "--key", key, "--cert", cert, *name)
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    first = x509.load_pem_x509_certificates(cert.read_bytes())
    assert [one.subject.rfc4514_string() for one in first] == ["CN=device-1", "CN=Test Issuing CA"]
    renewed = json.loads(est("renew", *known, "--key", key, "--cert", cert, "--json").stdout)
    assert renewed["serial"] != f"{first[0].serial_number:x}"
    est("rekey", *known, "--key", key, "--cert", cert, "--new-key", folder / "k2.pem", "--new-cert", folder / "c2.pem")
    second = x509.load_pem_x509_certificate((folder / "c2.pem").read_bytes())
    assert second.subject == first[0].subject
    assert second.public_key() != first[0].public_key()
    est("cacerts", *known, "--out", anchors)
    est("ca", "revoke", folder / "ca", f"{second.serial_number:x}", "--reason", "keyCompromise")
    refused = est("renew", *known, "--key", folder / "k2.pem", "--cert", folder / "c2.pem", "--json", expect=15)
    assert json.loads(refused.stderr)["error"]["status"] == "ACCESS_DENIED"
    est("ca", "crl", folder / "ca", "--out", folder / "crl.pem")
    crl = x509.load_pem_x509_crl((folder / "crl.pem").read_bytes())
    assert crl.get_revoked_certificate_by_serial_number(second.serial_number) is not None


def test_a_server_made_key_is_never_on_the_disk_in_the_clear(folder: Path, server: Server) -> None:
    est("bootstrap", server.address, "--fingerprint", root_fingerprint(folder), "--out", folder / "anchors.pem")
    known = (server.address, "--ca", folder / "anchors.pem")
    login = ("--user", "device", "--password-file", folder / "password")
    own = (folder / "key.pem", folder / "cert.pem")
    est("enroll", *known, *login, "--key", own[0], "--cert", own[1], "--key-type", "RSA-2048", "--subject", "CN=device")
    made = ("--out-key", folder / "made.key", "--out-cert", folder / "made.pem")
    identity = ("--client-key", own[0], "--client-cert", own[1])
    locked = ("--passphrase-file", folder / "passphrase")
    est("serverkeygen", *known, *identity, *locked, *made, "--subject", "CN=made")
    assert (folder / "made.key").read_bytes().startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
    key = serialization.load_pem_private_key((folder / "made.key").read_bytes(), b"correct horse")
    assert key.public_key() == x509.load_pem_x509_certificate((folder / "made.pem").read_bytes()).public_key()


def test_a_key_that_does_not_sign_is_made_and_gets_a_certificate(folder: Path, server: Server) -> None:
    anchors = folder / "anchors.pem"
    est_here("bootstrap", server.address, "--fingerprint", root_fingerprint(folder), "--out", anchors)
    common = (server.address, "--ca", anchors)
    login = ("--user", "device", "--password-file", folder / "password")
    mine = ("--key", folder / "key.pem", "--cert", folder / "cert.pem", "--subject", "CN=device")
    est_here("enroll", *common, *login, *mine)
    new = ("--key", folder / "kem.pem", "--key-type", "ML-KEM-768", "--cert", folder / "kem-cert.pem", *mine[4:])
    assert "does not sign" in est_here("enroll", *common, *login, *new, expect=11).stderr
    asking = ("--client-key", folder / "key.pem", "--client-cert", folder / "cert.pem")
    est_here("enroll", *common, *asking, *new)
    certificate = x509.load_pem_x509_certificate((folder / "kem-cert.pem").read_bytes())
    assert isinstance(certificate.public_key(), mlkem.MLKEM768PublicKey)
    assert stat.S_IMODE((folder / "kem.pem").stat().st_mode) == 0o600


def test_an_enrolment_waits_for_approval_and_goes_on_after_it(folder: Path, server: Server) -> None:
    est("bootstrap", server.address, "--fingerprint", root_fingerprint(folder), "--out", folder / "anchors.pem")
    known = (server.address, "--ca", folder / "anchors.pem", "--label", "manual")
    login = ("--user", "device", "--password-file", folder / "password")
    files = ("--key", folder / "key.pem", "--cert", folder / "cert.pem")
    asked = ("enroll", *known, *login, *files, "--subject", "CN=patient")
    waiting = est(*asked, "--json", expect=75)
    assert json.loads(waiting.stdout)["pending"] is True
    est(*asked, expect=75)
    (line,) = json.loads(est("ca", "list", folder / "ca", "--json").stdout)["waiting"]
    est("ca", "approve", folder / "ca", line.split()[0])
    est(*asked)
    assert not (folder / "cert.pem.pending").exists()


def test_a_key_that_the_server_is_to_make_waits_for_approval_too(folder: Path, server: Server) -> None:
    est("bootstrap", server.address, "--fingerprint", root_fingerprint(folder), "--out", folder / "anchors.pem")
    known = (server.address, "--ca", folder / "anchors.pem")
    login = ("--user", "device", "--password-file", folder / "password")
    own = (folder / "key.pem", folder / "cert.pem")
    est("enroll", *known, *login, "--key", own[0], "--cert", own[1], "--subject", "CN=device")
    out = ("--out-key", folder / "made.key", "--out-cert", folder / "made.pem", "--subject", "CN=made")
    locked = ("--passphrase-file", folder / "passphrase")
    asked = (
        "serverkeygen",
        *known,
        "--label",
        "manual",
        "--client-key",
        own[0],
        "--client-cert",
        own[1],
        *locked,
        *out,
    )
    assert json.loads(est(*asked, "--json", expect=75).stdout)["pending"] is True
    assert not (folder / "made.key").exists()
    (line,) = json.loads(est("ca", "list", folder / "ca", "--json").stdout)["waiting"]
    est("ca", "approve", folder / "ca", line.split()[0])
    est(*asked)
    assert (folder / "made.key").read_bytes().startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
    assert not (folder / "made.pem.pending").exists()


def test_what_a_label_asks_for_is_shown_and_kept(folder: Path, server: Server) -> None:
    est("bootstrap", server.address, "--fingerprint", root_fingerprint(folder), "--out", folder / "anchors.pem")
    known = (server.address, "--ca", folder / "anchors.pem", "--label", "strict")
    assert "1.3.132.0.34" in json.loads(est("csrattrs", *known, "--json").stdout)["key"]
    files = ("--key", folder / "key.pem", "--cert", folder / "cert.pem")
    refused = est("enroll", *known, *files, "--subject", "CN=x", expect=11)
    assert "secp384r1" in refused.stderr


def test_a_ca_issues_by_hand_and_refuses_a_request_of_somebody_else(folder: Path) -> None:
    from est.csr.demands import Demands
    from est.csr.request import plan, sign_request
    from tests.integration.est.lab import ec_key, named

    key = ec_key()
    csr = sign_request(plan(named("by-hand"), Demands(), key.signer.public_key()), key)
    (folder / "good.der").write_bytes(csr)
    (folder / "bad.der").write_bytes(csr.replace(b"by-hand", b"by-feet"))
    est("ca", "issue", folder / "ca", "--csr", folder / "good.der", "--out", folder / "out.pem")
    refused = est("ca", "issue", folder / "ca", "--csr", folder / "bad.der", "--out", folder / "out2.pem", expect=11)
    assert "own key" in refused.stderr
    again = est("ca", "init", folder / "ca", expect=11)
    assert "not empty" in again.stderr


def test_secrets_that_others_can_read_are_refused(folder: Path) -> None:
    (folder / "ca" / "issuing.key").chmod(0o644)
    assert "0600" in est("ca", "list", folder / "ca", expect=15).stderr


def test_a_wrong_name_is_told_before_a_key_is_made(folder: Path, server: Server) -> None:
    to, new = (server.address, "--ca", folder / "ca" / "root.pem"), ("--key", folder / "k", "--cert", folder / "c")
    for option, value in (("--subject", "device-1"), ("--ip", "192.0.2"), ("--dns", "dévice")):
        assert value in est_here("enroll", *to, *new, option, value, expect=11).stderr
    assert not (folder / "k").exists()


def test_trust_anchors_that_are_not_there_are_missed_by_name(folder: Path) -> None:
    missing = est_here("cacerts", "localhost:1", "--ca", folder / "none.pem", "--out", folder / "out", expect=19)
    assert "none.pem; `est bootstrap`" in missing.stderr


def test_a_wrong_command_line_ends_with_2(folder: Path) -> None:
    est("enroll", expect=2)
    est("nothing", expect=2)


def test_a_file_that_cannot_be_written_is_one_line(folder: Path) -> None:
    refused = est("ca", "crl", folder / "ca", "--out", folder / "nowhere" / "crl.pem", expect=11)
    assert len(refused.stderr.splitlines()) == 1
