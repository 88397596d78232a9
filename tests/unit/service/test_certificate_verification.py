"""Trust stores, CRLs, and what is trusted by them: a way to an anchor, for a purpose, in its time, not revoked."""

from datetime import datetime

import pytest
from cryptography import x509

from hsmbridge.core import messages as m
from hsmbridge.core.certificates import ANCHORS_MAX, CRL_MAX, CRLS_MAX, CertificatePurpose, RevocationCheck
from hsmbridge.core.errors import HsmBridgeError, Status
from hsmbridge.core.identifiers import ResourceKind
from hsmbridge.core.policy import Role
from hsmbridge.service.certificate_reading import fingerprint
from tests.unit.service.pki import CLIENT, DAY, NOW, Authority
from tests.unit.service.served import Served
from tests.unit.storage.opened import ALICE, BOB

SERVER_ = CertificatePurpose.SERVER
HOST = "host.example"


@pytest.fixture(scope="module")
def root() -> Authority:
    return Authority("Root")


@pytest.fixture(scope="module")
def issuing(root: Authority) -> Authority:
    return Authority("Issuing", parent=root)


def trust(service: Served, *anchors: bytes, name: str = "roots") -> m.TrustInfo:
    return service.ask(m.TrustCreateRequest(name, anchors), m.TrustInfo)


def store(service: Served, *certificates: bytes, name: str = "web") -> m.Reference:
    return service.ask(m.CertImportRequest(name, certificates), m.CertInfo).name


def put_crl(service: Served, crl: bytes, name: str = "crl") -> m.CrlInfo:
    return service.ask(m.CrlImportRequest(name, crl), m.CrlInfo)


def verify(
    service: Served,
    certificate: m.Reference = "web",
    purpose: CertificatePurpose = SERVER_,
    subject: str = HOST,
    at: datetime | None = None,
    principal: str = ALICE,
    **more: object,
) -> list[bytes]:
    time = 0.0 if at is None else at.timestamp()
    request = m.CertVerifyRequest(certificate, "uid-1000/roots", purpose, subject, time, **more)  # type: ignore[arg-type]
    return service.ask(request, m.CertVerifyReply, principal).chain


def refused(ask: object, *arguments: object, **more: object) -> HsmBridgeError:
    with pytest.raises(HsmBridgeError) as refusal:
        ask(*arguments, **more)  # type: ignore[operator]
    return refusal.value


def not_trusted(service: Served, reason: str, **more: object) -> None:
    problem = refused(verify, service, **more)
    assert problem.status is Status.CERTIFICATE_NOT_TRUSTED
    assert reason in problem.message


# Trust stores


def test_anchors_come_and_go(service: Served, root: Authority) -> None:
    other = Authority("Other")
    made = trust(service, root.der, root.der)
    assert [one.certificate for one in made.anchors] == [root.der]
    added = service.ask(m.TrustAddRequest("roots", (root.der, other.der)), m.TrustInfo)
    assert len(added.anchors) == 2
    assert added.generation == made.generation + 1
    again = service.ask(m.TrustAddRequest("roots", (other.der,)), m.TrustInfo)
    assert again == added
    less = service.ask(m.TrustRemoveRequest("roots", (fingerprint(root.der),)), m.TrustInfo)
    assert [one.certificate for one in less.anchors] == [other.der]
    unknown = refused(service.ask, m.TrustRemoveRequest("roots", (fingerprint(root.der),)), m.TrustInfo)
    assert unknown.status is Status.RESOURCE_NOT_FOUND
    short = refused(service.ask, m.TrustRemoveRequest("roots", (b"short",)), m.TrustInfo)
    assert short.status is Status.INVALID_ARGUMENT
    assert service.ask(m.TrustShowRequest("roots"), m.TrustInfo) == less
    assert [one.name for one in service.ask(m.TrustListRequest(), m.TrustListReply).trust_stores] == ["uid-1000/roots"]
    service.ask(m.CertRemoveRequest("roots", ResourceKind.VERIFICATION_TRUST_STORE), m.Empty)
    assert refused(service.ask, m.TrustShowRequest("roots"), m.TrustInfo).status is Status.RESOURCE_NOT_FOUND


def test_an_end_entity_anchors_nothing(service: Served, issuing: Authority) -> None:
    problem = refused(trust, service, issuing.issue())
    assert problem.status is Status.CERTIFICATE_INVALID


def test_a_trust_store_is_bounded(service: Served, root: Authority) -> None:
    many = tuple(b"%d" % number for number in range(ANCHORS_MAX + 1))
    assert refused(trust, service, *many).status is Status.DATA_TOO_LARGE


def test_anchors_of_one_name_are_few_so_that_no_search_is_long(service: Served) -> None:
    alike = [Authority("Alike").der for _ in range(17)]
    trust(service, *alike[:16])
    problem = refused(service.ask, m.TrustAddRequest("roots", (alike[16],)), m.TrustInfo)
    assert problem.status is Status.DATA_TOO_LARGE


def test_only_who_administers_a_trust_store_changes_it(service: Served, root: Authority) -> None:
    trust(service, root.der)
    kind = ResourceKind.VERIFICATION_TRUST_STORE
    for status, role in ((Status.RESOURCE_NOT_FOUND, None), (Status.ACCESS_DENIED, Role.USE)):
        if role is not None:
            service.ask(m.CertAccessRequest("roots", kind, BOB, role), m.CertAccessReply)
        for request in (
            m.TrustAddRequest("uid-1000/roots", (root.der,)),
            m.TrustRemoveRequest("uid-1000/roots", (fingerprint(root.der),)),
            m.CertRemoveRequest("uid-1000/roots", kind),
        ):
            assert refused(service.ask, request, m.Empty, BOB).status is status


# Verification


@pytest.mark.parametrize("kind", ["EC", "RSA", "ML-DSA"])
def test_a_way_to_an_anchor_is_found(service: Served, kind: str) -> None:
    root = Authority("Root", kind)
    issuing = Authority("Issuing", kind, root)
    leaf = issuing.issue()
    trust(service, root.der)
    store(service, leaf, issuing.der)
    assert verify(service) == [leaf, issuing.der, root.der]


def test_the_algorithms_that_the_verifier_does_not_take_are_not_trusted(service: Served) -> None:
    root = Authority("Root", "Ed25519")
    trust(service, root.der)
    store(service, root.issue())
    not_trusted(service, "Forbidden public key algorithm")


def test_a_missing_link_is_given_by_the_caller(service: Served, root: Authority, issuing: Authority) -> None:
    leaf = issuing.issue()
    trust(service, root.der)
    store(service, leaf)
    not_trusted(service, "")
    assert verify(service, intermediates=(issuing.der,)) == [leaf, issuing.der, root.der]


def test_an_anchor_of_the_same_name_and_another_key_does_not_count(service: Served, issuing: Authority) -> None:
    trust(service, Authority("Root").der)
    store(service, issuing.issue(), issuing.der)
    not_trusted(service, "")


def test_an_empty_trust_store_trusts_nobody(service: Served, root: Authority) -> None:
    trust(service)
    store(service, root.issue())
    not_trusted(service, "the trust store is empty")


def test_a_server_is_who_it_is_asked_to_be(service: Served, root: Authority) -> None:
    trust(service, root.der)
    store(service, root.issue(names=(HOST, "*.wild.example", "192.0.2.1", "2001:db8::1")))
    for subject in (HOST, "a.wild.example", "192.0.2.1", "2001:db8::1"):
        verify(service, subject=subject)
    for subject in ("other.example", "a.b.wild.example", "192.0.2.2", "wild.example"):
        not_trusted(service, "", subject=subject)


@pytest.mark.parametrize("subject", ["ex ample", "é.example", "*.example", "x" * 300, "."])
def test_what_is_no_name_is_said_to_be_none(service: Served, root: Authority, subject: str) -> None:
    trust(service, root.der)
    store(service, root.issue())
    problem = refused(verify, service, subject=subject)
    assert problem.status is Status.INVALID_ARGUMENT
    assert "neither a DNS name" in problem.message


@pytest.mark.parametrize(
    ("purpose", "subject"), [(SERVER_, ""), (CertificatePurpose.CLIENT, HOST), (CertificatePurpose.ANY, HOST)]
)
def test_a_name_goes_with_a_server_and_with_nothing_else(
    service: Served, root: Authority, purpose: CertificatePurpose, subject: str
) -> None:
    trust(service, root.der)
    store(service, root.issue())
    assert refused(verify, service, purpose=purpose, subject=subject).status is Status.INVALID_ARGUMENT


def test_a_certificate_is_good_for_its_purpose_only(service: Served, root: Authority) -> None:
    trust(service, root.der)
    store(service, root.issue(), name="server")
    store(service, root.issue(usage=CLIENT), name="client")
    store(service, root.issue(names=(), usage=None), name="signer")
    verify(service, "server")
    verify(service, "client", CertificatePurpose.CLIENT, "")
    verify(service, "signer", CertificatePurpose.ANY, "")
    not_trusted(service, "", certificate="client")
    not_trusted(service, "", certificate="server", purpose=CertificatePurpose.CLIENT, subject="")
    not_trusted(service, "", certificate="signer", purpose=CertificatePurpose.CLIENT, subject="")


def test_an_end_entity_issues_nothing(service: Served, root: Authority) -> None:
    false = Authority("leaf")
    false.der = root.issue(_spki(false))
    trust(service, root.der)
    store(service, false.issue(), name="web")
    not_trusted(service, "", intermediates=(false.der,))


def _spki(authority: Authority) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return authority.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def test_all_must_be_valid_at_the_time_asked_for(service: Served, root: Authority) -> None:
    trust(service, root.der)
    store(service, root.issue(begins=NOW - 9 * DAY, ends=NOW - DAY))
    not_trusted(service, "not valid at validation time")
    # Its anchor begins a day ago; both are valid in between only at no time, so a longer-lived one is made.
    old = Authority("Old", begins=NOW - 30 * DAY)
    service.ask(m.TrustAddRequest("roots", (old.der,)), m.TrustInfo)
    store(service, old.issue(begins=NOW - 9 * DAY, ends=NOW - DAY), name="past")
    verify(service, "past", at=NOW - 2 * DAY)
    not_trusted(service, "not valid at validation time", certificate="past")


@pytest.mark.parametrize("time", [float("nan"), float("inf"), -1e300, 1e300])
def test_a_time_that_is_none_is_refused(service: Served, root: Authority, time: float) -> None:
    trust(service, root.der)
    store(service, root.issue())
    request = m.CertVerifyRequest("web", "roots", SERVER_, HOST, time)
    assert refused(service.ask, request, m.CertVerifyReply).status is Status.INVALID_ARGUMENT


def test_intermediates_that_would_make_the_search_endless_are_refused(service: Served, root: Authority) -> None:
    looping = Authority("Loop")
    again = looping.sign(looping.key.public_key(), "Loop", NOW - DAY, NOW + DAY, ca=True)
    trust(service, root.der)
    store(service, looping.issue())
    problem = refused(verify, service, intermediates=(looping.der, again))
    assert problem.status is Status.CERTIFICATE_INVALID
    assert "same subject and key" in problem.message


def test_what_the_caller_may_not_see_it_cannot_verify_with(service: Served, root: Authority) -> None:
    trust(service, root.der)
    store(service, root.issue())
    held = service.ask(m.CertLoadRequest((root.issue(),)), m.CertLoadReply, BOB).resource
    for certificate in ("uid-1000/web", held):
        problem = refused(verify, service, certificate, principal=BOB)
        assert problem.status is Status.RESOURCE_NOT_FOUND
    kind = ResourceKind.VERIFICATION_TRUST_STORE
    service.ask(m.CertAccessRequest("roots", kind, BOB, Role.USE), m.CertAccessReply)
    verify(service, held, principal=BOB)


# CRLs


def test_a_revoked_certificate_is_not_trusted(service: Served, root: Authority) -> None:
    trust(service, root.der)
    store(service, root.issue(serial=7), name="bad")
    store(service, root.issue(serial=8), name="good")
    told = put_crl(service, root.crl(7))
    assert (told.issuer, told.number, told.revoked) == ("CN=Root", "1", 1)
    verify(service, "good", crls=("crl",))
    not_trusted(service, "CN=leaf was revoked on", certificate="bad", crls=("crl",))
    verify(service, "bad")


def test_a_revoked_authority_takes_its_certificates_along(service: Served, root: Authority) -> None:
    issuing = Authority("Issuing", parent=root)
    serial = x509.load_der_x509_certificate(issuing.der).serial_number
    trust(service, root.der)
    store(service, issuing.issue(), issuing.der)
    put_crl(service, root.crl(serial))
    put_crl(service, issuing.crl(), "theirs")
    not_trusted(service, "CN=Issuing was revoked", crls=("crl", "theirs"))
    verify(service, crls=("theirs",), revocation=RevocationCheck.LEAF)


def test_what_no_crl_speaks_of_is_not_trusted(service: Served, root: Authority, issuing: Authority) -> None:
    trust(service, root.der)
    store(service, issuing.issue(), issuing.der)
    put_crl(service, root.crl())
    not_trusted(service, "no CRL of its issuer was named", crls=("crl",))
    put_crl(service, issuing.crl(), "theirs")
    verify(service, crls=("crl", "theirs"))


def test_a_crl_counts_in_its_time_only(service: Served, root: Authority) -> None:
    trust(service, root.der)
    store(service, root.issue())
    put_crl(service, root.crl(begins=NOW - 5 * DAY, ends=NOW - DAY), "late")
    put_crl(service, root.crl(begins=NOW + DAY, ends=NOW + 2 * DAY), "early")
    not_trusted(service, "the CRL is out of date", crls=("late",))
    not_trusted(service, "the CRL is of a later time", crls=("early",))


def test_a_crl_of_another_key_or_of_who_may_not_sign_one_does_not_count(service: Served, root: Authority) -> None:
    trust(service, root.der)
    store(service, root.issue())
    put_crl(service, Authority("Root").crl())
    not_trusted(service, "the CRL was not signed by the issuer", crls=("crl",))
    mute = Authority("Mute", crl_sign=False)
    service.ask(m.TrustAddRequest("roots", (mute.der,)), m.TrustInfo)
    store(service, mute.issue(), name="muted")
    put_crl(service, mute.crl(), "mute")
    not_trusted(service, "the issuer may not sign CRLs", certificate="muted", crls=("mute",))


def _point(**scope: bool) -> x509.IssuingDistributionPoint:
    parts = {
        "only_contains_user_certs": False,
        "only_contains_ca_certs": False,
        "indirect_crl": False,
        "only_contains_attribute_certs": False,
    }
    return x509.IssuingDistributionPoint(None, None, only_some_reasons=None, **(parts | scope))


def test_a_crl_of_authorities_does_not_speak_of_end_entities(service: Served, root: Authority) -> None:
    trust(service, root.der)
    store(service, root.issue())
    put_crl(service, root.crl(extensions=((_point(only_contains_ca_certs=True), True),)), "cas")
    put_crl(service, root.crl(extensions=((_point(only_contains_user_certs=True), True),)), "users")
    not_trusted(service, "no CRL of its issuer", crls=("cas",))
    verify(service, crls=("cas", "users"))


def test_a_crl_for_a_place_speaks_of_who_names_that_place_only(service: Served, root: Authority) -> None:
    trust(service, root.der)
    store(service, root.issue())
    place = x509.IssuingDistributionPoint(
        [x509.UniformResourceIdentifier("http://crl.example/1")], None, False, False, None, False, False
    )
    put_crl(service, root.crl(extensions=((place, True),)))
    not_trusted(service, "no CRL of its issuer", crls=("crl",))


def test_a_crl_that_is_not_complete_is_not_stored(service: Served, root: Authority) -> None:
    for extension, critical in (
        (x509.DeltaCRLIndicator(1), True),
        (_point(indirect_crl=True), True),
        (_point(only_contains_attribute_certs=True), True),
        (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), True),
    ):
        problem = refused(put_crl, service, root.crl(extensions=((extension, critical),)))
        assert problem.status is Status.CERTIFICATE_INVALID


def test_a_crl_goes_forward_only_and_stays_its_issuers(service: Served, root: Authority) -> None:
    first = put_crl(service, root.crl(number=5, begins=NOW - 3 * DAY))
    second = put_crl(service, root.crl(9, number=6))
    assert (second.generation, second.revoked) == (first.generation + 1, 1)
    for older in (root.crl(number=5), root.crl(number=7, begins=NOW - 5 * DAY)):
        problem = refused(put_crl, service, older)
        assert problem.status is Status.CERTIFICATE_INVALID
        assert "older" in problem.message
    other = refused(put_crl, service, Authority("Other").crl(number=7))
    assert "choose another name" in other.message
    assert service.ask(m.CrlShowRequest("crl"), m.CrlInfo) == second
    assert [one.number for one in service.ask(m.CrlListRequest(), m.CrlListReply).crls] == ["6"]


def test_a_damaged_crl_or_one_that_is_too_large_is_refused(service: Served, root: Authority) -> None:
    for damaged in (b"", root.crl()[:-1], root.der, root.crl() + b"\0"):
        assert refused(put_crl, service, damaged).status is Status.CERTIFICATE_INVALID
    assert refused(put_crl, service, bytes(CRL_MAX + 1)).status is Status.DATA_TOO_LARGE
    trust(service, root.der)
    store(service, root.issue())
    many = refused(verify, service, crls=("crl",) * (CRLS_MAX + 1))
    assert many.status is Status.DATA_TOO_LARGE


def test_the_doctor_tells_of_a_crl_that_is_out_of_date(service: Served, root: Authority) -> None:
    put_crl(service, root.crl(begins=NOW - 5 * DAY, ends=NOW - DAY))
    reply = service.ask(m.DoctorRequest(), m.DoctorReply)
    (found,) = [one for one in reply.findings if one.subject == "crl uid-1000/crl"]
    assert found.severity == "warning"
