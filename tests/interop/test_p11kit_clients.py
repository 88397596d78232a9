"""Stock PKCS#11 programs on our keys through p11-kit's own client module; each result is checked by another program.

`pkcs11-tool`, OpenSSL's engine, `p11tool` and `certtool`, `ssh-keygen` and `ssh`'s signatures, python-pkcs11; keys in
software, in SoftHSM and in a TPM.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.interop.p11kit_client import MODULE, Service, service

__all__ = ["service"]

TOKENS = ("software", "softhsm", "tpm")


def openssl(*arguments: str | Path, cwd: Path) -> str:
    ended = subprocess.run(
        ["openssl", *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def public_key(service: Service, token: str, key_id: str, cwd: Path) -> str:
    """The name of a PEM file with a public key, as pkcs11-tool reads it."""
    name = f"{token}-{key_id}.pem"
    service.tool("--token-label", token, "-r", "-y", "pubkey", "--id", key_id, "-o", "public.der", cwd=cwd)
    openssl("pkey", "-pubin", "-inform", "DER", "-in", "public.der", "-out", name, cwd=cwd)
    return name


def test_every_provider_is_a_token(service: Service, tmp_path: Path) -> None:
    listed = service.tool("-L", cwd=tmp_path)
    for token in TOKENS:
        assert f"token label        : {token}" in listed
    assert "login required" not in listed


@pytest.mark.parametrize("token", TOKENS)
def test_pkcs11_tool_makes_finds_uses_and_destroys_an_ec_key(service: Service, token: str, tmp_path: Path) -> None:
    of = ("--token-label", token)
    (tmp_path / "message").write_bytes(b"a message")
    openssl("dgst", "-sha256", "-binary", "-out", "digest", "message", cwd=tmp_path)
    service.tool(*of, "-k", "--key-type", "EC:secp256r1", "--label", "an ec key", "--id", "ec01", cwd=tmp_path)
    listed = service.tool(*of, "-O", "--id", "ec01", cwd=tmp_path)
    assert listed.count("label:      an ec key") == 2
    service.tool(
        *(*of, "-s", "-m", "ECDSA", "--signature-format", "openssl", "--id", "ec01"),
        *("-i", "digest", "-o", "signature"),
        cwd=tmp_path,
    )
    key = public_key(service, token, "ec01", tmp_path)
    openssl("dgst", "-sha256", "-verify", key, "-signature", "signature", "message", cwd=tmp_path)
    service.tool(*of, "-b", "-y", "privkey", "--id", "ec01", cwd=tmp_path)
    assert "an ec key" not in service.tool(*of, "-O", cwd=tmp_path)


@pytest.mark.parametrize("token", TOKENS)
def test_an_rsa_key_made_by_habit_signs_and_decrypts(service: Service, token: str, tmp_path: Path) -> None:
    of = ("--token-label", token)
    (tmp_path / "message").write_bytes(b"a message")
    openssl("dgst", "-sha256", "-binary", "-out", "digest", "message", cwd=tmp_path)
    made = service.tool(*of, "-k", "--key-type", "rsa:2048", "--label", "rsa", "--id", "5a01", cwd=tmp_path)
    assert "decrypt, sign\n" in made, "it was asked for unwrap too, which does not go with the others"
    key = public_key(service, token, "5a01", tmp_path)

    service.tool(
        *(*of, "-s", "-m", "SHA256-RSA-PKCS", "--id", "5a01", "-i", "message", "-o", "signature"), cwd=tmp_path
    )
    openssl("dgst", "-sha256", "-verify", key, "-signature", "signature", "message", cwd=tmp_path)
    valid = service.tool(
        *(*of, "--verify", "-m", "SHA256-RSA-PKCS", "--id", "5a01"),
        *("-i", "message", "--signature-file", "signature"),
        cwd=tmp_path,
    )
    assert "Signature is valid" in valid
    invalid = service.tool(
        *(*of, "--verify", "-m", "SHA256-RSA-PKCS", "--id", "5a01"),
        *("-i", "digest", "--signature-file", "signature"),
        cwd=tmp_path,
        check=False,
    )
    assert "Invalid signature" in invalid

    service.tool(
        *(*of, "-s", "-m", "RSA-PKCS-PSS", "--hash-algorithm", "SHA256", "--id", "5a01"),
        *("-i", "digest", "-o", "pss"),
        cwd=tmp_path,
    )
    pss = ("-sigopt", "rsa_padding_mode:pss")
    openssl("dgst", "-sha256", *pss, "-verify", key, "-signature", "pss", "message", cwd=tmp_path)

    oaep = ("-pkeyopt", "rsa_padding_mode:oaep", "-pkeyopt", "rsa_oaep_md:sha1")
    openssl(
        *("pkeyutl", "-encrypt", "-pubin", "-inkey", key, *oaep, "-in", "message", "-out", "encrypted"), cwd=tmp_path
    )
    service.tool(
        *(*of, "--decrypt", "-m", "RSA-PKCS-OAEP", "--hash-algorithm", "SHA-1", "--mgf", "MGF1-SHA1"),
        *("--id", "5a01", "-i", "encrypted", "-o", "decrypted"),
        cwd=tmp_path,
    )
    assert (tmp_path / "decrypted").read_bytes() == b"a message"
    service.tool(*of, "-b", "-y", "privkey", "--id", "5a01", cwd=tmp_path)


@pytest.mark.parametrize("token", TOKENS)
def test_the_self_test_of_pkcs11_tool_finds_no_error(service: Service, token: str, tmp_path: Path) -> None:
    of = ("--token-label", token)
    allowed = "RSA-PKCS,SHA1-RSA-PKCS,SHA256-RSA-PKCS,RSA-PKCS-OAEP"
    service.tool(*of, "-k", "--key-type", "EC:secp384r1", "--label", "curve", "--id", "7e57", cwd=tmp_path)
    service.tool(
        *(*of, "-k", "--key-type", "rsa:2048", "--label", "rsa", "--id", "7e58", "--allowed-mechanisms", allowed),
        cwd=tmp_path,
    )
    said = service.tool(*of, "--test", "--allow-sw", cwd=tmp_path)
    assert "all 4 signature functions seem to work" in said
    assert "    RSA-PKCS: OK\n    SHA1-RSA-PKCS: OK\n" in said
    assert "No errors" in said
    for key in ("7e57", "7e58"):
        service.tool(*of, "-b", "-y", "privkey", "--id", key, cwd=tmp_path)


@pytest.mark.parametrize(
    ("token", "key_type"), [("software", "EC:secp384r1"), ("softhsm", "rsa:2048"), ("tpm", "EC:prime256v1")]
)
def test_openssl_serves_tls_with_a_key_of_ours(service: Service, token: str, key_type: str, tmp_path: Path) -> None:
    service.tool("--token-label", token, "-k", "--key-type", key_type, "--label", "web", "--id", "3eb1", cwd=tmp_path)
    uri = f"pkcs11:token={token};object=web;type=private"
    engine = ("-engine", "pkcs11", "-keyform", "engine", "-key", uri)
    subject = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")
    service.run(
        *("openssl", "req", "-new", "-x509", *engine, *subject, "-days", "30", "-out", "web.pem"),
        cwd=tmp_path,
        PKCS11_MODULE_PATH=MODULE,
    )
    openssl("verify", "-CAfile", "web.pem", "web.pem", cwd=tmp_path)
    server = Path(__file__).with_name("p11kit_tls.py")
    for version in ("tls1_2", "tls1_3"):
        said = service.run(sys.executable, server, version, "web.pem", uri, cwd=tmp_path, PKCS11_MODULE_PATH=MODULE)
        assert "Verify return code: 0 (ok)" in said, said
    service.tool("--token-label", token, "-b", "-y", "privkey", "--id", "3eb1", cwd=tmp_path)


def test_gnutls_sees_and_uses_keys(service: Service, tmp_path: Path) -> None:
    service.tool(
        "--token-label", "tpm", "-k", "--key-type", "rsa:2048", "--label", "gnutls", "--id", "91", cwd=tmp_path
    )
    listed = service.run("p11tool", "--provider", MODULE, "--list-all", "pkcs11:token=tpm", cwd=tmp_path)
    assert "object=gnutls;type=private" in listed
    assert "Type: Private key (RSA-2048)" in listed
    (tmp_path / "template").write_text('cn = "gnutls"\nserial = 1\nexpiration_days = 30\nca\n')
    key = "pkcs11:token=tpm;object=gnutls;type="
    service.run(
        *("certtool", "--provider", MODULE, "--generate-self-signed", "--load-privkey", f"{key}private"),
        *("--load-pubkey", f"{key}public", "--template", "template", "--outfile", "own.pem"),
        cwd=tmp_path,
    )
    openssl("verify", "-CAfile", "own.pem", "own.pem", cwd=tmp_path)
    service.tool("--token-label", "tpm", "-b", "-y", "privkey", "--id", "91", cwd=tmp_path)


def test_ssh_reads_public_keys(service: Service, tmp_path: Path) -> None:
    service.tool(
        *("--token-label", "software", "-k", "--key-type", "EC:prime256v1", "--label", "ssh", "--id", "55"),
        cwd=tmp_path,
    )
    listed = service.run("ssh-keygen", "-D", MODULE, cwd=tmp_path)
    ours = [line for line in listed.splitlines() if line.endswith(" ssh")]
    assert len(ours) == 1
    assert ours[0].startswith("ecdsa-sha2-nistp256 ")
    pem = public_key(service, "software", "55", tmp_path)
    (tmp_path / "ssh.pub").write_text(ours[0])
    exported = service.run("ssh-keygen", "-e", "-m", "PKCS8", "-f", "ssh.pub", cwd=tmp_path)
    assert exported.split() == (tmp_path / pem).read_text().split()
    service.tool("--token-label", "software", "-b", "-y", "privkey", "--id", "55", cwd=tmp_path)


def test_python_pkcs11_uses_lasting_and_passing_keys(service: Service, tmp_path: Path) -> None:
    said = service.run(sys.executable, Path(__file__).with_name("p11kit_python.py"), MODULE, cwd=tmp_path)
    assert said.split() == list(TOKENS)


def test_an_application_without_a_daemon_sees_no_token(service: Service, tmp_path: Path) -> None:
    nowhere = f"unix:path={tmp_path}/nobody.sock"
    said = service.run(
        "pkcs11-tool", "--module", MODULE, "-L", cwd=tmp_path, check=False, P11_KIT_SERVER_ADDRESS=nowhere
    )
    assert "No slots" in said
