"""nginx serves TLS with keys of ours, by OpenSSL's engine; each of its processes has a connection of its own."""

import os
import pwd
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.interop.p11kit_client import MODULE, Service, service
from tests.interop.p11kit_servers import free_port

__all__ = ["service"]

_OPENSSL = f"""
openssl_conf = start
[start]
engines = engines
[engines]
pkcs11 = pkcs11
[pkcs11]
engine_id = pkcs11
MODULE_PATH = {MODULE}
init = 1
"""
_SETTINGS = """
daemon off;
user {user};
worker_processes 2;
pid nginx.pid;
error_log stderr notice;
env P11_KIT_SERVER_ADDRESS;
events {{}}
http {{
    access_log off;
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {folder}/web.pem;
        ssl_certificate_key "engine:pkcs11:{uri}";
        ssl_protocols TLSv1.2 TLSv1.3;
        ssl_session_cache off;
        location / {{ return 200 "served by a key in a slot\\n"; }}
    }}
}}
"""


@contextmanager
def nginx(service: Service, folder: Path, uri: str) -> Iterator[int]:
    """The port of an nginx that has started its processes."""
    port = free_port()
    user = pwd.getpwuid(os.getuid()).pw_name
    (folder / "nginx.conf").write_text(_SETTINGS.format(port=port, folder=folder, uri=uri, user=user))
    (folder / "openssl.cnf").write_text(_OPENSSL)
    server = subprocess.Popen(
        ["/usr/sbin/nginx", "-p", str(folder), "-c", "nginx.conf", "-e", "stderr"],
        env={
            **os.environ,
            "P11_KIT_SERVER_ADDRESS": f"unix:path={service.socket}",
            "OPENSSL_CONF": str(folder / "openssl.cnf"),
        },
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stderr is not None
        said = []
        for line in server.stderr:
            said.append(line)
            if "start worker process " in line:
                break
        else:
            raise AssertionError(f"nginx did not start: {''.join(said)}")
        yield port
    finally:
        server.terminate()
        server.communicate(timeout=30)


@pytest.mark.parametrize(("token", "key_type"), [("softhsm", "rsa:2048"), ("tpm", "EC:prime256v1")])
def test_nginx_serves_with_a_key_of_ours(service: Service, token: str, key_type: str, tmp_path: Path) -> None:
    service.tool("--token-label", token, "-k", "--key-type", key_type, "--label", "nginx", "--id", "09", cwd=tmp_path)
    uri = f"pkcs11:token={token};object=nginx;type=private"
    service.run(
        *("openssl", "req", "-new", "-x509", "-engine", "pkcs11", "-keyform", "engine", "-key", uri, "-days", "3"),
        *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-out", "web.pem"),
        cwd=tmp_path,
        PKCS11_MODULE_PATH=MODULE,
    )
    with nginx(service, tmp_path, uri) as port:
        for version in ("-tls1_2", "-tls1_3") * 3:
            answered = subprocess.run(
                [
                    *("openssl", "s_client", "-connect", f"127.0.0.1:{port}", version, "-CAfile", "web.pem"),
                    *("-verify_return_error", "-verify_hostname", "localhost", "-quiet"),
                ],
                cwd=tmp_path,
                input=b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n",
                capture_output=True,
                timeout=30,
                check=False,
            )
            assert b"served by a key in a slot" in answered.stdout, answered.stderr
    service.tool("--token-label", token, "-b", "-y", "privkey", "--id", "09", cwd=tmp_path)
