"""Adoption: slots of keys that were on a token before, with no more permissions than token, rules and caller allow."""

import pytest

from hsmbridge.core import calls
from hsmbridge.core import messages as m
from hsmbridge.core.errors import HsmBridgeError, ProviderError, Status
from hsmbridge.core.permissions import KeyOperationPermission as P
from tests.unit.service.served import OPERATOR, Served, Traveller

URI = "pkcs11:token=here;object=theirs;type=private"
ALL_OF_RSA = P.SIGN | P.VERIFY | P.ENCRYPT | P.DECRYPT | P.WRAP | P.UNWRAP | P.EXPORT
SIGNING = P.SIGN | P.VERIFY


def put(service: Served, key_type: str, permissions: P, uri: str = URI) -> None:
    """A key that somebody made past the daemon."""
    here = service.providers["here"]
    assert isinstance(here, Traveller)
    here.put(uri, key_type, permissions)


def adopt(service: Served, principal: str = OPERATOR, /, **more: object) -> m.SlotAdoptReply:
    values: dict[str, object] = {"name": "taken", "provider": "here", "uri": URI}
    return service.ask(m.SlotAdoptRequest(**(values | more)), m.SlotAdoptReply, principal)  # type: ignore[arg-type]


def refused(service: Served, principal: str = OPERATOR, /, **more: object) -> HsmBridgeError:
    with pytest.raises(HsmBridgeError) as refusal:
        adopt(service, principal, **more)
    return refusal.value


def test_an_adopted_key_signs_in_its_slot(service: Served) -> None:
    put(service, "EC-P256", SIGNING)
    reply = adopt(service)
    assert (reply.slot.key_type, P(reply.slot.permissions), reply.label) == ("EC-P256", SIGNING, "theirs")
    assert [(one.origin, one.state) for one in reply.slot.versions] == [("adopted", "active")]
    slot = service.id("taken", OPERATOR)
    signed = service.ask(m.SignRequest(slot, "ECDSA-P256-SHA256", b"x"), m.SignReply, OPERATOR)
    service.ask(m.VerifyRequest(slot, "ECDSA-P256-SHA256", b"x", signed.signature), m.VerifyReply, OPERATOR)


def test_a_key_in_a_form_that_only_its_token_opens_is_adopted_by_anybody_who_has_it(service: Served) -> None:
    put(service, "EC-P256", SIGNING, "a file")
    reply = adopt(service, "uid:1000", uri="", material=b"a file")
    assert reply.slot.name == "uid-1000/taken"


def test_only_operators_adopt_by_where_a_key_is(service: Served) -> None:
    put(service, "EC-P256", SIGNING)
    assert refused(service, "uid:1000").status is Status.ACCESS_DENIED
    assert service.calls == []


@pytest.mark.parametrize(
    ("token", "asked", "flags", "granted"),
    [
        (ALL_OF_RSA, P.NONE, {}, SIGNING),
        (ALL_OF_RSA, P.DECRYPT, {}, P.DECRYPT),
        (ALL_OF_RSA, SIGNING | P.EXPORT, {}, SIGNING | P.EXPORT),
        (ALL_OF_RSA, P.NONE, {"sign_and_decrypt": True}, SIGNING | P.ENCRYPT | P.DECRYPT),
        (ALL_OF_RSA, P.WRAP | P.SIGN, {}, P.SIGN),
        (ALL_OF_RSA, P.WRAP | P.UNWRAP, {"imported_wrapping_key": True}, P.WRAP | P.UNWRAP),
        (SIGNING, SIGNING | P.GENERATE, {}, SIGNING | P.GENERATE),
        (P.VERIFY, SIGNING, {}, P.VERIFY),
        (P.SIGN | P.DECRYPT, P.NONE, {}, P.SIGN),
        (P.ENCRYPT | P.DECRYPT, P.NONE, {}, P.ENCRYPT | P.DECRYPT),
    ],
)
def test_permissions_are_those_of_token_rules_and_caller_together(
    service: Served, token: P, asked: P, flags: dict[str, bool], granted: P
) -> None:
    put(service, "RSA-2048", token)
    reply = adopt(service, permissions=int(asked), **flags)
    assert P(reply.slot.permissions) == granted
    assert P(reply.slot.versions[0].permissions) == granted
    assert P(reply.token_permissions) == token


@pytest.mark.parametrize(
    ("token", "asked"),
    [
        (ALL_OF_RSA, P.SIGN | P.DECRYPT),
        (ALL_OF_RSA, P.WRAP | P.DECRYPT),
        (ALL_OF_RSA, P.DERIVE),
        (ALL_OF_RSA, P.WRAP),
        (P.VERIFY, P.SIGN),
        (P.NONE, P.NONE),
    ],
)
def test_what_leaves_nothing_or_cannot_stand_on_one_key_is_refused(service: Served, token: P, asked: P) -> None:
    put(service, "RSA-2048", token)
    assert refused(service, permissions=int(asked)).status is Status.INVALID_PERMISSIONS
    with pytest.raises(HsmBridgeError):
        service.ask(m.SlotShowRequest("taken"), m.SlotInfo, OPERATOR)


def test_a_key_is_in_one_slot_only(service: Served) -> None:
    put(service, "EC-P256", SIGNING)
    adopt(service)
    assert refused(service, name="again").status is Status.RESOURCE_EXISTS
    service.ask(m.SlotDestroyRequest("taken"), m.Empty, OPERATOR)
    adopt(service, name="again")


def test_a_key_that_the_service_made_is_not_adopted_by_its_id(service: Served) -> None:
    service.slot("mine", "AES-256", P.ENCRYPT)
    key_id = service.store.list_slots().records[0].versions[0].key_id
    uri = "pkcs11:id=" + "".join(f"%{byte:02X}" for byte in key_id)
    put(service, "AES-256", P.ENCRYPT, uri)
    assert refused(service, uri=uri).status is Status.RESOURCE_EXISTS


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"uri": ""}, Status.INVALID_ARGUMENT),
        ({"uri": calls.OWN_REFERENCE}, Status.INVALID_ARGUMENT),
        ({"material": b"both"}, Status.INVALID_ARGUMENT),
        ({"uri": "pkcs11:pin-value=1234"}, Status.INVALID_CONFIGURATION),
        ({"uri": "", "material": bytes(65_537)}, Status.DATA_TOO_LARGE),
        ({"name": "a b"}, Status.INVALID_NAME),
        ({"name": "web/taken"}, Status.ACCESS_DENIED),
        ({"permissions": 1 << 20}, Status.INVALID_PERMISSIONS),
        ({"provider": "none"}, Status.PROVIDER_NOT_CONFIGURED),
        ({"provider": "plain"}, Status.NOT_SUPPORTED),
    ],
)
def test_what_cannot_be_adopted_is_refused_before_any_provider_is_asked(
    service: Served, changes: dict[str, object], status: Status
) -> None:
    put(service, "EC-P256", SIGNING)
    assert refused(service, **changes).status is status
    assert service.calls == []


def test_a_key_that_is_not_there_is_said_to_be_missing(service: Served) -> None:
    assert refused(service).status is Status.KEY_MATERIAL_MISSING


def test_a_failed_adoption_leaves_no_slot_and_no_key_destroyed(service: Served) -> None:
    put(service, "EC-P256", SIGNING)
    service.failures[calls.AdoptCall] = ProviderError(Status.PROVIDER_FAILED)
    assert refused(service).status is Status.PROVIDER_FAILED
    destroyed = [call for _, call in service.calls if isinstance(call, calls.DestroyCall)]
    assert [call.reference for call in destroyed] == [b""]
    assert adopt(service).slot.versions[0].number == 1


def findings(service: Served) -> list[m.Finding]:
    found = service.ask(m.DoctorRequest(), m.DoctorReply, OPERATOR).findings
    return [one for one in found if one.subject == "slot uid-0/taken"]


def test_the_doctor_names_what_the_token_allows_past_the_daemon(service: Served) -> None:
    put(service, "RSA-2048", ALL_OF_RSA)
    adopt(service, permissions=int(SIGNING))
    here = service.providers["here"]
    assert isinstance(here, Traveller)
    reference = service.store.list_slots().records[0].versions[0].reference
    answers = {reference: ALL_OF_RSA}
    here.examine = lambda uri, material: calls.ForeignKey(  # type: ignore[method-assign]  # what a token would say
        "RSA-2048", int(answers[material]), b""
    )
    found = findings(service)
    assert [one.severity for one in found] == ["notice"]
    assert "encrypt, decrypt, wrap, export, unwrap" in found[0].message
    answers[reference] = SIGNING
    assert [one.severity for one in findings(service)] == ["ok"]


@pytest.mark.parametrize(
    ("status", "severity"),
    [(Status.INVALID_ARGUMENT, "notice"), (Status.NOT_SUPPORTED, "notice"), (Status.KEY_MATERIAL_MISSING, "error")],
)
def test_the_doctor_says_so_where_the_token_does_not_answer(service: Served, status: Status, severity: str) -> None:
    put(service, "EC-P256", SIGNING)
    adopt(service)
    service.failures[calls.ExamineCall] = HsmBridgeError(status)
    assert [one.severity for one in findings(service)] == [severity]
