"""TLS 1.2 and 1.3 by gnutls-serv with keys of ours, to gnutls-cli and to OpenSSL's client."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.interop.p11kit_client import MODULE, Service, service
from tests.interop.p11kit_servers import free_port, serving

__all__ = ["service"]


@pytest.mark.parametrize(
    ("token", "key_type"), [("software", "rsa:2048"), ("softhsm", "EC:prime256v1"), ("tpm", "EC:secp384r1")]
)
def test_gnutls_serves_tls_with_a_key_of_ours(service: Service, token: str, key_type: str, tmp_path: Path) -> None:
    service.tool("--token-label", token, "-k", "--key-type", key_type, "--label", "tls", "--id", "71", cwd=tmp_path)
    key = f"pkcs11:token={token};object=tls;type="
    (tmp_path / "template").write_text(
        'cn = "localhost"\ndns_name = "localhost"\nserial = 1\nexpiration_days = 30\nca\nsigning_key\ntls_www_server\n'
    )
    service.run(
        *("certtool", "--provider", MODULE, "--generate-self-signed", "--load-privkey", f"{key}private"),
        *("--load-pubkey", f"{key}public", "--template", "template", "--outfile", "own.pem"),
        cwd=tmp_path,
    )
    port = free_port()
    command = [
        *("gnutls-serv", "--provider", MODULE, "--x509keyfile", f"{key}private", "--x509certfile", "own.pem"),
        *("--http", "-p", str(port)),
    ]
    environment = {**os.environ, "P11_KIT_SERVER_ADDRESS": f"unix:path={service.socket}", "LC_ALL": "C"}
    with serving(command, "listening on", tmp_path, environment):
        for version in ("1.2", "1.3"):
            client = subprocess.run(
                [
                    *("gnutls-cli", "--x509cafile", "own.pem", "-p", str(port), "localhost"),
                    *("--priority", f"NORMAL:-VERS-ALL:+VERS-TLS{version}"),
                ],
                cwd=tmp_path,
                input=b"GET / HTTP/1.0\r\n\r\n",
                capture_output=True,
                timeout=30,
                check=False,
            )
            said = client.stdout.decode(errors="replace")
            assert f"Description: (TLS{version}" in said, said
            assert "The certificate is trusted" in said
            protocol = f"-tls{version.replace('.', '_')}"
            other = subprocess.run(
                ["openssl", "s_client", "-connect", f"localhost:{port}", "-CAfile", "own.pem", protocol],
                cwd=tmp_path,
                input=b"GET / HTTP/1.0\r\n\r\n",
                capture_output=True,
                timeout=30,
                check=False,
            )
            assert b"Verify return code: 0 (ok)" in other.stdout
    service.tool("--token-label", token, "-b", "-y", "privkey", "--id", "71", cwd=tmp_path)
