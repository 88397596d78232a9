"""nginx with a certificate that `est service` renews and has it read again: docs/est/README.md, "A web server"."""

import json
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from est.ca.profile import Profile
from est.service.control import ask
from tests.integration.est.lab import make_site
from tests.integration.est.test_service import configure, folder, service

__all__ = ["folder"]

DEADLINE = 30.0
"""Seconds that a server has to listen, and to show a new certificate."""

SETTINGS = """
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log;
events {{}}
http {{
    access_log off;
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {folder}/web/current/chain.pem;
        ssl_certificate_key {folder}/web/current/key.pem;
    }}
}}
"""


@contextmanager
def nginx(folder: Path, port: int) -> Iterator[None]:
    running = subprocess.Popen(("nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")))
    try:
        end = time.monotonic() + DEADLINE
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=5).close()
                break
            except ConnectionRefusedError:
                assert time.monotonic() < end
                assert running.poll() is None
        yield
    finally:
        running.terminate()
        running.wait(20)


def shown(port: int, root: Path) -> int:
    """The serial number of the certificate that openssl sees and verifies."""
    command = ("openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-servername", "localhost", "-CAfile", str(root))
    checks = ("-verify_return_error", "-verify_hostname", "localhost")
    done = subprocess.run((*command, *checks), input=b"", capture_output=True, timeout=20, check=False)
    assert done.returncode == 0, done.stderr
    return x509.load_pem_x509_certificate(done.stdout).serial_number


def test_nginx_shows_each_renewed_certificate_and_no_handshake_fails(folder: Path) -> None:
    site = make_site(Profile(lifetime=60))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    (folder / "nginx.conf").write_text(SETTINGS.format(folder=folder, port=port))
    root = folder / "root.pem"
    root.write_bytes(site.root.certificate.public_bytes(serialization.Encoding.PEM))
    again = json.dumps(["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"), "-s", "reload"])
    with site.serving() as listener:
        file = configure(folder, site, listener, ("web",), f"reload = {again}")
        with service(file):
            ask(folder / "control", "renew", "web")
            with nginx(folder, port):
                seen = {shown(port, root)}
                for _ in range(3):
                    told = ask(folder / "control", "renew", "web")
                    assert isinstance(told, dict)
                    wanted, end = int(str(told["serial"]), 16), time.monotonic() + DEADLINE
                    while (serial := shown(port, root)) != wanted:
                        assert serial in seen
                        assert time.monotonic() < end
                    seen.add(wanted)
    assert len(seen) == 4
