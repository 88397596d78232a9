"""Which servers and which certificates are trusted, over real connections."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from est.ca.authority import Authority, bridge, new_root
from est.ca.profile import Profile
from est.ca.record import Record
from est.client import Enrolled, EstClient
from est.cms.certs_only import dump_certs_only
from est.csr.request import Wishes
from est.http.authorization import Credentials
from est.http.payload import encode
from est.server.listener import Handler
from est.server.messages import Peer, ServerRequest, ServerResponse
from est.server.service import ServiceSettings
from est.trust.anchors import TrustAnchors
from hsmbridge.core.errors import CertificateError
from tests.integration.est.lab import USERS, ec_key, issue, make_site, named

PASSWORD = Credentials("device", USERS["device"])


def test_a_server_under_another_root_is_refused() -> None:
    site, other = make_site(), make_site()
    with (
        site.serving() as listener,
        EstClient(other.client(listener)) as client,
        pytest.raises(CertificateError, match="not trusted"),
    ):
        client.cacerts()


def test_a_server_of_another_name_is_refused() -> None:
    site = make_site(server_name="elsewhere.example")
    with (
        site.serving() as listener,
        EstClient(site.client(listener)) as client,
        pytest.raises(CertificateError, match="does not name localhost"),
    ):
        client.cacerts()


def test_an_ra_certificate_authorises_with_an_explicit_anchor_and_opt_in_only(tmp_path: Path) -> None:
    site = make_site(server_name="ra.example", server_usages=("serverAuth", "cmcRA"))
    implicit = tmp_path / "web.pem"
    implicit.write_bytes(site.root.certificate.public_bytes(serialization.Encoding.PEM))
    with site.serving() as listener:
        known = site.client(listener)
        with EstClient(known) as client, pytest.raises(CertificateError, match="does not name"):
            client.cacerts()
        with EstClient(replace(known, anchors=replace(known.anchors, allow_cmc_ra=True))) as client:
            assert client.cacerts().anchors
        web = TrustAnchors(implicit=str(implicit), allow_cmc_ra=True)
        with EstClient(replace(known, anchors=web)) as client, pytest.raises(CertificateError, match="does not name"):
            client.cacerts()


def test_ca_certificates_over_an_implicit_anchor_need_a_confirmation(tmp_path: Path) -> None:
    site = make_site()
    implicit = tmp_path / "web.pem"
    implicit.write_bytes(site.root.certificate.public_bytes(serialization.Encoding.PEM))
    with site.serving() as listener:
        web = site.client(listener, anchors=TrustAnchors(implicit=str(implicit)))
        with EstClient(web) as client:
            with pytest.raises(CertificateError, match="confirm"):
                client.cacerts()
            found = client.cacerts(confirm=lambda one: one == site.root.certificate)
    assert found.anchors == (site.root.certificate,)
    # From then on the implicit anchors are off.
    assert web.anchors.with_explicit(found.anchors).implicit == ""


def answering(*certificates: x509.Certificate) -> Callable[[Handler], Handler]:
    def wrap(handler: Handler) -> Handler:
        def handle(request: ServerRequest, peer: Peer) -> ServerResponse:
            answer = handler(request, peer)
            if answer.status != 200 or "enroll" not in request.target:
                return answer
            return replace(answer, body=encode(dump_certs_only(certificates)))

        return handle

    return wrap


def test_only_a_certificate_that_fits_key_path_time_and_names_is_taken() -> None:
    site, stranger = make_site(), make_site()
    key, wishes = ec_key(), named("device", "device.example")
    ca_key = new_root(key, "device").certificate
    cases = {
        "for our key": issue(site.authority, ec_key(), wishes),
        "No path": issue(stranger.authority, key, wishes),
        "subject": issue(site.authority, key, named("other", "device.example")),
        "alternative": issue(site.authority, key, named("device", "device.example", "more.example")),
        "missing": issue(site.authority, key, named("device")),
    }
    for reason, certificate in cases.items():
        with (
            site.serving(answering(certificate)) as listener,
            EstClient(site.client(listener, credentials=PASSWORD)) as client,
            pytest.raises(CertificateError, match=reason),
        ):
            client.enroll(key, wishes)
    with (
        site.serving(answering(ca_key)) as listener,
        EstClient(site.client(listener, credentials=PASSWORD)) as client,
        pytest.raises(CertificateError),
    ):
        client.enroll(key, wishes)


def test_an_expired_certificate_is_not_taken() -> None:
    import time

    site = make_site()
    key, wishes = ec_key(), named("device")
    expired = issue(site.authority, key, wishes, Profile(lifetime=1))
    while time.time() <= expired.not_valid_after_utc.timestamp() + 1:
        time.sleep(0.1)  # waits for the clock itself
    with (
        site.serving(answering(expired)) as listener,
        EstClient(site.client(listener, credentials=PASSWORD)) as client,
        pytest.raises(CertificateError, match="No path"),
    ):
        client.enroll(key, wishes)


def test_certificates_beside_ours_are_tolerated_and_differences_reported_on_demand() -> None:
    site = make_site()
    key = ec_key()
    ours = issue(site.authority, key, named("renamed"))
    with site.serving(answering(site.authority.issuer.certificate, ours)) as listener:
        given = site.client(listener, credentials=PASSWORD, accept_differences=True)
        with EstClient(given) as client:
            result = client.enroll(key, named("device"))
    assert isinstance(result, Enrolled)
    assert "renamed" in result.differences[0]


def test_a_new_root_is_accepted_if_the_old_one_vouches_for_it_and_not_otherwise() -> None:
    old = make_site()
    new = new_root(ec_key(), "Test Root")
    new_with_old, old_with_new = bridge(old.root, new.certificate), bridge(new, old.root.certificate)
    more = (old_with_new, new.certificate, new_with_old)
    vouched = make_site(settings=ServiceSettings(ca_certificates=more))
    vouched.authority.issuer = old.authority.issuer
    vouched.server_key, vouched.server_chain = old.server_key, old.server_chain
    with vouched.serving() as listener, EstClient(old.client(listener)) as client:
        found = client.cacerts()
    assert found.accepted == (new.certificate,)
    assert set(found.anchors) == {old.root.certificate, new.certificate}
    assert {new_with_old, old_with_new} <= set(found.intermediates)

    unvouched = make_site(settings=ServiceSettings(ca_certificates=(new.certificate,)))
    unvouched.authority.issuer = old.authority.issuer
    unvouched.server_key, unvouched.server_chain = old.server_key, old.server_chain
    with unvouched.serving() as listener, EstClient(old.client(listener)) as client:
        found = client.cacerts()
    assert found.anchors == (old.root.certificate,)
    assert found.unconfirmed == (new.certificate,)


def test_enrolment_goes_on_under_the_new_root_after_the_roll_over() -> None:
    old = make_site()
    device = old.identity("device")
    new = new_root(ec_key(), "New Root")
    anchors = TrustAnchors((old.root.certificate, new.certificate))
    after = make_site(users={}, more_anchors=(old.root.certificate, old.authority.issuer.certificate))
    after.root = new
    after.authority.issuer = new
    after.server_chain = (issue(Authority(new, Record(":memory:")), after.server_key, named("localhost", "localhost")),)
    with after.serving() as listener, EstClient(after.client(listener, anchors=anchors, identity=device)) as client:
        renewed = client.reenroll(device.key, device.chain[0])
    assert isinstance(renewed, Enrolled)
    assert renewed.chain == (new.certificate,)


def test_a_manufacturers_certificate_enrols_where_its_ca_is_known() -> None:
    factory = make_site()
    device = factory.identity("serial 4711")
    site = make_site(users={}, more_anchors=(factory.root.certificate,))
    with site.serving() as listener, EstClient(site.client(listener, identity=device)) as client:
        result = client.enroll(ec_key(), Wishes.of(device.chain[0].subject))
    assert isinstance(result, Enrolled)


def test_nothing_is_asked_for_without_anchors_to_check_the_answer_with(tmp_path: Path) -> None:
    site = make_site()
    implicit = tmp_path / "web.pem"
    implicit.write_bytes(site.root.certificate.public_bytes(serialization.Encoding.PEM))
    with site.serving() as listener:
        web = site.client(listener, anchors=TrustAnchors(implicit=str(implicit)), credentials=PASSWORD)
        with EstClient(web) as client, pytest.raises(CertificateError, match="get them first"):
            client.enroll(ec_key(), named("device"))
    assert len(site.authority.record.certificates()) == 1
