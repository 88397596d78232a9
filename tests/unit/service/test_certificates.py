"""Certificates: stored as chains, bound only to the slot that holds their key, seen only by who may."""

import msgspec
import pytest

from hsmbridge.core import messages as m
from hsmbridge.core.certificates import CERTIFICATE_MAX, CHAIN_MAX
from hsmbridge.core.errors import HsmBridgeError, Status
from hsmbridge.core.identifiers import CryptoResourceId, ResourceKind
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.core.policy import Role
from hsmbridge.keys.certificate_ids import TRANSIENT_MAX, CertificateIds
from tests.unit.service.pki import DAY, NOW, Authority
from tests.unit.service.served import OPERATOR, Served
from tests.unit.storage.opened import ALICE, BOB

SIGNING = P.SIGN | P.VERIFY | P.GENERATE


@pytest.fixture(scope="module")
def root() -> Authority:
    return Authority("Root")


@pytest.fixture(scope="module")
def issuing(root: Authority) -> Authority:
    return Authority("Issuing", parent=root)


def store(service: Served, name: str, *certificates: bytes, **more: object) -> m.CertInfo:
    return service.ask(m.CertImportRequest(name, certificates, **more), m.CertInfo)  # type: ignore[arg-type]


def refused(
    service: Served, request: object, principal: str = ALICE, kind: type[msgspec.Struct] = m.CertInfo
) -> HsmBridgeError:
    with pytest.raises(HsmBridgeError) as refusal:
        service.ask(request, kind, principal)  # type: ignore[arg-type]
    return refusal.value


def show(service: Served, certificate: m.Reference = "web", principal: str = ALICE) -> m.CertInfo:
    return service.ask(m.CertShowRequest(certificate), m.CertInfo, principal)


def public_key(service: Served, slot: str) -> bytes:
    return service.ask(m.SlotShowRequest(slot), m.SlotInfo).versions[-1].public_key


# What is stored


def test_a_chain_is_put_in_order_whatever_order_it_comes_in(
    service: Served, root: Authority, issuing: Authority
) -> None:
    leaf = issuing.issue()
    for number, given in enumerate([(leaf, issuing.der, root.der), (root.der, leaf, issuing.der), (root.der, issuing.der, leaf)]):  # fmt: skip  # noqa: E501 - three orders side by side
        stored = store(service, f"web-{number}", *given)
        assert [one.certificate for one in stored.chain] == [leaf, issuing.der, root.der]
        assert show(service, f"web-{number}") == stored


def test_what_a_certificate_says_is_told(service: Served, issuing: Authority) -> None:
    leaf = issuing.issue(names=("host.example", "192.0.2.1"), serial=0xABC)
    (facts,) = store(service, "web", leaf).chain
    assert (facts.subject, facts.issuer, facts.serial, facts.ca) == ("CN=leaf", "CN=Issuing", "abc", False)
    assert facts.names == ("DNS:host.example", "IP:192.0.2.1")
    assert facts.not_after == (NOW + 90 * DAY).timestamp()


def test_a_certificate_twice_in_a_file_counts_once(service: Served, issuing: Authority) -> None:
    leaf = issuing.issue()
    assert len(store(service, "web", leaf, leaf, issuing.der, leaf).chain) == 2


def test_certificates_that_are_no_one_chain_are_refused(service: Served, root: Authority, issuing: Authority) -> None:
    for given in ((issuing.issue(), root.der), (issuing.issue(), issuing.issue()), (issuing.issue(), Authority().der)):
        problem = refused(service, m.CertImportRequest("web", given))
        assert problem.status is Status.CERTIFICATE_INVALID
        assert "one chain" in problem.message


def test_an_issuer_of_the_right_name_and_another_key_is_no_issuer(service: Served, issuing: Authority) -> None:
    impostor = Authority("Issuing")
    problem = refused(service, m.CertImportRequest("web", (issuing.issue(), impostor.der)))
    assert problem.status is Status.CERTIFICATE_INVALID


@pytest.mark.parametrize("kind", ["RSA", "ML-DSA", "Ed25519"])
def test_other_algorithms_make_chains_too(service: Served, kind: str) -> None:
    authority = Authority("Other", kind)
    assert len(store(service, "web", authority.der, authority.issue()).chain) == 2


@pytest.mark.parametrize("cut", [0, 1, 10, -1])
def test_a_damaged_certificate_is_refused(service: Served, issuing: Authority, cut: int) -> None:
    for damaged in (issuing.issue()[:cut], issuing.issue() + b"\0"):
        problem = refused(service, m.CertImportRequest("web", (damaged,)))
        assert problem.status is Status.CERTIFICATE_INVALID
        assert "cannot be read" in problem.message


def test_sizes_are_bounded(service: Served, issuing: Authority) -> None:
    assert refused(service, m.CertImportRequest("web", ())).status is Status.INVALID_ARGUMENT
    large = refused(service, m.CertImportRequest("web", (bytes(CERTIFICATE_MAX + 1),)))
    assert large.status is Status.DATA_TOO_LARGE
    many = refused(service, m.CertImportRequest("web", tuple(issuing.issue() for _ in range(CHAIN_MAX + 1))))
    assert many.status is Status.DATA_TOO_LARGE


def test_a_name_is_taken_until_it_is_removed_or_replaced(service: Served, issuing: Authority) -> None:
    first = store(service, "web", issuing.issue())
    taken = refused(service, m.CertImportRequest("web", (issuing.issue(),)))
    assert taken.status is Status.RESOURCE_EXISTS
    second = store(service, "web", issuing.issue(), replace=True)
    assert second.generation == first.generation + 1
    service.ask(m.CertRemoveRequest("web"), m.Empty)
    assert refused(service, m.CertShowRequest("web")).status is Status.RESOURCE_NOT_FOUND
    assert store(service, "web", issuing.issue()).generation == 1


def test_the_same_content_again_is_no_change(service: Served, issuing: Authority) -> None:
    leaf = issuing.issue()
    first = store(service, "web", leaf)
    assert store(service, "web", leaf, replace=True) == first


def test_a_certificate_and_a_slot_may_have_one_name(service: Served, issuing: Authority) -> None:
    service.slot("web", "EC-P256", SIGNING)
    store(service, "web", issuing.issue())


def test_nobody_stores_in_the_namespace_of_others(service: Served, issuing: Authority) -> None:
    problem = refused(service, m.CertImportRequest("uid-1000/web", (issuing.issue(),)), BOB)
    assert problem.status is Status.ACCESS_DENIED


# Bound to a key slot


def test_a_certificate_is_bound_to_the_slot_that_holds_its_key(service: Served, issuing: Authority) -> None:
    service.slot("key", "EC-P256", SIGNING)
    bound = store(service, "web", issuing.issue(public_key(service, "key")), slot="key")
    assert (bound.slot, bound.slot_version) == ("uid-1000/key", 1)
    unbound = service.ask(m.CertBindRequest("web"), m.CertInfo)
    assert (unbound.slot, unbound.slot_version, unbound.generation) == ("", 0, bound.generation + 1)
    again = service.ask(m.CertBindRequest("web", "key"), m.CertInfo)
    assert (again.slot, again.generation) == ("uid-1000/key", unbound.generation + 1)


@pytest.mark.parametrize("key_type", ["RSA-2048", "ML-DSA-65", "Ed25519"])
def test_keys_of_any_algorithm_match(service: Served, issuing: Authority, key_type: str) -> None:
    service.slot("key", key_type, SIGNING)
    assert store(service, "web", issuing.issue(public_key(service, "key")), slot="key").slot == "uid-1000/key"


def test_a_certificate_of_another_key_is_refused_and_not_stored(service: Served, issuing: Authority) -> None:
    service.slot("key", "EC-P256", SIGNING)
    problem = refused(service, m.CertImportRequest("web", (issuing.issue(),), slot="key"))
    assert problem.status is Status.CERTIFICATE_INVALID
    assert "another key than those of slot uid-1000/key" in problem.message
    assert refused(service, m.CertShowRequest("web")).status is Status.RESOURCE_NOT_FOUND
    store(service, "web", issuing.issue())
    assert refused(service, m.CertBindRequest("web", "key")).status is Status.CERTIFICATE_INVALID
    assert show(service).slot == ""


def test_a_rotated_key_still_has_its_certificate_and_a_revoked_one_takes_none(
    service: Served, issuing: Authority
) -> None:
    service.slot("key", "EC-P256", SIGNING)
    leaf = issuing.issue(public_key(service, "key"))
    service.ask(m.SlotRotateRequest("key"), m.SlotInfo)
    assert store(service, "web", leaf, slot="key").slot_version == 1
    service.ask(m.SlotRevokeRequest("key", 1), m.SlotInfo)
    service.ask(m.CertBindRequest("web"), m.CertInfo)
    assert refused(service, m.CertBindRequest("web", "key")).status is Status.CERTIFICATE_INVALID


def test_what_is_bound_is_only_replaced_by_a_certificate_of_the_same_slot(service: Served, issuing: Authority) -> None:
    service.slot("key", "EC-P256", SIGNING)
    spki = public_key(service, "key")
    store(service, "web", issuing.issue(spki), slot="key")
    problem = refused(service, m.CertImportRequest("web", (issuing.issue(),), replace=True))
    assert problem.status is Status.CERTIFICATE_INVALID
    service.ask(m.SlotRotateRequest("key"), m.SlotInfo)
    renewed = store(service, "web", issuing.issue(public_key(service, "key")), replace=True)
    assert (renewed.slot, renewed.slot_version) == ("uid-1000/key", 2)


def test_a_slot_that_the_caller_may_not_see_is_as_one_that_is_not_there(service: Served, issuing: Authority) -> None:
    service.slot("key", "EC-P256", SIGNING)
    leaf = issuing.issue(public_key(service, "key"))
    hidden = refused(service, m.CertImportRequest("web", (leaf,), slot="uid-1000/key"), BOB)
    absent = refused(service, m.CertImportRequest("web", (leaf,), slot="uid-1000/nil"), BOB)
    assert hidden.status is absent.status is Status.RESOURCE_NOT_FOUND
    assert hidden.message.replace("key", "nil") == absent.message


def test_who_sees_the_certificate_and_not_the_slot_is_not_told_its_name(service: Served, issuing: Authority) -> None:
    service.slot("key", "EC-P256", SIGNING)
    store(service, "web", issuing.issue(public_key(service, "key")), slot="key")
    service.ask(m.CertAccessRequest("web", ResourceKind.CERT_SLOT, BOB, Role.ADMINISTER), m.CertAccessReply)
    seen = show(service, "uid-1000/web", BOB)
    assert (seen.slot, seen.slot_version) == ("", 0)


# Who may


def test_a_hidden_certificate_is_as_one_that_is_not_there(service: Served, issuing: Authority) -> None:
    store(service, "web", issuing.issue())
    for make in (
        m.CertShowRequest,
        m.CertBindRequest,
        m.CertRemoveRequest,
        m.TrustShowRequest,
        m.CrlShowRequest,
    ):
        hidden = refused(service, make("uid-1000/web"), BOB)
        absent = refused(service, make("uid-1000/nil"), BOB)
        assert hidden.status is absent.status is Status.RESOURCE_NOT_FOUND
        assert hidden.message.replace("web", "nil") == absent.message
    resolved = refused(service, m.ResolveRequest("uid-1000/web", ResourceKind.CERT_SLOT), BOB)
    assert resolved.status is Status.RESOURCE_NOT_FOUND
    assert service.ask(m.CertListRequest(), m.CertListReply, BOB).certificates == []


def test_who_may_use_a_certificate_may_not_change_it(service: Served, issuing: Authority) -> None:
    store(service, "web", issuing.issue())
    service.ask(m.CertAccessRequest("web", ResourceKind.CERT_SLOT, BOB, Role.USE), m.CertAccessReply)
    assert show(service, "uid-1000/web", BOB).name == "uid-1000/web"
    assert [one.name for one in service.ask(m.CertListRequest(), m.CertListReply, BOB).certificates] == ["uid-1000/web"]
    for request in (
        m.CertBindRequest("uid-1000/web"),
        m.CertRemoveRequest("uid-1000/web"),
        m.CertAccessRequest("uid-1000/web", ResourceKind.CERT_SLOT, BOB, Role.ADMINISTER),
    ):
        assert refused(service, request, BOB).status is Status.ACCESS_DENIED


def test_somebody_always_administers(service: Served, issuing: Authority) -> None:
    store(service, "web", issuing.issue())
    for role in (Role.USE, None):
        last = refused(service, m.CertAccessRequest("web", ResourceKind.CERT_SLOT, ALICE, role))
        assert last.status is Status.INVALID_ARGUMENT
    other = refused(service, m.CertAccessRequest("web", ResourceKind.CERT_SLOT, BOB, None))
    assert other.status is Status.RESOURCE_NOT_FOUND


# Ids and transient certificates


def test_a_name_has_one_id_on_a_connection_and_another_on_the_next(service: Served, issuing: Authority) -> None:
    store(service, "web", issuing.issue())
    service.ask(m.CertAccessRequest("web", ResourceKind.CERT_SLOT, BOB, Role.USE), m.CertAccessReply)

    def resolve(principal: str) -> CryptoResourceId:
        request = m.ResolveRequest("uid-1000/web", ResourceKind.CERT_SLOT)
        return service.ask(request, m.ResolveReply, principal).resource

    mine = resolve(ALICE)
    assert resolve(ALICE) == mine
    assert show(service, mine).name == "uid-1000/web"
    assert resolve(BOB) != mine
    assert refused(service, m.CertShowRequest(mine), BOB).status is Status.RESOURCE_NOT_FOUND


def test_an_id_is_only_good_for_its_kind(service: Served, issuing: Authority) -> None:
    store(service, "web", issuing.issue())
    found = service.ask(m.ResolveRequest("web", ResourceKind.CERT_SLOT), m.ResolveReply).resource
    for kind in ResourceKind:
        if kind is not ResourceKind.CERT_SLOT:
            refused(service, m.CertShowRequest(CryptoResourceId(found.number, kind)))
    assert refused(service, m.TrustShowRequest(found), kind=m.TrustInfo).status is Status.INVALID_ARGUMENT


def test_access_that_was_taken_away_ends_the_use_of_an_id(service: Served, issuing: Authority) -> None:
    store(service, "web", issuing.issue())
    service.ask(m.CertAccessRequest("web", ResourceKind.CERT_SLOT, BOB, Role.USE), m.CertAccessReply)
    request = m.ResolveRequest("uid-1000/web", ResourceKind.CERT_SLOT)
    theirs = service.ask(request, m.ResolveReply, BOB).resource
    service.ask(m.CertAccessRequest("web", ResourceKind.CERT_SLOT, BOB, None), m.CertAccessReply)
    assert refused(service, m.CertShowRequest(theirs), BOB).status is Status.RESOURCE_NOT_FOUND


def test_a_transient_certificate_is_its_connections_own_until_released(service: Served, issuing: Authority) -> None:
    leaf = issuing.issue()
    held = service.ask(m.CertLoadRequest((leaf,)), m.CertLoadReply).resource
    assert held.kind is ResourceKind.CERTIFICATE
    assert [one.certificate for one in show(service, held).chain] == [leaf]
    assert refused(service, m.CertShowRequest(held), BOB).status is Status.RESOURCE_NOT_FOUND
    service.ask(m.ReleaseRequest(held), m.Empty)
    assert refused(service, m.CertShowRequest(held)).status is Status.RESOURCE_NOT_FOUND
    assert refused(service, m.ReleaseRequest(held), kind=m.Empty).status is Status.RESOURCE_NOT_FOUND


def test_transient_certificates_are_bounded_in_number_and_size() -> None:
    ids = CertificateIds()
    held = [ids.hold((b"x",)) for _ in range(TRANSIENT_MAX)]
    with pytest.raises(HsmBridgeError) as refusal:
        ids.hold((b"x",))
    assert refusal.value.status is Status.TOO_MANY_RESOURCES
    for resource in held:
        ids.release(resource)
    ids.hold((bytes(8 * 1024 * 1024),))
    with pytest.raises(HsmBridgeError):
        ids.hold((b"x",))


# The doctor


def findings(service: Served, principal: str = OPERATOR) -> dict[str, tuple[str, str]]:
    reply = service.ask(m.DoctorRequest(), m.DoctorReply, principal)
    return {one.subject: (one.severity, one.message) for one in reply.findings}


def test_the_doctor_tells_what_has_expired_and_what_soon_will(service: Served, issuing: Authority) -> None:
    store(service, "old", issuing.issue(begins=NOW - 9 * DAY, ends=NOW - DAY))
    store(service, "soon", issuing.issue(ends=NOW + 5 * DAY))
    store(service, "fine", issuing.issue())
    found = findings(service)
    assert found["certificate uid-1000/old"][0] == "warning"
    assert "expired on" in found["certificate uid-1000/old"][1]
    assert found["certificate uid-1000/soon"][0] == "notice"
    assert "certificate uid-1000/fine" not in found
    assert "certificate uid-1000/old" in findings(service, ALICE)
    assert "certificate uid-1000/old" not in findings(service, BOB)


def test_the_doctor_tells_of_certificates_whose_key_serves_no_more(service: Served, issuing: Authority) -> None:
    service.slot("key", "EC-P256", SIGNING)
    store(service, "web", issuing.issue(public_key(service, "key")), slot="key")
    assert "certificate uid-1000/web" not in findings(service)
    service.ask(m.SlotRotateRequest("key"), m.SlotInfo)
    assert "is for version 1 of slot uid-1000/key, which is rotated" in findings(service)["certificate uid-1000/web"][1]
    service.ask(m.SlotDestroyRequest("key"), m.Empty)
    assert "destroyed" in findings(service)["certificate uid-1000/web"][1]
