"""Java's keytool and jarsigner by SunPKCS11: key pairs, certificates, requests, a CA's reply; others verify."""

import subprocess
from pathlib import Path

import pytest

from tests.interop.p11kit_client import MODULE, Service, service

__all__ = ["service"]

TOKENS = ("software", "softhsm", "tpm")


class KeyTool:
    """keytool with one of our tokens for its key store."""

    def __init__(self, service: Service, token: str, folder: Path) -> None:
        self.service = service
        self.folder = folder
        (folder / "java.cfg").write_text(
            f"name = {token}\nlibrary = {MODULE}\nslotListIndex = {TOKENS.index(token)}\n"
            "attributes(generate, *, *) = {\n  CKA_TOKEN = true\n}\n"
        )

    def __call__(self, *arguments: str) -> str:
        store = ("-keystore", "NONE", "-storetype", "PKCS11", "-storepass", "unasked")
        provider = ("-addprovider", "SunPKCS11", "-providerArg", "java.cfg")
        return self.service.run("keytool", *store, *provider, *arguments, cwd=self.folder)


def openssl(*arguments: str, cwd: Path) -> str:
    ended = subprocess.run(["openssl", *arguments], cwd=cwd, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


@pytest.mark.parametrize("token", TOKENS)
@pytest.mark.parametrize(
    "algorithm", [("EC", "-groupname", "secp256r1"), ("RSA", "-keysize", "2048")], ids=["EC", "RSA"]
)
def test_java_makes_keys_requests_and_takes_the_reply_of_a_ca(
    service: Service, token: str, algorithm: tuple[str, str, str], tmp_path: Path
) -> None:
    keytool = KeyTool(service, token, tmp_path)
    keytool("-genkeypair", "-alias", "web", "-keyalg", *algorithm, "-dname", "CN=java.example")
    assert "web, PrivateKeyEntry" in keytool("-list")
    keytool("-exportcert", "-rfc", "-alias", "web", "-file", "own.pem")
    openssl("verify", "-CAfile", "own.pem", "own.pem", cwd=tmp_path)
    keytool("-certreq", "-alias", "web", "-file", "web.csr")
    assert "verify OK" in openssl("req", "-in", "web.csr", "-noout", "-verify", cwd=tmp_path)

    openssl(
        *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "ca.key"),
        *("-out", "ca.pem", "-subj", f"/CN=authority of {token} {algorithm[0]}", "-days", "3"),
        cwd=tmp_path,
    )
    openssl(
        "x509",
        "-req",
        "-in",
        "web.csr",
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-days",
        "2",
        "-out",
        "new.pem",
        cwd=tmp_path,
    )
    (tmp_path / "reply.pem").write_text((tmp_path / "new.pem").read_text() + (tmp_path / "ca.pem").read_text())
    keytool("-importcert", "-noprompt", "-trustcacerts", "-alias", "web", "-file", "reply.pem")
    listed = keytool("-list", "-v", "-alias", "web")
    assert "Certificate chain length: 2" in listed, listed
    keytool("-exportcert", "-rfc", "-alias", "web", "-file", "now.pem")
    openssl("verify", "-CAfile", "ca.pem", "now.pem", cwd=tmp_path)

    objects = service.tool("--token-label", token, "-O", cwd=tmp_path)
    assert objects.count("776562") >= 3, "key, public key and certificate share the id that Java gave them"
    keytool("-delete", "-alias", "web")
    assert "web" not in keytool("-list")
    assert "776562" not in service.tool("--token-label", token, "-O", cwd=tmp_path)
