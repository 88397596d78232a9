"""Access lists and permissions: within the ceiling, never growing, never without somebody who administers."""

from functools import partial

import pytest

from hsmbridge.core.errors import HsmBridgeError, KeyUseError, RequestError, ResourceError, Status
from hsmbridge.core.lifecycle import KeyVersionState
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.core.policy import Role
from hsmbridge.keys import grants
from hsmbridge.storage.records import AccessEntry, SlotRecord, SlotState
from tests.unit.keys.test_versions import slot
from tests.unit.storage.opened import ALICE, BOB, SIGNING

State = KeyVersionState


@pytest.fixture
def record() -> SlotRecord:
    return slot(State.ROTATED, State.ACTIVE)


def test_a_grant_is_exactly_what_it_says_whatever_was_before(record: SlotRecord) -> None:
    first = grants.grant(record, BOB, Role.ADMINISTER, P.SIGN | P.VERIFY)
    second = grants.grant(first, BOB, Role.USE, P.VERIFY)
    assert second.entry_for(BOB) == AccessEntry(BOB, Role.USE, P.VERIFY)
    assert len(second.access) == 2
    assert (first.generation, second.generation) == (6, 7)
    assert grants.grant(second, BOB, Role.USE, P.VERIFY) is second


def test_a_mask_stays_within_the_ceiling(record: SlotRecord) -> None:
    with pytest.raises(RequestError) as refusal:
        grants.grant(record, BOB, Role.USE, P.SIGN | P.EXPORT)
    assert refusal.value.status is Status.INVALID_PERMISSIONS
    assert "export" in refusal.value.message


def test_access_is_taken_away(record: SlotRecord) -> None:
    granted = grants.grant(record, BOB, Role.USE, P.SIGN)
    taken = grants.ungrant(granted, BOB)
    assert taken.entry_for(BOB) is None
    assert taken.generation == granted.generation + 1
    with pytest.raises(ResourceError) as refusal:
        grants.ungrant(taken, BOB)
    assert refusal.value.status is Status.RESOURCE_NOT_FOUND


def test_somebody_always_administers(record: SlotRecord) -> None:
    for attempt in (
        partial(grants.ungrant, record, ALICE),
        partial(grants.grant, record, ALICE, Role.USE, P.SIGN),
    ):
        with pytest.raises(HsmBridgeError) as refusal:
            attempt()
        assert refusal.value.status is Status.INVALID_ARGUMENT
        assert "administer" in refusal.value.message
    handed_over = grants.ungrant(grants.grant(record, BOB, Role.ADMINISTER, P.NONE), ALICE)
    assert [entry.principal for entry in handed_over.access] == [BOB]


def test_what_is_taken_from_a_slot_is_taken_from_its_versions_and_access_list(record: SlotRecord) -> None:
    granted = grants.grant(record, BOB, Role.USE, P.SIGN | P.VERIFY)
    restricted = grants.restrict(granted, P.SIGN | P.DERIVE)
    assert restricted.permissions == SIGNING & ~P.SIGN
    assert all(version.permissions == SIGNING & ~P.SIGN for version in restricted.versions)
    assert restricted.entry_for(BOB) == AccessEntry(BOB, Role.USE, P.VERIFY)
    assert restricted.generation == granted.generation + 1
    assert grants.restrict(restricted, P.SIGN) is restricted
    with pytest.raises(RequestError):
        grants.grant(restricted, BOB, Role.USE, P.SIGN)


def test_a_permission_can_be_taken_from_one_version(record: SlotRecord) -> None:
    restricted = grants.restrict(record, P.VERIFY, 1)
    assert [version.permissions for version in restricted.versions] == [SIGNING & ~P.VERIFY, SIGNING]
    assert restricted.permissions == SIGNING
    with pytest.raises(ResourceError):
        grants.restrict(record, P.VERIFY, 7)


@pytest.mark.parametrize("state", [state for state in SlotState if state is not SlotState.LIVE])
def test_only_a_live_slot_is_administered(state: SlotState) -> None:
    record = slot(slot_state=state)
    for attempt in (
        partial(grants.grant, record, BOB, Role.USE, P.SIGN),
        partial(grants.ungrant, record, ALICE),
        partial(grants.restrict, record, P.SIGN),
    ):
        with pytest.raises(KeyUseError) as refusal:
            attempt()
        assert refusal.value.status is Status.KEY_STATE_FORBIDS
