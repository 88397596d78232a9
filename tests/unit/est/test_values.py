"""The small parts: addresses, authentication, contexts, files."""

import socket
import ssl
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import x25519

from est import keys
from est.ca.profile import Profile
from est.client import EstAddress, Pending
from est.http.authorization import Challenge, Credentials, answer, parse_challenges
from est.tls.connection import TlsLimits, client_context
from est.tls.libssl import export_keying_material, has_extended_master_secret
from est.tls.server_identity import names_host
from est.trust.anchors import write_whole
from est.trust.fingerprint import read_fingerprint
from hsmbridge.core.errors import AccessError, RequestError
from tests.integration.est.lab import ec_key, make_site


@pytest.mark.parametrize(
    ("text", "host", "port", "label"),
    [
        ("ca.example", "ca.example", 443, ""),
        ("ca.example:8443", "ca.example", 8443, ""),
        ("https://ca.example/.well-known/est/", "ca.example", 443, ""),
        ("https://ca.example:1/.well-known/est/devices", "ca.example", 1, "devices"),
        ("https://[2001:db8::1]:8443", "2001:db8::1", 8443, ""),
    ],
)
def test_an_address_is_https_below_the_well_known_path(text: str, host: str, port: int, label: str) -> None:
    assert EstAddress.parse(text) == EstAddress(host, port, label)


@pytest.mark.parametrize("text", ["http://ca.example", "https://ca.example/est", "https://u:p@ca.example", "", "a:b"])
def test_another_address_is_refused(text: str) -> None:
    with pytest.raises(RequestError):
        EstAddress.parse(text)


def test_a_label_is_not_the_name_of_an_operation() -> None:
    assert EstAddress("ca.example", label="a b").target("cacerts") == "/.well-known/est/a%20b/cacerts"
    for label in ("cacerts", "a/b"):
        with pytest.raises(RequestError, match="label"):
            EstAddress("ca.example", label=label)


def test_the_strongest_scheme_is_answered() -> None:
    header = 'Basic realm="a, b", Digest realm="r", nonce="n", qop="auth", algorithm=MD5, Digest realm="r", '
    header += 'nonce="n", qop="auth,auth-int", algorithm=SHA-256'
    challenges = parse_challenges(header)
    assert [one.scheme for one in challenges] == ["basic", "digest", "digest"]
    assert challenges[0].parameters["realm"] == "a, b"
    assert "algorithm=SHA-256" in answer(challenges, Credentials("u", "p"), "POST", "/x")
    assert "algorithm=MD5" in answer(challenges[:2], Credentials("u", "p"), "POST", "/x")
    assert answer(challenges[:1], Credentials("", "p"), "POST", "/x") == "Basic OnA="
    with pytest.raises(AccessError, match="bearer"):
        answer(challenges, Credentials(token="t"), "POST", "/x")
    assert answer([Challenge("bearer", {})], Credentials(token="t"), "GET", "/x") == "Bearer t"


def test_digest_gives_the_values_of_rfc_7616(monkeypatch: pytest.MonkeyPatch) -> None:
    """The example of section 3.9.1, whose cnonce is fixed."""
    nonce, cnonce = "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"
    monkeypatch.setattr("est.http.authorization.secrets.token_hex", lambda _: cnonce)
    expected = {
        "MD5": "8ca523f5e9506fed4657c9700eebdbec",
        "SHA-256": "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1",
    }
    for algorithm, response in expected.items():
        parameters = {"realm": "http-auth@example.org", "qop": "auth, auth-int", "algorithm": algorithm, "nonce": nonce}
        credentials = Credentials("Mufasa", "Circle of Life")
        header = answer([Challenge("digest", parameters)], credentials, "GET", "/dir/index.html")
        assert f'response="{response}"' in header


def test_a_user_name_cannot_bring_another_header() -> None:
    challenge = Challenge("digest", {"realm": "r", "nonce": "n", "qop": "auth", "algorithm": "SHA-256"})
    with pytest.raises(RequestError):
        answer([challenge], Credentials("u\r\nX: y", "p"), "GET", "/")


def test_a_client_offers_nothing_weak() -> None:
    context = client_context(TlsLimits())
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.options & ssl.OP_NO_RENEGOTIATION
    for suite in context.get_ciphers():
        assert not any(weak in str(suite["name"]) for weak in ("NULL", "EXP", "DES", "RC4", "ADH", "AECDH", "MD5"))


def test_the_extended_master_secret_can_be_told() -> None:
    site = make_site()
    for highest in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        with site.serving() as listener:
            context = client_context(TlsLimits(highest=highest))
            context.load_verify_locations(cadata=_pem(site))
            with (
                socket.create_connection(("127.0.0.1", listener.port), timeout=10) as plain,
                context.wrap_socket(plain, server_hostname="localhost") as sock,
            ):
                material = export_keying_material(sock, b"EXPORTER-Channel-Binding", 32)
                assert len(material) == 32
                if highest is ssl.TLSVersion.TLSv1_2:
                    assert has_extended_master_secret(sock) is True


def _pem(site) -> str:  # type: ignore[no-untyped-def]  # a Site
    from cryptography.hazmat.primitives import serialization

    found: bytes = site.root.certificate.public_bytes(serialization.Encoding.PEM)
    return found.decode()


def test_a_wildcard_stands_for_one_label() -> None:
    certificate = make_site(server_name="*.example.org").server_chain[0]
    assert names_host(certificate, "a.Example.org.")
    assert not names_host(certificate, "a.b.example.org")
    assert not names_host(certificate, "example.org")
    assert not names_host(make_site(server_name="*.org").server_chain[0], "example.org")


def test_a_fingerprint_is_read_with_and_without_separators() -> None:
    assert read_fingerprint("AA:" * 31 + "aa") == "aa" * 32
    for wrong in ("", "aa", "zz" * 32, "aa" * 20):
        with pytest.raises(RequestError):
            read_fingerprint(wrong)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, b"old", 0o600)
    seen: set[bytes] = set()
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            seen.add(path.read_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    for _ in range(20):
        write_whole(path, b"new" * 1000, 0o600)
        write_whole(path, b"old", 0o600)
    done.set()
    watcher.join()
    assert seen <= {b"old", b"new" * 1000}
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


def test_a_pending_record_of_something_else_is_refused() -> None:
    for text in ("", "{}", "[]", '{"operation": 1}'):
        with pytest.raises(RequestError):
            Pending.from_json(text)


def test_a_profile_says_what_is_wrong_with_it() -> None:
    for table in ({"lifetime": "long"}, {"unknown": 1}, {"usages": ["everything"]}, {"key": "DES"}, {"lifetime": 0}):
        with pytest.raises(RequestError):
            Profile.from_table("x", table)
    assert Profile.from_table("x", {"usages": ["clientAuth"], "lifetime": 30}).lifetime == 30


def test_a_key_that_cannot_sign_is_refused_and_secrets_are_not_shown() -> None:
    with pytest.raises(RequestError, match="sign"):
        keys.SoftwareKey(x25519.X25519PrivateKey.generate())
    assert repr(ec_key()) == "SoftwareKey(...)"
    assert "secret" not in repr(Credentials("u", "secret", "secret"))
