"""Several identities, and a server that names the CAs it takes certificates of: openssl's, as Python's names none."""

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given, strategies

from est.ca.authority import Authority, new_root
from est.ca.record import Record
from est.client import ClientConfiguration, EstAddress, EstClient
from est.keys import SoftwareKey
from est.tls.certificate_request import CertificateRequest, parse_certificate_request
from est.tls.choosing import choose_identity
from est.tls.connection import ClientIdentity, TlsLimits
from est.trust.anchors import TrustAnchors
from hsmbridge.core.errors import WireError
from tests.integration.est.lab import TLS12, TLS13, Site, ec_key, issue, make_site, named

each_version = pytest.mark.parametrize("tls", [TLS12, TLS13], ids=["TLS 1.2", "TLS 1.3"])
START = 30.0
"""Seconds that the server has to listen."""


@contextmanager
def openssl_server(folder: Path, site: Site, *more: str, insists: bool = True) -> Iterator[int]:
    """A web server that insists on a certificate of the site's CAs."""
    takes = (site.root.certificate, site.authority.issuer.certificate)
    for name, certificates in (("server", site.server_chain), ("takes", takes)):
        pem = b"".join(one.public_bytes(serialization.Encoding.PEM) for one in certificates)
        (folder / f"{name}.pem").write_bytes(pem)
    assert isinstance(site.server_key, SoftwareKey)
    (folder / "server.key").write_bytes(site.server_key.to_pem())
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    command = ("openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-www", "-quiet", "-verify_return_error")
    files = ("-cert", "server.pem", "-cert_chain", "server.pem", "-key", "server.key", "-CAfile", "takes.pem")
    verify = ("-Verify", "3") if insists else ()
    running = subprocess.Popen((*command, *files, *verify, *more), cwd=folder, stdout=subprocess.DEVNULL)
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


def choose(port: int, tls: TlsLimits, *identities: ClientIdentity) -> ClientIdentity | None:
    return choose_identity("127.0.0.1", port, identities, limits=tls, deadline=time.monotonic() + 20)


def manufacturers(key: SoftwareKey) -> ClientIdentity:
    authority = Authority(new_root(ec_key(), "Manufacturer"), Record(":memory:"))
    return ClientIdentity(key, (issue(authority, key, named("factory")),))


@each_version
def test_the_identity_that_the_server_takes_is_chosen_and_accepted(tmp_path: Path, tls: TlsLimits) -> None:
    site = make_site()
    foreign, mine = manufacturers(ec_key()), site.identity("device")
    with openssl_server(tmp_path, site) as port:
        assert choose(port, tls, foreign) is None
        assert choose(port, tls, foreign, mine) == mine
        anchors = TrustAnchors((site.root.certificate,), (site.authority.issuer.certificate,))
        known = ClientConfiguration(EstAddress("localhost", port), anchors, tls=tls, identities=(foreign, mine))
        with EstClient(known) as client, pytest.raises(WireError, match="type 'text/html'"):
            # It lets us in, and knows nothing of EST.
            client.cacerts()


@each_version
def test_a_key_that_signs_as_the_server_wants_is_chosen(tmp_path: Path, tls: TlsLimits) -> None:
    site = make_site()
    key = SoftwareKey(rsa.generate_private_key(65537, 2048))
    by_rsa = ClientIdentity(key, (issue(site.authority, key, named("device")), site.authority.issuer.certificate))
    by_ec = site.identity("device")
    with openssl_server(tmp_path, site, "-client_sigalgs", "ECDSA+SHA256") as port:
        assert choose(port, tls, by_rsa, by_ec) == by_ec


def test_a_server_that_asks_for_no_certificate_gets_none(tmp_path: Path) -> None:
    site = make_site()
    with openssl_server(tmp_path, site, insists=False) as port:
        assert choose(port, TLS13, site.identity("device")) is None


@given(strategies.binary(max_size=200), strategies.booleans())
def test_a_request_of_noise_says_nothing_or_something(noise: bytes, tls13: bool) -> None:
    assert isinstance(parse_certificate_request(noise, tls13=tls13), CertificateRequest)
