"""strongSwan's `pki --estca` and `pki --est` against our server, whose replies are one line: 5.9.8 reads no other."""

import subprocess
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from est.server.service import ServiceSettings
from tests.integration.est.lab import USERS, make_site


def pki(*arguments: str) -> bytes:
    done = subprocess.run(("pki", *arguments), capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_strongswan_fetches_the_ca_enrols_and_renews(tmp_path: Path) -> None:
    site = make_site(settings=ServiceSettings(wrap=0))
    root, issuing, key, request, cert = (tmp_path / one for one in ("root", "issuing", "key", "request", "cert"))
    root.write_bytes(site.root.certificate.public_bytes(serialization.Encoding.PEM))
    key.write_bytes(pki("--gen", "--type", "ecdsa", "--size", "256", "--outform", "pem"))
    request.write_bytes(
        pki("--req", "--in", str(key), "--type", "priv", "--dn", "CN=gateway", "--san", "gateway.example")
    )
    with site.serving() as listener:
        url = f"https://localhost:{listener.port}"
        pki("--estca", "--url", url, "--cacert", str(root), "--caout", str(tmp_path / "ca"), "--outform", "pem")
        (received,) = (x509.load_pem_x509_certificate(one.read_bytes()) for one in tmp_path.glob("ca-*.pem"))
        assert received == site.authority.issuer.certificate
        issuing.write_bytes(received.public_bytes(serialization.Encoding.PEM))
        asking = ("--est", "--url", url, "--in", str(request), "--cacert", str(root), "--cacert", str(issuing))
        cert.write_bytes(pki(*asking, "--userpass", f"device:{USERS['device']}", "--outform", "pem"))
        renewed = pki(*asking, "--cert", str(cert), "--key", str(key), "--outform", "pem")
    first, second = x509.load_pem_x509_certificate(cert.read_bytes()), x509.load_pem_x509_certificate(renewed)
    assert first.subject == second.subject
    assert first.serial_number != second.serial_number
    requesters = [one.requester for one in site.authority.record.certificates()]
    assert requesters[-2:] == ["user:device", "certificate:CN=gateway"]
