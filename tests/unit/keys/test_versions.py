"""What becomes of key versions, decision by decision."""

from dataclasses import replace

import pytest

from hsmbridge.core.errors import HsmBridgeError, KeyUseError, ProviderError, RequestError, ResourceError, Status
from hsmbridge.core.lifecycle import TRANSITIONS, KeyVersionState
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.core.policy import Role
from hsmbridge.keys import versions
from hsmbridge.storage.records import AccessEntry, NewVersion, SlotId, SlotRecord, SlotState
from tests.unit.storage.opened import ALICE, made_key, new_slot, new_version

US, THEM = "a" * 32, "b" * 32
NOW, LATER = 1.0, 2.0
State = KeyVersionState


def dead(_owner: str) -> bool:
    return False


def alive(_owner: str) -> bool:
    return True


def slot(*states: KeyVersionState, slot_state: SlotState = SlotState.LIVE) -> SlotRecord:
    """A slot with one version in each of `states`, numbered from 1."""
    plan = new_slot()
    made = []
    for number, state in enumerate(states, 1):
        owner = THEM if state is State.CREATING else ""
        version = versions.first_version(new_version(), owner, NOW)
        reference = b"" if state in (State.CREATING, State.ABANDONED, State.DESTROYED) else b"reference"
        made.append(replace(version, number=number, state=state, reference=reference))
    return SlotRecord(
        id=SlotId(b"s" * 16),
        name=plan.name,
        state=slot_state,
        key_type=plan.key_type,
        providers=plan.providers,
        permissions=plan.permissions,
        algorithms=(),
        nonce_policy=plan.nonce_policy,
        fallback=False,
        sign_and_decrypt=False,
        derive_to_software=False,
        imported_wrapping_key=False,
        creator=ALICE,
        generation=5,
        revision=9,
        created=NOW,
        versions=tuple(made),
        access=(AccessEntry(ALICE, Role.ADMINISTER, plan.permissions),),
    )


def states(record: SlotRecord | None) -> list[KeyVersionState]:
    assert record is not None
    return [version.state for version in record.versions]


def begun(record: SlotRecord, new: NewVersion | None = None) -> tuple[SlotRecord, NewVersion]:
    new = new or new_version()
    return versions.begin(record, new, US, NOW, dead), new


def status_of(refusal: pytest.ExceptionInfo[HsmBridgeError]) -> Status:
    return refusal.value.status


def test_a_version_begins_owned_and_without_material() -> None:
    record, new = begun(slot(State.ROTATED, State.ACTIVE))
    version = record.by_key_id(new.key_id)
    assert version is not None
    assert (version.number, version.state, version.owner, version.reference) == (3, State.CREATING, US, b"")
    assert (version.token, version.provider) == ("serial-1", "software")
    assert record.generation == 5, "nobody can notice it yet"


def test_a_new_version_becomes_active_and_the_former_one_rotated() -> None:
    record, new = begun(slot(State.REVOKED, State.ACTIVE))
    activated = versions.activate(record, new.key_id, made_key(), US, LATER)
    assert states(activated) == [State.REVOKED, State.ROTATED, State.ACTIVE]
    assert activated.generation == 6
    assert activated.active is not None
    assert activated.active.owner == ""
    assert activated.active.reference == b"where the key is"
    assert activated.active.changed == LATER


def test_a_slot_that_waited_for_its_first_version_is_live() -> None:
    record, new = begun(slot(slot_state=SlotState.PENDING))
    assert versions.activate(record, new.key_id, made_key(), US, LATER).state is SlotState.LIVE


@pytest.mark.parametrize("gone", ["another owner", "abandoned", "removed", "active already"])
def test_only_what_is_still_being_made_by_us_becomes_active(gone: str) -> None:
    record, new = begun(slot(State.ACTIVE))
    owner = US
    if gone == "another owner":
        owner = THEM
    elif gone == "abandoned":
        record = versions.abandon(record, new.key_id, NOW)
    elif gone == "removed":
        record = slot(State.ACTIVE)
    else:
        record = versions.activate(record, new.key_id, made_key(), US, NOW)
    with pytest.raises(KeyUseError) as refusal:
        versions.activate(record, new.key_id, made_key(), owner, LATER)
    assert status_of(refusal) is Status.KEY_STATE_FORBIDS


def test_a_reference_has_a_greatest_size() -> None:
    record, new = begun(slot())
    versions.activate(record, new.key_id, made_key(b"x" * versions.REFERENCE_MAX), US, NOW)
    with pytest.raises(ProviderError):
        versions.activate(record, new.key_id, made_key(b"x" * (versions.REFERENCE_MAX + 1)), US, NOW)


def test_a_second_version_waits_for_the_first_unless_its_maker_died() -> None:
    record = slot(State.ACTIVE, State.CREATING)
    with pytest.raises(KeyUseError) as refusal:
        versions.begin(record, new_version(), US, NOW, alive)
    assert status_of(refusal) is Status.KEY_STATE_FORBIDS
    assert "try again" in refusal.value.message
    taken_over = versions.begin(record, new_version(), US, NOW, dead)
    assert states(taken_over) == [State.ACTIVE, State.ABANDONED, State.CREATING]


def test_a_version_begun_instead_of_another_abandons_that_one() -> None:
    record = slot(State.CREATING, slot_state=SlotState.PENDING)
    failed = record.versions[0].key_id
    again = versions.begin(record, new_version(provider="tpm"), US, NOW, alive, instead_of=failed)
    assert states(again) == [State.ABANDONED, State.CREATING]
    assert states(versions.remove_abandoned(again, failed)) == [State.CREATING], "the slot stays: it has another"


def test_a_version_goes_only_where_the_slot_keeps_its_keys() -> None:
    with pytest.raises(RequestError) as refusal:
        begun(slot(State.ACTIVE), new_version(provider="elsewhere"))
    assert status_of(refusal) is Status.INVALID_ARGUMENT


def test_a_version_gets_no_permission_that_the_slot_lacks() -> None:
    with pytest.raises(RequestError) as refusal:
        begun(slot(State.ACTIVE), new_version(P.SIGN | P.DERIVE))
    assert status_of(refusal) is Status.INVALID_PERMISSIONS
    assert "derive" in refusal.value.message


@pytest.mark.parametrize("slot_state", [SlotState.DESTROYING, SlotState.DESTROYED])
def test_nothing_begins_in_a_slot_that_goes(slot_state: SlotState) -> None:
    with pytest.raises(KeyUseError) as refusal:
        begun(slot(State.DESTROYING, slot_state=slot_state))
    assert status_of(refusal) is Status.KEY_STATE_FORBIDS


def test_only_what_is_being_made_can_be_abandoned() -> None:
    for state in set(State) - {State.CREATING}:
        record = slot(state)
        assert versions.abandon(record, record.versions[0].key_id, NOW) is record
    record = slot(State.CREATING)
    assert states(versions.abandon(record, record.versions[0].key_id, NOW)) == [State.ABANDONED]


def test_only_what_is_abandoned_can_be_forgotten() -> None:
    for state in set(State) - {State.ABANDONED}:
        record = slot(state)
        assert versions.remove_abandoned(record, record.versions[0].key_id) is record
    record = slot(State.ACTIVE, State.ABANDONED)
    assert states(versions.remove_abandoned(record, record.versions[1].key_id)) == [State.ACTIVE]


def test_a_slot_made_for_a_version_goes_with_it_and_an_empty_one_stays() -> None:
    pending = slot(State.ABANDONED, slot_state=SlotState.PENDING)
    assert versions.remove_abandoned(pending, pending.versions[0].key_id) is None
    empty = slot(State.ABANDONED)
    assert states(versions.remove_abandoned(empty, empty.versions[0].key_id)) == []


@pytest.mark.parametrize("state", State)
def test_revoking_follows_the_table_of_states(state: KeyVersionState) -> None:
    record = slot(state)
    if State.REVOKED in TRANSITIONS[state]:
        revoked = versions.revoke(record, 1, LATER)
        assert states(revoked) == [State.REVOKED]
        assert revoked.generation == 6
        return
    with pytest.raises(HsmBridgeError) as refusal:
        versions.revoke(record, 1, LATER)
    never_there = state in (State.CREATING, State.ABANDONED)
    assert status_of(refusal) is (Status.RESOURCE_NOT_FOUND if never_there else Status.KEY_STATE_FORBIDS)


def test_revoking_without_a_number_takes_the_active_version() -> None:
    assert states(versions.revoke(slot(State.ROTATED, State.ACTIVE), 0, LATER)) == [State.ROTATED, State.REVOKED]
    with pytest.raises(KeyUseError) as refusal:
        versions.revoke(slot(State.ROTATED), 0, LATER)
    assert status_of(refusal) is Status.KEY_STATE_FORBIDS
    with pytest.raises(ResourceError) as missing:
        versions.revoke(slot(State.ACTIVE), 7, LATER)
    assert status_of(missing) is Status.RESOURCE_NOT_FOUND


@pytest.mark.parametrize("state", State)
def test_destroying_a_version_follows_the_table_of_states(state: KeyVersionState) -> None:
    record = slot(state)
    if State.DESTROYING in TRANSITIONS[state]:
        going = versions.begin_destroy(record, 1, LATER)
        assert states(going) == [State.DESTROYING]
        assert going.versions[0].reference == b"reference", "the provider needs it still"
        assert going.state is SlotState.LIVE
        gone = versions.finish_destroy(going, going.versions[0].key_id, LATER)
        assert states(gone) == [State.DESTROYED]
        assert gone.versions[0].reference == b""
        assert gone.state is SlotState.LIVE
    elif state is State.DESTROYING:
        assert versions.begin_destroy(record, 1, LATER) is record
    else:
        with pytest.raises(HsmBridgeError):
            versions.begin_destroy(record, 1, LATER)


def test_destroying_a_slot_ends_when_its_last_version_is_gone() -> None:
    record = slot(State.REVOKED, State.DESTROYED, State.ROTATED, State.ACTIVE, State.CREATING)
    going = versions.begin_destroy(record, 0, LATER)
    assert states(going) == [
        State.DESTROYING,
        State.DESTROYED,
        State.DESTROYING,
        State.DESTROYING,
        State.ABANDONED,
    ]
    assert going.state is SlotState.DESTROYING
    assert versions.begin_destroy(going, 0, LATER) is going, "repeating it is fine"
    for version in going.versions:
        assert going.state is SlotState.DESTROYING
        going = versions.finish_destroy(going, version.key_id, LATER)
        if version.number == 4:
            break
    assert going.state is SlotState.DESTROYED
    assert states(going)[-1] is State.ABANDONED, "the sweep's business, whatever becomes of the slot"


def test_destroying_a_slot_without_keys_is_done_at_once() -> None:
    assert versions.begin_destroy(slot(), 0, LATER).state is SlotState.DESTROYED
    assert versions.begin_destroy(slot(State.DESTROYED), 0, LATER).state is SlotState.DESTROYED


def test_finishing_what_is_not_being_destroyed_changes_nothing() -> None:
    for state in set(State) - {State.DESTROYING}:
        record = slot(state)
        assert versions.finish_destroy(record, record.versions[0].key_id, LATER) is record
