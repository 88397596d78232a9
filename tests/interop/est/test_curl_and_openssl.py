"""Programs that we did not write against our server and our messages: curl as an EST client, openssl as the reader."""

import base64
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from est import keys, oids
from est.asn1.cmc import CmcRequest, dump_request
from est.ca.profile import Profile
from est.cms.agreement import SoftwareAgreer
from est.cms.enveloped import Opener, Recipient, SharedKey, open_sealed, seal
from est.cms.key_package import open_key, seal_key
from est.cms.possession import make_challenge
from est.cms.signed import dump_signed, parse_signed
from est.csr.demands import Demands
from est.csr.linking import challenge
from est.csr.request import plan, sign_request
from est.keys import SoftwareKey
from est.server.listener import Listener
from tests.integration.est.lab import Site, ec_key, issue, make_site, named


def run(*command: str, given: bytes = b"") -> bytes:
    done = subprocess.run(command, input=given, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def openssl(*arguments: str, given: bytes = b"") -> bytes:
    return run("openssl", *arguments, given=given)


def pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(one.public_bytes(serialization.Encoding.PEM) for one in certificates)


def curl(site: Site, listener: Listener, folder: Path, operation: str, *more: str) -> bytes:
    (folder / "root.pem").write_bytes(pem(site.root.certificate))
    url = f"https://localhost:{listener.port}/.well-known/est/{operation}"
    resolve = f"localhost:{listener.port}:127.0.0.1"
    return run("curl", "-sS", "-f", "--cacert", str(folder / "root.pem"), "--resolve", resolve, *more, url)


def subjects(payload: bytes) -> str:
    return openssl("pkcs7", "-inform", "DER", "-print_certs", "-noout", given=base64.b64decode(payload)).decode()


@pytest.mark.parametrize("scheme", ["--digest", "--basic", "--anyauth"])
def test_curl_enrols_and_openssl_reads_the_certificate(tmp_path: Path, scheme: str) -> None:
    site = make_site()
    key, csr = tmp_path / "key.pem", tmp_path / "csr.der"
    openssl(
        "req",
        "-new",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-subj",
        "/CN=by-curl",
        "-keyout",
        str(key),
        "-outform",
        "DER",
        "-out",
        str(csr),
    )
    body = tmp_path / "csr.b64"
    body.write_bytes(base64.b64encode(csr.read_bytes()))
    with site.serving() as listener:
        assert "Test Issuing CA" in subjects(curl(site, listener, tmp_path, "cacerts"))
        more = (scheme, "-u", "device:a secret for the first enrolment", "--data-binary", f"@{body}")
        type_ = ("-H", "Content-Type: application/pkcs10")
        payload = curl(site, listener, tmp_path, "simpleenroll", *more, *type_)
        assert "by-curl" in subjects(payload)
        # The certificate that was just issued authenticates its own renewal.
        issued = openssl("pkcs7", "-inform", "DER", "-print_certs", given=base64.b64decode(payload))
        (tmp_path / "cert.pem").write_bytes(issued)
        identity = ("--cert", str(tmp_path / "cert.pem"), "--key", str(key))
        again = curl(site, listener, tmp_path, "simplereenroll", *identity, "--data-binary", f"@{body}", *type_)
        assert "by-curl" in subjects(again)


def test_openssl_reads_the_attributes_that_our_server_sends(tmp_path: Path) -> None:
    site = make_site(Profile(key="EC-P384", link=True, template=True))
    with site.serving() as listener:
        payload = curl(site, listener, tmp_path, "csrattrs")
    shown = openssl("asn1parse", "-inform", "DER", given=base64.b64decode(payload)).decode()
    assert "challengePassword" in shown
    assert "secp384r1" in shown


@pytest.mark.parametrize("private", [ec.generate_private_key(ec.SECP256R1()), rsa.generate_private_key(65537, 2048)])
def test_openssl_reads_a_request_with_everything(private: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> None:
    key = SoftwareKey(private)
    planned = plan(named("device", "device.example"), Demands(), private.public_key())
    der = sign_request(planned, key, challenge(b"a connection"))
    shown = openssl("req", "-inform", "DER", "-noout", "-text", "-verify", given=der).decode()
    assert "DNS:device.example" in shown
    assert challenge(b"a connection") in shown


@pytest.mark.parametrize("kind", ["RSA", "EC"])
def test_openssl_opens_what_we_seal_and_we_open_what_it_seals(tmp_path: Path, kind: str) -> None:
    site = make_site()
    made = rsa.generate_private_key(65537, 2048) if kind == "RSA" else ec.generate_private_key(ec.SECP256R1())
    key = SoftwareKey(made)
    certificate = issue(site.authority, key, named("receiver"))
    (tmp_path / "key.pem").write_bytes(key.to_pem())
    (tmp_path / "cert.pem").write_bytes(pem(certificate))
    sealed = seal(oids.DATA, b"content", Recipient(made.public_key(), certificate))
    recipient = ("-recip", str(tmp_path / "cert.pem"), "-inkey", str(tmp_path / "key.pem"))
    assert openssl("cms", "-decrypt", "-inform", "DER", *recipient, given=sealed) == b"content"
    opener = Opener(rsa=made) if isinstance(made, rsa.RSAPrivateKey) else Opener(agreement=SoftwareAgreer(made))
    options = ("-keyopt", "rsa_padding_mode:oaep") if kind == "RSA" else ("-keyopt", "ecdh_kdf_md:sha256")
    encrypt = ("cms", "-encrypt", "-binary", "-aes256", "-outform", "DER", "-recip", str(tmp_path / "cert.pem"))
    assert open_sealed(openssl(*encrypt, *options, given=b"content"), opener).content == b"content"
    package = seal_key(_pkcs8(ec_key()), Recipient(made.public_key(), certificate), key, certificate)
    inner = openssl("cms", "-decrypt", "-inform", "DER", *recipient, given=package)
    assert open_key(package, opener)[1].content in inner


@pytest.mark.parametrize("kind", ["RSA", "EC"])
def test_openssl_opens_the_challenge_for_a_key_that_does_not_sign(tmp_path: Path, kind: str) -> None:
    made = rsa.generate_private_key(65537, 2048) if kind == "RSA" else ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "key.pem").write_bytes(SoftwareKey(made).to_pem())
    for oaep in ("sha1", "sha256"):
        challenge = make_challenge(b"a request", Recipient(made.public_key(), oaep=oaep))
        opened = openssl(
            "cms", "-decrypt", "-inform", "DER", "-inkey", str(tmp_path / "key.pem"), given=challenge.encrypted.sealed
        )
        assert opened == challenge.proof_value


def test_openssl_opens_what_we_seal_under_a_shared_key() -> None:
    shared = SharedKey(b"device-7", bytes(range(32)))
    sealed = seal(oids.DATA, b"content", shared)
    secret = ("-secretkey", shared.secret.hex(), "-secretkeyid", shared.name.hex())
    assert openssl("cms", "-decrypt", "-inform", "DER", *secret, given=sealed) == b"content"
    encrypt = ("cms", "-encrypt", "-binary", "-aes256", "-outform", "DER", *secret)
    theirs = openssl(*encrypt, given=b"content")
    assert open_sealed(theirs, Opener(shared=(shared,))).content == b"content"


def test_openssl_verifies_our_signed_messages_and_we_verify_its(tmp_path: Path) -> None:
    site = make_site()
    identity = site.identity("signer")
    chain = tmp_path / "chain.pem"
    chain.write_bytes(pem(site.root.certificate, site.authority.issuer.certificate))
    request = sign_request(plan(named("x"), Demands(), identity.chain[0].public_key()), identity.key)
    data = dump_request(CmcRequest((), ((1, request),)))
    message = dump_signed(oids.CCT_PKI_DATA, data, identity.key, identity.chain[0], identity.chain[1:])
    verify = ("cms", "-verify", "-inform", "DER", "-CAfile", str(chain), "-purpose", "any", "-binary")
    assert request in openssl(*verify, given=message)
    (tmp_path / "cert.pem").write_bytes(pem(identity.chain[0]))
    key = identity.key
    assert isinstance(key, SoftwareKey)
    (tmp_path / "key.pem").write_bytes(key.to_pem())
    signer = ("-signer", str(tmp_path / "cert.pem"), "-inkey", str(tmp_path / "key.pem"))
    sign = ("cms", "-sign", "-binary", "-nodetach", "-outform", "DER", "-md", "sha256", *signer)
    theirs = parse_signed(openssl(*sign, given=b"content"))
    assert theirs.content == b"content"
    assert theirs.signer == identity.chain[0]
    assert parse_signed(dump_signed(oids.DATA, b"x", key), lambda _: key.signer.public_key()).signer is None


def test_openssl_verifies_our_crl(tmp_path: Path) -> None:
    site = make_site()
    identity = site.identity("gone")
    site.authority.revoke(f"{identity.chain[0].serial_number:x}", "superseded")
    crl = site.authority.crl().public_bytes(serialization.Encoding.PEM)
    (tmp_path / "ca.pem").write_bytes(pem(site.authority.issuer.certificate))
    shown = openssl("crl", "-CAfile", str(tmp_path / "ca.pem"), "-noout", "-text", given=crl).decode()
    assert "Superseded" in shown
    assert keys.key_type_oid(identity.chain[0].public_key()) == oids.EC_PUBLIC_KEY


def _pkcs8(key: SoftwareKey) -> bytes:
    return key.signer.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
