"""Client against server over real TLS: the certificates that are given, and those that are refused."""

import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, mldsa, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from est import keys
from est.ca.profile import Profile
from est.client import Enrolled, EstClient, Pending, ServerMadeKey
from est.client.bootstrap import bootstrap
from est.cms.agreement import SoftwareAgreer
from est.cms.enveloped import Opener, SharedKey
from est.csr.linking import Link
from est.csr.request import Wishes
from est.http.authorization import Credentials
from est.keys import SoftwareKey
from est.server.service import ServiceSettings
from est.tls.connection import TlsLimits
from est.trust.fingerprint import fingerprint
from hsmbridge.core.errors import AccessError, CertificateError, HsmBridgeError, RequestError
from tests.integration.est.lab import TLS12, TLS13, USERS, ec_key, issue, make_site, named

PASSWORD = Credentials("device", USERS["device"])
VERSIONS = pytest.mark.parametrize("tls", [TLS12, TLS13], ids=["TLS 1.2", "TLS 1.3"])
KEYS: dict[str, Callable[[], PrivateKeyTypes]] = {
    "EC": lambda: ec.generate_private_key(ec.SECP256R1()),
    "EC P-384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "RSA": lambda: rsa.generate_private_key(65537, 2048),
    "ML-DSA": mldsa.MLDSA65PrivateKey.generate,
}


def enrolled(result: Enrolled | Pending) -> Enrolled:
    assert isinstance(result, Enrolled)
    return result


@VERSIONS
@pytest.mark.parametrize("kind", KEYS)
def test_a_device_enrols_with_a_password(tls: TlsLimits, kind: str) -> None:
    site = make_site()
    made: PrivateKeyTypes = KEYS[kind]()
    key = SoftwareKey(made)
    with site.serving() as listener, EstClient(site.client(listener, tls=tls, credentials=PASSWORD)) as client:
        result = enrolled(client.enroll(key, named("device-1", "device-1.example")))
    assert keys.spki(result.certificate.public_key()) == keys.spki(key.signer.public_key())
    assert result.chain[-1] == site.root.certificate
    assert site.authority.record.certificates()[-1].requester == "user:device"


@VERSIONS
def test_a_certificate_is_renewed_and_rekeyed_with_itself(tls: TlsLimits) -> None:
    site = make_site(users={})
    old = site.identity("device-2", "device-2.example")
    with site.serving() as listener, EstClient(site.client(listener, tls=tls, identity=old)) as client:
        renewed = enrolled(client.reenroll(old.key, old.chain[0]))
        new_key = ec_key()
        rekeyed = enrolled(client.reenroll(new_key, old.chain[0]))
    assert renewed.certificate.serial_number != old.chain[0].serial_number
    assert renewed.certificate.subject.public_bytes() == old.chain[0].subject.public_bytes()
    assert keys.spki(rekeyed.certificate.public_key()) == keys.spki(new_key.signer.public_key())


def test_a_renewal_with_another_name_is_refused_by_the_server() -> None:
    site = make_site(users={})
    old = site.identity("device-2")
    other = site.identity("device-3")
    with (
        site.serving() as listener,
        EstClient(site.client(listener, identity=old)) as client,
        pytest.raises(AccessError, match="other names"),
    ):
        client.reenroll(old.key, other.chain[0])


def test_a_renewal_asks_for_other_names_and_gets_them_where_the_profile_says_so() -> None:
    site = make_site(Profile(rename=True, dns_suffixes=("example",)), users={})
    old = site.identity("device-2", "device-2.example")
    with site.serving() as listener, EstClient(site.client(listener, identity=old)) as client:
        both = enrolled(client.reenroll(old.key, old.chain[0], change=named("device-3", "device-3.example")))
        subject = enrolled(client.reenroll(old.key, old.chain[0], change=named("device-4")))
        names = enrolled(client.reenroll(old.key, old.chain[0], change=Wishes.of(None, [x509.DNSName("x.example")])))
        with pytest.raises(AccessError, match="does not give the name"):
            client.reenroll(old.key, old.chain[0], change=named("device-5", "device-5.elsewhere"))
    got = [(one.certificate.subject.rfc4514_string(), *dns_names(one)) for one in (both, subject, names)]
    assert got == [
        ("CN=device-3", "device-3.example"),
        ("CN=device-4", "device-2.example"),
        ("CN=device-2", "x.example"),
    ]
    waiting = make_site(Profile(rename=True, approve=False, retry_after=0), users={})
    old = waiting.identity("device-2")
    with waiting.serving() as listener, EstClient(waiting.client(listener, identity=old)) as client:
        assert isinstance(client.reenroll(old.key, old.chain[0]), Pending)
        assert isinstance(client.reenroll(old.key, old.chain[0], change=named("device-3")), Pending)
    assert [one.subject for one in waiting.authority.record.waiting()] == [
        "CN=device-2",
        "CN=device-3 (was CN=device-2; other names: none)",
    ]
    fixed = make_site(users={})
    old = fixed.identity("device-2")
    with (
        fixed.serving() as listener,
        EstClient(fixed.client(listener, identity=old)) as client,
        pytest.raises(AccessError, match="changes no names"),
    ):
        client.reenroll(old.key, old.chain[0], change=named("device-3"))


def dns_names(got: Enrolled) -> list[str]:
    value = got.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return value.get_values_for_type(x509.DNSName)


def test_nobody_gets_a_certificate_without_authentication() -> None:
    site = make_site()
    with (
        site.serving() as listener,
        EstClient(site.client(listener)) as client,
        pytest.raises(AccessError, match="authentication"),
    ):
        client.enroll(ec_key(), named("device-1"))
    assert len(site.authority.record.certificates()) == 1


def test_a_wrong_password_is_refused() -> None:
    site = make_site()
    wrong = Credentials("device", "wrong")
    with (
        site.serving() as listener,
        EstClient(site.client(listener, credentials=wrong)) as client,
        pytest.raises(AccessError, match="401"),
    ):
        client.enroll(ec_key(), named("device-1"))


def test_a_revoked_certificate_renews_nothing() -> None:
    site = make_site(users={})
    old = site.identity()
    site.authority.revoke(f"{old.chain[0].serial_number:x}", "keyCompromise")
    with (
        site.serving() as listener,
        EstClient(site.client(listener, identity=old)) as client,
        pytest.raises(AccessError, match="403"),
    ):
        client.reenroll(old.key, old.chain[0])
    assert site.authority.crl().get_revoked_certificate_by_serial_number(old.chain[0].serial_number) is not None


def test_a_linked_request_is_signed_for_its_connection() -> None:
    site = make_site(Profile(link=True))
    with site.serving() as listener:
        given = site.client(listener, tls=TLS12, credentials=PASSWORD, link=Link.REQUIRE)
        with EstClient(given) as client:
            enrolled(client.enroll(ec_key(), named("linked")))
        # tls-unique is refused over TLS 1.3, where it names nothing; tls-exporter is an agreement of both sides.
        with EstClient(replace(given, tls=TLS13, link=Link.NONE)) as client, pytest.raises(RequestError, match=r"1\.3"):
            client.enroll(ec_key(), named("linked"))
        with EstClient(replace(given, tls=TLS13, link=Link.EXPORTER)) as client:
            enrolled(client.enroll(ec_key(), named("linked")))


def test_requiring_a_link_limits_the_connection_to_tls_1_2() -> None:
    site = make_site()
    with (
        site.serving() as listener,
        EstClient(site.client(listener, credentials=PASSWORD, link=Link.REQUIRE)) as client,
    ):
        enrolled(client.enroll(ec_key(), named("linked")))


def test_a_request_linked_to_another_connection_is_refused() -> None:
    site = make_site()
    from est.server.messages import Peer, ServerRequest, ServerResponse

    def foreign(handler):  # type: ignore[no-untyped-def]  # a wrapper around the real handler
        def handle(request: ServerRequest, peer: Peer) -> ServerResponse:
            answer: ServerResponse = handler(request, replace(peer, bindings=(b"another connection",)))
            return answer

        return handle

    with (
        site.serving(foreign) as listener,
        EstClient(site.client(listener, tls=TLS12, credentials=PASSWORD)) as client,
        pytest.raises(AccessError, match="mismatch"),
    ):
        client.enroll(ec_key(), named("linked"))


@pytest.mark.parametrize("template", [False, True], ids=["elements", "template"])
def test_a_key_that_the_server_does_not_want_is_refused_before_anything_is_sent(template: bool) -> None:
    site = make_site(Profile(key="EC-P384", template=template))
    with site.serving() as listener, EstClient(site.client(listener, credentials=PASSWORD)) as client:
        with pytest.raises(RequestError, match="secp384r1"):
            client.enroll(ec_key(), named("device", "device.example"))
        good = SoftwareKey(ec.generate_private_key(ec.SECP384R1()))
        enrolled(client.enroll(good, named("device", "device.example")))


def test_waiting_is_data_and_ends_with_the_approval() -> None:
    site = make_site(Profile(approve=False, retry_after=0))
    key, wishes = ec_key(), named("patient")
    with site.serving() as listener:
        given = site.client(listener, credentials=PASSWORD)
        with EstClient(given) as client:
            first = client.enroll(key, wishes)
        assert isinstance(first, Pending)
        pending = Pending.from_json(first.to_json())
        for _ in range(2):
            with EstClient(given) as client:
                again = client.resume(pending, key, wishes)
            assert isinstance(again, Pending)
            assert again.first_asked == first.first_asked
            pending = again
        with EstClient(given) as client, pytest.raises(RequestError, match="another"):
            client.resume(pending, ec_key(), wishes)
        with EstClient(given) as client, pytest.raises(RequestError, match="early"):
            client.resume(replace(pending, not_before=time.time() + 60), key, wishes)
        (waiting,) = site.authority.record.waiting()
        site.authority.record.approve(waiting.id)
        with EstClient(given) as client:
            enrolled(client.resume(pending, key, wishes))
    assert len([one for one in site.authority.record.certificates() if one.subject == "CN=patient"]) == 1


@VERSIONS
def test_a_full_cmc_request_is_answered_by_the_ca(tls: TlsLimits) -> None:
    site = make_site()
    identity = site.identity()
    with site.serving() as listener:
        with EstClient(site.client(listener, tls=tls, identity=identity)) as client:
            enrolled(client.full_cmc(ec_key(), named("by-cmc")))
        with EstClient(site.client(listener, tls=tls, credentials=PASSWORD)) as client:
            enrolled(client.full_cmc(ec_key(), named("by-cmc-and-password")))


def test_a_refusal_in_cmc_tells_its_reason() -> None:
    site = make_site(Profile(dns_suffixes=("example",)))
    with (
        site.serving() as listener,
        EstClient(site.client(listener, credentials=PASSWORD)) as client,
        pytest.raises(RequestError, match="does not give the name"),
    ):
        client.full_cmc(ec_key(), named("by-cmc", "elsewhere.test"))


def opener_for(key: SoftwareKey) -> Opener:
    match key.signer:
        case rsa.RSAPrivateKey() as private:
            return Opener(rsa=private)
        case ec.EllipticCurvePrivateKey() as private:
            return Opener(agreement=SoftwareAgreer(private))
        case _:
            raise AssertionError


@pytest.mark.parametrize("kind", ["RSA", "EC"])
def test_a_server_made_key_comes_sealed_for_our_key(kind: str) -> None:
    site = make_site(users={})
    key = SoftwareKey(KEYS[kind]())
    identity = site.identity()
    certificate = issue(site.authority, key, named("receiver"))
    identity = replace(identity, key=key, chain=(certificate, site.authority.issuer.certificate))
    opener = opener_for(key)
    with site.serving() as listener, EstClient(site.client(listener, identity=identity)) as client:
        made = client.server_keygen(key, named("server-made"), opener, recipient=certificate)
    assert isinstance(made, ServerMadeKey)
    assert made.was_encrypted
    assert made.pkcs8.hex() not in repr(made)


def test_a_server_made_key_comes_sealed_under_a_shared_key() -> None:
    shared = SharedKey(b"device-7", bytes(range(32)))
    site = make_site(settings=ServiceSettings(shared_keys=(shared,)))
    with site.serving() as listener, EstClient(site.client(listener, credentials=PASSWORD)) as client:
        made = client.server_keygen(ec_key(), named("server-made"), Opener(shared=(shared,)))
        assert isinstance(made, ServerMadeKey)
        assert made.was_encrypted
        with pytest.raises(HsmBridgeError):
            client.server_keygen(ec_key(), named("x"), Opener(shared=(SharedKey(b"device-8", bytes(32)),)))


def test_a_key_in_the_clear_is_neither_sent_nor_taken_unless_both_sides_allow_it() -> None:
    strict, open_ = make_site(), make_site(Profile(plain_keys=True))
    with (
        strict.serving() as listener,
        EstClient(strict.client(listener, credentials=PASSWORD)) as client,
        pytest.raises(AccessError, match="without encryption"),
    ):
        client.server_keygen(ec_key(), named("server-made"))
    with open_.serving() as listener, EstClient(open_.client(listener, credentials=PASSWORD)) as client:
        with pytest.raises(AccessError, match="without encryption"):
            client.server_keygen(ec_key(), named("server-made"))
        made = client.server_keygen(ec_key(), named("server-made"), allow_plain=True)
    assert isinstance(made, ServerMadeKey)
    assert not made.was_encrypted


def test_bootstrap_takes_the_root_with_the_right_fingerprint_only() -> None:
    site = make_site()
    with site.serving() as listener:
        unknown = replace(site.client(listener), anchors=replace(site.client(listener).anchors, explicit=()))
        with pytest.raises(CertificateError, match="fingerprint"):
            bootstrap(unknown, root_fingerprint="00" * 32)
        # An intermediate is no root, whatever its fingerprint.
        with pytest.raises(CertificateError):
            bootstrap(unknown, root_fingerprint=fingerprint(site.authority.issuer.certificate))
        for digest in ("sha256", "sha512"):
            found = bootstrap(unknown, root_fingerprint=fingerprint(site.root.certificate, digest).upper())
            assert found.anchors == (site.root.certificate,)
            assert found.intermediates == (site.authority.issuer.certificate,)


def test_bootstrap_refuses_a_server_that_the_confirmed_root_does_not_vouch_for() -> None:
    ours, theirs = make_site(), make_site()
    from est.ca.authority import Issuer

    # A server in between passes on the real CA certificates, but cannot prove itself by them.
    liar = replace(theirs, handler=ours.handler)
    assert isinstance(liar.root, Issuer)
    with liar.serving() as listener, pytest.raises(CertificateError, match="not trusted"):
        bootstrap(ours.client(listener), root_fingerprint=fingerprint(ours.root.certificate))


def test_cacerts_gives_the_chain() -> None:
    site = make_site()
    with site.serving() as listener, EstClient(site.client(listener)) as client:
        found = client.cacerts()
    assert found.anchors == (site.root.certificate,)
    assert found.intermediates == (site.authority.issuer.certificate,)
    assert isinstance(found.anchors[0], x509.Certificate)


def test_a_key_that_the_server_is_to_make_waits_for_approval_and_is_resumed_after_a_restart() -> None:
    shared = SharedKey(b"device-7", bytes(range(32)))
    opener = Opener(shared=(shared,))
    site = make_site(Profile(approve=False, retry_after=0), settings=ServiceSettings(shared_keys=(shared,)))
    wishes = named("server-made")
    with site.serving() as listener:
        configuration = site.client(listener, credentials=PASSWORD, link=Link.NONE)
        with EstClient(configuration) as client:
            asked = client.server_keygen(ec_key(), wishes, opener)
        assert isinstance(asked, Pending)
        kept = Pending.from_json(asked.to_json())
        # The key that signed is gone; the same octets are sent again, so it is the same request to the server.
        with EstClient(configuration) as client:
            again = client.server_keygen(ec_key(), wishes, opener, before=kept)
        assert isinstance(again, Pending)
        assert again.request == asked.request
        (waiting,) = site.authority.record.waiting()
        site.authority.record.approve(waiting.id)
        with EstClient(configuration) as client:
            made = client.server_keygen(ec_key(), wishes, opener, before=again)
            assert isinstance(made, ServerMadeKey)
            with pytest.raises(RequestError, match="another"):
                client.server_keygen(ec_key(), wishes, opener, before=replace(kept, operation="simpleenroll"))
            with pytest.raises(RequestError, match="early"):
                client.server_keygen(ec_key(), wishes, opener, before=replace(kept, not_before=kept.not_before + 1e6))
    assert made.was_encrypted
    assert site.authority.record.waiting() == ()


@pytest.mark.parametrize("with_certificate", [False, True])
def test_a_full_cmc_request_waits_for_approval_and_is_asked_for_by_its_token(with_certificate: bool) -> None:
    site = make_site(Profile(approve=False, retry_after=0))
    identity = site.identity("operator") if with_certificate else None
    key, wishes = ec_key(), named("waiting")
    with site.serving() as listener:
        configuration = site.client(listener, credentials=PASSWORD, identity=identity)
        with EstClient(configuration) as client:
            asked = client.full_cmc(key, wishes)
            assert isinstance(asked, Pending)
            kept = Pending.from_json(asked.to_json())
            again = client.resume(kept, key, wishes)
            assert isinstance(again, Pending)
            assert again.request == asked.request
        (waiting,) = site.authority.record.waiting()
        assert waiting.subject == "CN=waiting"
        other = site.client(listener, identity=site.identity("somebody"))
        with EstClient(other) as client, pytest.raises(HsmBridgeError):
            client.resume(again, key, wishes)
        site.authority.record.approve(waiting.id)
        with EstClient(configuration) as client:
            got = client.resume(again, key, wishes)
            assert isinstance(got, Enrolled)
            # What was carried out is not carried out twice.
            with pytest.raises(HsmBridgeError):
                client.resume(again, key, wishes)
    assert got.certificate.public_key() == key.signer.public_key()
    assert len([one for one in site.authority.record.certificates() if one.subject == "CN=waiting"]) == 1
