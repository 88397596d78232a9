"""nginx and Apache serve TLS with keys of ours, by OpenSSL's engine; each of their processes has its own connection.

Both open the key as root and sign as www-data, who is another user to the daemon: so it is where root runs the tests.
Run by anybody else the servers do both as that user, and the test of www-data's rights belongs to those of `--all`.
"""

import json
import os
import pwd
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from hsmbridge.client import KeyOperationPermission as P
from tests.interop.p11kit_client import MODULE, Service, start
from tests.interop.p11kit_servers import free_port, wait_until_it_says

ROOT = os.geteuid() == 0
SIGNER = 33 if ROOT else os.geteuid()
"""www-data, by its number in every Debian."""
USER = pwd.getpwuid(SIGNER).pw_name
by_root = pytest.mark.usefixtures("service") if ROOT else pytest.mark.all

Server = Callable[[Service, Path, str], AbstractContextManager[int]]
"""The port of a server that runs, with the URI of its key."""

_NGINX = """
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
_APACHE = """
ServerRoot {folder}
ServerName localhost
PidFile {folder}/apache.pid
Mutex file:{folder}
ErrorLog /dev/stderr
LogLevel notice
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
LoadModule alias_module /usr/lib/apache2/modules/mod_alias.so
LoadModule ssl_module /usr/lib/apache2/modules/mod_ssl.so
User {user}
Group {group}
StartServers 2
Listen 127.0.0.1:{port}
Redirect 410 /
ErrorDocument 410 "served by a key in a slot"
SSLSessionCache none
<VirtualHost 127.0.0.1:{port}>
    SSLEngine on
    SSLCertificateFile {folder}/web.pem
    SSLCertificateKeyFile "{uri}"
</VirtualHost>
"""


def nginx(service: Service, folder: Path, uri: str) -> AbstractContextManager[int]:
    port = free_port()
    (folder / "nginx.conf").write_text(_NGINX.format(port=port, folder=folder, uri=uri, user=USER))
    (folder / "openssl.cnf").write_text(_OPENSSL)
    command = ["/usr/sbin/nginx", "-p", str(folder), "-c", "nginx.conf", "-e", "stderr"]
    return serving(service, port, command, "start worker process ", OPENSSL_CONF=str(folder / "openssl.cnf"))


def apache(service: Service, folder: Path, uri: str) -> AbstractContextManager[int]:
    port = free_port()
    group = pwd.getpwuid(SIGNER).pw_gid
    settings = _APACHE.format(port=port, folder=folder, uri=uri, user=USER, group=f"#{group}")
    (folder / "apache.conf").write_text(settings)
    command = ["/usr/sbin/apache2", "-f", str(folder / "apache.conf"), "-DFOREGROUND"]
    return serving(service, port, command, "resuming normal operations", PKCS11_MODULE_PATH=MODULE)


@contextmanager
def serving(service: Service, port: int, command: list[str], ready: str, **environment: str) -> Iterator[int]:
    """A server from the moment that it says so, and until it has ended with its processes."""
    address = f"unix:path={service.socket}"
    server = subprocess.Popen(
        command,
        env={**os.environ, "P11_KIT_SERVER_ADDRESS": address, **environment},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until_it_says(ready, server.stderr, command)
        yield port
    finally:
        server.terminate()
        server.communicate(timeout=30)


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    namespace = f'[namespaces.web]\ncreators = ["uid:{os.geteuid()}"]'
    with start(f'socket_mode = "0666"\n{namespace}\n[log]\naudit_uses = true') as lab:
        lab.directory.chmod(0o711)
        yield Service(lab)


@contextmanager
def key(service: Service, name: str, token: str, key_type: str, folder: Path) -> Iterator[str]:
    """The URI of a key in a namespace that is nobody's own, so that all call it alike; web.pem is its certificate."""
    uri = f"pkcs11:token={token};object=web%2F{name};type=private"
    with service.lab.stack() as stack:
        stack.create_slot(f"web/{name}", key_type, P.SIGN | P.VERIFY, providers=[token])
        service.run(
            *("openssl", "req", "-new", "-x509", "-engine", "pkcs11", "-keyform", "engine", "-key", uri, "-days", "3"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-out", "web.pem"),
            cwd=folder,
            PKCS11_MODULE_PATH=MODULE,
        )
        yield uri
        stack.destroy(f"web/{name}")


def fetched(port: int, version: str, folder: Path) -> str:
    """What a client of TLS gets and says, which verifies the certificate."""
    ended = subprocess.run(
        [
            *("openssl", "s_client", "-connect", f"127.0.0.1:{port}", version, "-CAfile", "web.pem"),
            *("-verify_return_error", "-verify_hostname", "localhost", "-quiet"),
        ],
        cwd=folder,
        input="GET / HTTP/1.0\r\nHost: localhost\r\n\r\n",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=30,
        check=False,
    )
    return ended.stdout


def signers(service: Service, name: str) -> set[object]:
    """Who has signed with a key, by the audit."""
    lines = (json.loads(line) for line in service.lab.log.read_text().splitlines() if line.startswith("{"))
    of_it = (line for line in lines if line.get("operation") == "sign" and line["subject"] == f"web/{name}")
    return {line["principal"] for line in of_it if line["status"] == "OK"}


@pytest.mark.parametrize(
    ("server", "token", "key_type"),
    [
        (nginx, "softhsm", "RSA-2048"),
        (nginx, "tpm", "EC-P256"),
        (apache, "softhsm", "EC-P384"),
        (apache, "tpm", "RSA-2048"),
    ],
)
def test_tls_is_served_with_a_key_of_ours(
    service: Service, server: Server, token: str, key_type: str, tmp_path: Path
) -> None:
    name = f"{server.__name__}-{token}"
    with key(service, name, token, key_type, tmp_path) as uri, service.lab.stack() as stack:
        if ROOT:
            stack.grant(f"web/{name}", f"uid:{SIGNER}", P.SIGN)
        with server(service, tmp_path, uri) as port:
            for version in ("-tls1_2", "-tls1_3") * 3:
                assert "served by a key in a slot" in fetched(port, version, tmp_path)
        assert f"uid:{SIGNER}" in signers(service, name)


@by_root
@pytest.mark.parametrize("server", [nginx, apache])
def test_www_data_signs_from_the_moment_that_it_is_let_in(service: Service, server: Server, tmp_path: Path) -> None:
    name = f"later-{server.__name__}"
    with (
        key(service, name, "software", "EC-P256", tmp_path) as uri,
        service.lab.stack() as stack,
        server(service, tmp_path, uri) as port,
    ):
        assert "alert internal error" in fetched(port, "-tls1_3", tmp_path)
        assert signers(service, name) == {"uid:0"}, "which made the certificate"
        stack.grant(f"web/{name}", f"uid:{SIGNER}", P.SIGN)
        assert "served by a key in a slot" in fetched(port, "-tls1_3", tmp_path)
        stack.ungrant(f"web/{name}", f"uid:{SIGNER}")
        assert "alert internal error" in fetched(port, "-tls1_3", tmp_path)
