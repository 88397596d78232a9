"""PINs of PKCS#11 applications at the service: each caller's own tokens, wrong PINs, what operators may, the audit."""

import time
from pathlib import Path

import msgspec
import pytest

from hsmbridge.core import calls
from hsmbridge.core import messages as m
from hsmbridge.core import token_messages as t
from hsmbridge.core.errors import HsmBridgeError, ProviderError, Status
from hsmbridge.core.operations import OPERATION_FOR
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.core.policy import PinOwner, Role
from hsmbridge.engine.steps import Steps, StoreStep, WorkStep
from hsmbridge.keys.pins import LOCKED_TIME, WRONG_PINS
from tests.unit.service.pki import Authority
from tests.unit.service.served import OPERATOR, Served
from tests.unit.storage.opened import ALICE, BOB, behind_its_back

SO, USER = PinOwner.SO, PinOwner.USER
TOKEN = "here"


def initialize(
    service: Served, pin: bytes = b"so-pin", principal: str = ALICE, providers: tuple[str, ...] = (TOKEN,)
) -> None:
    service.ask(t.TokenInitializeRequest(TOKEN, providers, "mine", pin), m.Empty, principal)


def log_in(service: Served, owner: PinOwner, pin: bytes, principal: str = ALICE) -> None:
    service.ask(t.TokenLoginRequest(TOKEN, owner, pin), m.Empty, principal)


def set_pin(service: Served, owner: PinOwner, pin: bytes, old: bytes | None = None) -> None:
    service.ask(t.TokenPinRequest(TOKEN, owner, pin, old), m.Empty)


def shown(service: Served, principal: str = ALICE) -> m.PinInfo:
    return service.ask(t.TokenShowRequest(TOKEN), m.PinInfo, principal)


def refused(service: Served, request: msgspec.Struct, principal: str = ALICE) -> Status:
    with pytest.raises(HsmBridgeError) as refusal:
        service.ask(request, msgspec.Struct, principal)
    return refusal.value.status


def slots(service: Served, principal: str = ALICE) -> set[str]:
    return {slot.name for slot in service.ask(m.SlotListRequest(), m.SlotListReply, principal).slots}


@pytest.fixture
def ready(service: Served) -> Served:
    """Alice's token here, with both PINs."""
    service.time = 1.0
    initialize(service)
    set_pin(service, USER, b"1234")
    return service


def test_a_token_is_each_callers_own(ready: Served) -> None:
    log_in(ready, SO, b"so-pin")
    log_in(ready, USER, b"1234")
    bobs = shown(ready, BOB)
    assert (bobs.initialized, bobs.label, bobs.so.is_set, bobs.user.is_set) == (0.0, "", False, False)
    assert refused(ready, t.TokenLoginRequest(TOKEN, USER, b"1234"), BOB) is Status.RESOURCE_NOT_FOUND
    initialize(ready, b"bobs-pin", BOB)
    assert (shown(ready).label, shown(ready).so.wrong) == ("mine", 0)


def test_a_pin_is_changed_by_who_knows_it(ready: Served) -> None:
    assert refused(ready, t.TokenPinRequest(TOKEN, USER, b"5678", b"4321")) is Status.PIN_INCORRECT
    set_pin(ready, USER, b"5678", b"1234")
    set_pin(ready, SO, b"so-new", b"so-pin")
    assert refused(ready, t.TokenLoginRequest(TOKEN, USER, b"1234")) is Status.PIN_INCORRECT
    assert refused(ready, t.TokenLoginRequest(TOKEN, SO, b"so-pin")) is Status.PIN_INCORRECT
    log_in(ready, USER, b"5678")
    log_in(ready, SO, b"so-new")
    assert (shown(ready).user.wrong, shown(ready).so.wrong) == (0, 0)


@pytest.mark.parametrize("owner", PinOwner)
def test_wrong_ones_lock_a_pin_for_a_while_even_to_the_right_one(ready: Served, owner: PinOwner) -> None:
    right = {SO: b"so-pin", USER: b"1234"}[owner]
    for _ in range(WRONG_PINS):
        assert refused(ready, t.TokenLoginRequest(TOKEN, owner, b"wrong")) is Status.PIN_INCORRECT
    assert refused(ready, t.TokenLoginRequest(TOKEN, owner, right)) is Status.PIN_LOCKED
    assert refused(ready, t.TokenPinRequest(TOKEN, owner, b"other", right)) is Status.PIN_LOCKED
    if owner is SO:
        assert refused(ready, t.TokenInitializeRequest(TOKEN, (TOKEN,), "", right)) is Status.PIN_LOCKED
    ready.time += LOCKED_TIME
    log_in(ready, owner, right)


def test_the_security_officer_ends_a_lock(ready: Served) -> None:
    for _ in range(WRONG_PINS):
        refused(ready, t.TokenLoginRequest(TOKEN, USER, b"wrong"))
    set_pin(ready, USER, b"5678")
    log_in(ready, USER, b"5678")


def test_one_pin_for_everybody_is_counted_by_caller(service: Served) -> None:
    def given(pin: bytes) -> t.TokenLoginRequest:
        return t.TokenLoginRequest("*", USER, pin, b"right")

    for _ in range(2):
        for _ in range(WRONG_PINS - 1):
            assert refused(service, given(b"wrong")) is Status.PIN_INCORRECT
        service.ask(given(b"right"), m.Empty)
    for _ in range(WRONG_PINS):
        assert refused(service, given(b"wrong")) is Status.PIN_INCORRECT
    assert refused(service, given(b"right")) is Status.PIN_LOCKED
    service.ask(given(b"right"), m.Empty, BOB)


def test_where_wrong_ones_cannot_be_counted_nobody_learns_which_are_right(ready: Served, tmp_path: Path) -> None:
    with behind_its_back(tmp_path) as connection:
        connection.execute("CREATE TRIGGER full BEFORE UPDATE ON pins BEGIN SELECT RAISE(ABORT, 'full'); END")
    right, wrong = (refused(ready, t.TokenLoginRequest(TOKEN, USER, pin)) for pin in (b"1234", b"wrong"))
    assert right is wrong
    assert wrong is not Status.PIN_INCORRECT


def test_tries_at_once_are_no_more_than_one_after_another(ready: Served) -> None:
    def begun(pin: bytes) -> Steps[msgspec.Struct]:
        request = t.TokenLoginRequest(TOKEN, USER, pin)
        steps = ready.dispatcher.steps(ready.session(), OPERATION_FOR[type(request)], request)
        looking = next(steps)
        assert isinstance(looking, WorkStep)
        looking.action()
        ready.time += 1
        return steps

    def answered(steps: Steps[msgspec.Struct]) -> Status:
        step = next(steps)
        try:
            assert isinstance(step, StoreStep)
            step.action()
            next(steps)
        except StopIteration:
            return Status.OK
        except HsmBridgeError as failure:
            return failure.status
        raise AssertionError("there is a further step")

    right = [begun(b"1234") for _ in range(2 * WRONG_PINS)]
    assert [answered(one) for one in right] == [Status.OK] * len(right)
    tried = [*(begun(b"wrong") for _ in range(2 * WRONG_PINS)), begun(b"1234")]
    told = [answered(one) for one in tried]
    assert told == [Status.PIN_INCORRECT] * WRONG_PINS + [Status.PIN_LOCKED] * (WRONG_PINS + 1)
    set_pin(ready, USER, b"1234")
    overtaken = begun(b"1234")
    set_pin(ready, USER, b"5678")
    assert answered(overtaken) is Status.PIN_INCORRECT


# Initialising


def test_the_first_time_nothing_is_destroyed(service: Served) -> None:
    service.slot("old", "EC-P256", P.SIGN)
    initialize(service)
    assert slots(service) == {"uid-1000/old"}


def test_initialising_again_takes_the_security_officers_pin_and_forgets_the_users(ready: Served) -> None:
    assert refused(ready, t.TokenInitializeRequest(TOKEN, (TOKEN,), "", b"wrong")) is Status.PIN_INCORRECT
    assert shown(ready).user.is_set
    initialize(ready)
    assert not shown(ready).user.is_set
    assert refused(ready, t.TokenLoginRequest(TOKEN, USER, b"1234")) is Status.RESOURCE_NOT_FOUND
    log_in(ready, SO, b"so-pin")


def test_initialising_again_destroys_what_is_the_callers_alone_and_is_on_the_token(ready: Served) -> None:
    for name in ("mine", "shared"):
        ready.slot(name, "EC-P256", P.SIGN)
    ready.slot("elsewhere", "EC-P256", P.SIGN, "there")
    ready.ask(m.SlotCreateRequest("theirs", "EC-P256", (TOKEN,), int(P.SIGN)), m.SlotInfo, BOB)
    ready.ask(m.SlotGrantRequest("shared", BOB, Role.USE, int(P.SIGN)), m.SlotInfo)
    ready.audited.clear()
    initialize(ready)
    assert slots(ready) == {"uid-1000/shared", "uid-1000/elsewhere"}
    assert slots(ready, BOB) == {"uid-1001/theirs", "uid-1000/shared"}
    told = [(one.principal, one.operation, one.subject, one.status) for one in ready.audited]
    assert ("uid:1000", "slot-destroy", "uid-1000/mine", Status.OK) in told
    assert ("uid:1000", "token-initialize", TOKEN, Status.OK) in told


def test_the_certificates_of_what_is_destroyed_go_with_it(ready: Served) -> None:
    authority = Authority("Root")
    for name in ("mine", "shared"):
        ready.slot(name, "EC-P256", P.SIGN)
        spki = ready.ask(m.SlotShowRequest(name), m.SlotInfo).versions[0].public_key
        ready.ask(m.CertImportRequest(name, (authority.issue(spki),), name), m.CertInfo)
    ready.ask(m.CertImportRequest("unbound", (authority.der,)), m.CertInfo)
    ready.ask(m.SlotGrantRequest("shared", BOB, Role.USE, int(P.SIGN)), m.SlotInfo)
    initialize(ready)
    left = ready.ask(m.CertListRequest(), m.CertListReply).certificates
    assert {one.name for one in left} == {"uid-1000/shared", "uid-1000/unbound"}


def test_what_cannot_be_destroyed_now_is_told_and_goes_later(ready: Served) -> None:
    for name in ("one", "two"):
        ready.slot(name, "EC-P256", P.SIGN)
    ready.failures[calls.DestroyCall] = ProviderError(Status.PROVIDER_FAILED, "It does not answer.")
    assert refused(ready, t.TokenInitializeRequest(TOKEN, (TOKEN,), "", b"so-pin")) is Status.PROVIDER_UNAVAILABLE
    assert not shown(ready).user.is_set, "the user's PIN went first"
    assert [item.version.state for item in ready.store.unfinished()[0]] == ["destroying"]
    initialize(ready)


def test_after_a_reset_a_token_is_as_new_and_what_was_there_stays(ready: Served) -> None:
    ready.slot("kept", "EC-P256", P.SIGN)
    ready.ask(m.PinResetRequest(ALICE, TOKEN), m.PinResetReply, OPERATOR)
    assert refused(ready, t.TokenPinRequest(TOKEN, USER, b"1234")) is Status.RESOURCE_NOT_FOUND
    ready.time = 4e9  # years from now
    initialize(ready, b"another")
    initialize(ready, b"another")
    assert slots(ready) == {"uid-1000/kept"}


# Operators, audit, doctor


def test_only_operators_reset_pins_and_see_those_of_others(ready: Served) -> None:
    assert refused(ready, m.PinResetRequest(ALICE, TOKEN)) is Status.ACCESS_DENIED
    assert [one.principal for one in ready.ask(m.PinListRequest(), m.PinListReply, OPERATOR).pins] == [ALICE]
    assert [one.token for one in ready.ask(m.PinListRequest(), m.PinListReply).pins] == [TOKEN]
    assert ready.ask(m.PinListRequest(), m.PinListReply, BOB).pins == []
    ready.audited.clear()
    assert ready.ask(m.PinResetRequest(ALICE, TOKEN), m.PinResetReply, OPERATOR).found
    assert not ready.ask(m.PinResetRequest(ALICE, TOKEN), m.PinResetReply, OPERATOR).found
    assert ready.audited[0].subject == f"{TOKEN} of {ALICE}"
    assert ready.ask(m.PinListRequest(), m.PinListReply, OPERATOR).pins == []
    assert refused(ready, m.PinResetRequest("alice", TOKEN), OPERATOR) is Status.INVALID_ARGUMENT


def test_no_pin_is_in_the_audit_or_shown_by_a_request(ready: Served) -> None:
    refused(ready, t.TokenLoginRequest(TOKEN, USER, b"a wrong one"))
    written = repr(ready.audited)
    assert "token-pin" in written
    assert "PIN_INCORRECT" in written
    for pin in ("so-pin", "1234", "wrong"):
        assert pin not in written
        assert pin not in repr(t.TokenLoginRequest(TOKEN, USER, pin.encode(), pin.encode()))
        assert pin not in repr(t.TokenPinRequest(TOKEN, USER, pin.encode(), pin.encode()))
        assert pin not in repr(t.TokenInitializeRequest(TOKEN, (), "", pin.encode()))


def test_the_doctor_tells_operators_of_pins_that_are_locked_or_were_changed(service: Served, tmp_path: Path) -> None:
    service.time = time.time()
    initialize(service)
    for _ in range(WRONG_PINS):
        refused(service, t.TokenLoginRequest(TOKEN, SO, b"wrong"))

    def told(principal: str) -> list[str]:
        findings = service.ask(m.DoctorRequest(), m.DoctorReply, principal).findings
        return [one.severity for one in findings if one.subject == f"PINs of {ALICE}"]

    assert told(OPERATOR) == ["warning"]
    assert told(ALICE) == []
    with behind_its_back(tmp_path) as connection:
        connection.execute("UPDATE pins SET so_wrong = 0")
    assert told(OPERATOR) == ["error"]
