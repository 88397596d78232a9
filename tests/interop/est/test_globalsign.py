"""Our client against the EST server of the Go module github.com/globalsign/est. Needs Go and its modules: `--all`."""

import json
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from est.client import ClientConfiguration, Enrolled, EstAddress, EstClient, Pending, ServerMadeKey
from est.csr.demands import Demands
from est.csr.linking import Link
from est.keys import SoftwareKey
from est.tls.connection import ClientIdentity
from est.trust.anchors import TrustAnchors
from hsmbridge.core.errors import AccessError
from tests.integration.est.lab import TLS12, Site, ec_key, make_site, named

HERE = Path(__file__).parent / "globalsign"
START = 60.0
"""Seconds that the server has to listen."""


@contextmanager
def serving(folder: Path, site: Site) -> Iterator[int]:
    """The server, with the certificates of a site of ours."""
    binary = folder / "estserver"
    build = ("go", "build", "-mod=mod", "-o", str(binary), "github.com/globalsign/est/cmd/estserver")
    built = subprocess.run(build, cwd=HERE, capture_output=True, text=True, timeout=500, check=False)
    assert built.returncode == 0, built.stderr
    write(folder / "ca.pem", site.authority.issuer.certificate, site.root.certificate)
    write(folder / "root.pem", site.root.certificate)
    write(folder / "server.pem", *site.server_chain)
    for name, key in (("ca", site.authority.issuer.key), ("server", site.server_key)):
        assert isinstance(key, SoftwareKey)
        (folder / f"{name}.key").write_bytes(key.to_pem())
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    settings = {
        "mock_ca": {"certificates": str(folder / "ca.pem"), "private_key": str(folder / "ca.key")},
        "tls": {
            "listen_address": f"127.0.0.1:{port}",
            "certificates": str(folder / "server.pem"),
            "private_key": str(folder / "server.key"),
            "client_cas": [str(folder / "root.pem")],
        },
        "timeout": 30,
        "log_file": str(folder / "log"),
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    running = subprocess.Popen([str(binary), "-config", str(folder / "settings.json")])
    try:
        end = time.monotonic() + START
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=5).close()
                break
            except ConnectionRefusedError:
                assert time.monotonic() < end
                assert running.poll() is None
        yield port
    finally:
        running.kill()
        running.wait(20)


def write(path: Path, *certificates: x509.Certificate) -> None:
    path.write_bytes(b"".join(one.public_bytes(serialization.Encoding.PEM) for one in certificates))


def enrolled(result: object) -> Enrolled:
    assert isinstance(result, Enrolled)
    return result


@pytest.mark.all
@pytest.mark.timeout(600)
def test_our_client_and_the_server_of_globalsign(tmp_path: Path) -> None:
    site = make_site()
    with serving(tmp_path, site) as port:
        known = ClientConfiguration(
            EstAddress("localhost", port), TrustAnchors((site.root.certificate,)), timeout=30, tls=TLS12
        )
        with EstClient(known) as client:
            found = client.cacerts()
            assert found.anchors == (site.root.certificate,)
            assert found.intermediates == (site.authority.issuer.certificate,)
        known = replace(known, anchors=TrustAnchors(found.anchors, found.intermediates))
        with EstClient(known) as client:
            assert client.csrattrs() == Demands()
            keys = (ec_key(), SoftwareKey(rsa.generate_private_key(65537, 2048)))
            first, other = (enrolled(client.enroll(key, named("device", "device.example"))) for key in keys)
            assert isinstance(other.certificate.public_key(), rsa.RSAPublicKey)
        linked = replace(known, link=Link.REQUIRE)
        with EstClient(linked) as client:
            enrolled(client.enroll(ec_key(), named("linked")))
        for key, got in zip(keys, (first, other), strict=True):
            mine = ClientIdentity(key, (got.certificate, *got.chain[:-1]))
            renewing = replace(known, identity=mine)
            with EstClient(renewing) as client:
                renewed = enrolled(client.reenroll(key, got.certificate))
                assert renewed.certificate.serial_number != got.certificate.serial_number
                rekeyed = enrolled(client.reenroll(ec_key(), got.certificate))
                assert isinstance(rekeyed.certificate.public_key(), ec.EllipticCurvePublicKey)
        with EstClient(known) as client:
            with pytest.raises(AccessError, match="without encryption"):
                client.server_keygen(ec_key(), named("made"))
            made = client.server_keygen(ec_key(), named("made"), allow_plain=True)
            assert isinstance(made, ServerMadeKey)
            assert SoftwareKey.from_der(made.pkcs8).signer.public_key() == made.enrolled.certificate.public_key()
        # Its label "csrattrs", where it lists attributes, is an operation's name, which our client does not take.
        with EstClient(replace(known, address=EstAddress("localhost", port, "triggererrors"))) as client:
            waiting = client.enroll(ec_key(), named("Trigger Error Deferred"), Demands())
            assert isinstance(waiting, Pending)
            assert waiting.not_before - waiting.first_asked == pytest.approx(600)
            with pytest.raises(AccessError, match="triggered forbidden"):
                client.enroll(ec_key(), named("Trigger Error Forbidden"), Demands())
