"""The state of a context: which call may follow which, and who frees what it holds; the bound of what is held back."""

import pytest

from hsmbridge.core.contexts import NEXT, ContextCall, ContextState
from hsmbridge.core.errors import ContextError, LimitError, Status
from hsmbridge.core.room import Room
from hsmbridge.engine.contexts import ContextMachine, Spool

_WAYS: dict[ContextState, tuple[ContextCall, ...]] = {
    ContextState.CREATED: (),
    ContextState.INITIALIZED: (ContextCall.INIT,),
    ContextState.UPDATING: (ContextCall.INIT, ContextCall.UPDATE),
    ContextState.FINALIZED: (ContextCall.INIT, ContextCall.FINALIZE),
}


def _in(state: ContextState) -> ContextMachine:
    machine = ContextMachine()
    for call in _WAYS[state]:
        machine.begin(call)
        assert machine.end(call)
    assert machine.state is state
    return machine


@pytest.mark.parametrize("state", _WAYS)
@pytest.mark.parametrize("call", ContextCall)
def test_a_call_out_of_order_is_refused_and_changes_nothing(state: ContextState, call: ContextCall) -> None:
    machine = _in(state)
    if state in NEXT[call]:
        machine.begin(call)
        assert machine.end(call)
        assert machine.state is NEXT[call][state]
        return
    with pytest.raises(ContextError) as refusal:
        machine.begin(call)
    assert refusal.value.status is Status.INVALID_OPERATION
    assert machine.state is state


@pytest.mark.parametrize("call", ContextCall)
def test_after_a_failure_only_closing_is_left(call: ContextCall) -> None:
    machine = _in(ContextState.INITIALIZED)
    machine.begin(ContextCall.UPDATE)
    machine.fail()
    with pytest.raises(ContextError) as refusal:
        machine.begin(call)
    assert refusal.value.status is Status.CONTEXT_FAILED
    assert machine.state is ContextState.ERROR
    assert machine.close()
    assert not machine.close(), "once"


def test_a_second_call_waits_for_the_first_ones_answer() -> None:
    machine = _in(ContextState.UPDATING)
    machine.begin(ContextCall.UPDATE)
    with pytest.raises(ContextError) as refusal:
        machine.begin(ContextCall.FINALIZE)
    assert refusal.value.status is Status.INVALID_OPERATION
    assert machine.end(ContextCall.UPDATE)


def test_what_is_closed_under_a_call_is_freed_by_that_call() -> None:
    machine = _in(ContextState.INITIALIZED)
    machine.begin(ContextCall.UPDATE)
    assert not machine.close(), "who closes leaves the freeing to the call"
    assert not machine.end(ContextCall.UPDATE), "and the call knows"
    assert not machine.close(), "nobody frees it twice"


def test_a_call_whose_deadline_passed_cannot_succeed_any_more() -> None:
    machine = _in(ContextState.INITIALIZED)
    machine.begin(ContextCall.FINALIZE)
    machine.give_up()
    assert not machine.end(ContextCall.FINALIZE)
    assert machine.state is ContextState.ERROR


def test_a_result_takes_the_place_of_what_it_was_made_of() -> None:
    rooms = Room(10), Room(10)
    spool = Spool(10, *rooms)
    spool.add(b"0123456789")
    spool.replace(b"0123456789 and its padding")
    assert not any(room.take(1) for room in rooms)
    spool.clear()
    assert all(room.empty for room in rooms)


def test_a_spool_holds_up_to_its_bound_and_not_a_byte_more() -> None:
    spool = Spool(10, Room(100), Room(100))
    spool.add(b"12345")
    spool.add(b"")
    spool.add(b"67890")
    with pytest.raises(LimitError) as refusal:
        spool.add(b"!")
    assert refusal.value.status is Status.DATA_TOO_LARGE
    assert "max_held" in refusal.value.message
    assert spool.take() == b"1234567890"
    assert len(spool) == 10


def test_the_contexts_of_a_connection_share_one_bound() -> None:
    held, everywhere = Room(10), Room(100)
    first, second = Spool(8, held, everywhere), Spool(8, held, everywhere)
    first.add(bytes(8))
    with pytest.raises(LimitError):
        second.add(bytes(3))
    first.clear()
    second.add(bytes(8))


def test_what_contexts_hold_back_counts_for_all_connections_of_a_principal() -> None:
    everywhere = Room(10, "too much of it")
    first, second = Spool(8, Room(8), everywhere), Spool(8, Room(8), everywhere)
    first.add(bytes(8))
    with pytest.raises(LimitError, match="too much") as refusal:
        second.add(bytes(3))
    assert refusal.value.status is Status.TOO_MANY_RESOURCES
    first.clear()
    second.add(bytes(8))
