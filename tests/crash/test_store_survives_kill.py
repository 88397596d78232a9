"""Twenty kill -9 at random instants: what was acknowledged is there, what was half-made is swept, nothing else is lost.

Two processes work on one store and one provider at a time and are killed each at its own instant; ten times.
"""

import contextlib
import multiprocessing
import random
import signal
import threading
from collections import Counter
from pathlib import Path

from hsmbridge.core.lifecycle import KeyVersionState
from hsmbridge.keys.slots import Slots
from hsmbridge.storage.records import SlotRecord, SlotState
from hsmbridge.storage.store import Store
from tests.crash.slot_worker import Directory, work
from tests.unit.storage.opened import name_of, open_at

ROUNDS = 10
WORKERS = 2
LONGEST_LIFE = 0.5

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.crash.slot_worker"])

Message = tuple[str, str, str]
State = KeyVersionState
Model = dict[str, list[State]]
"""Of each slot that was acknowledged and not destroyed: the states of its versions."""


def work_until_killed(directory: Path, prefix: str, life: float, said: list[Message]) -> None:
    """Put what a worker says in its life into `said`; the kill comes `life` seconds after it is ready."""
    hears, says = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=work, args=(directory, prefix, says))
    process.start()
    says.close()
    assert hears.recv()[0] == "ready"
    timer = threading.Timer(life, process.kill)
    timer.start()
    with contextlib.suppress(EOFError):
        while True:
            said.append(hears.recv())
    timer.join()
    process.join(timeout=10)
    assert process.exitcode == -signal.SIGKILL


def applied(model: Model, act: str, name: str) -> None:
    """What an act does to the model."""
    if act == "create":
        model[name] = [State.ACTIVE]
    elif act == "destroy":
        del model[name]
    else:
        former = State.ROTATED if act == "rotate" else State.REVOKED
        versions = [former if state is State.ACTIVE else state for state in model[name]]
        model[name] = [*versions, State.ACTIVE] if act == "rotate" else versions


def states(record: SlotRecord | None) -> list[State] | None:
    """The states of a slot's versions, or None where there is no slot."""
    return None if record is None else [version.state for version in record.versions]


def check_usable_keys_are_whole(store: Store, provider: Directory) -> None:
    for record in store.list_slots().records:
        for version in record.in_state(State.ACTIVE, State.ROTATED):
            assert record.state is SlotState.LIVE
            assert provider.holds(version.key_id, version.reference), f"{record.name} {version.number}"


def sweep(slots: Slots, provider: Directory) -> Counter[State]:
    """Complete what was interrupted, as the daemon does. What there was, by state."""
    found: Counter[State] = Counter()
    for item in slots.sweep():
        found[item.version.state] += 1
        provider.destroy(item.version.key_id)
        if item.version.state is State.ABANDONED:
            slots.remove_abandoned(item.slot.id, item.version.key_id)
        else:
            slots.finish_destroy(item.slot.id, item.version.key_id)
    return found


def test_acknowledged_work_survives_and_the_rest_is_swept(tmp_path: Path) -> None:
    (tmp_path / "token").mkdir()
    provider = Directory(tmp_path / "token")
    open_at(tmp_path).close()
    model: Model = {}
    swept: Counter[State] = Counter()
    acknowledged = 0
    for round_ in range(ROUNDS):
        said: list[list[Message]] = [[] for _ in range(WORKERS)]
        threads = [
            threading.Thread(
                target=work_until_killed,
                args=(tmp_path, f"slot-{round_}-{worker}", random.uniform(0.0, LONGEST_LIFE), said[worker]),
            )
            for worker in range(WORKERS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
        in_flight: dict[str, str] = {}
        for lines in said:
            for event, act, name in lines:
                if event == "begin":
                    in_flight[name] = act
                else:
                    del in_flight[name]
                    applied(model, act, name)
                    acknowledged += 1
        store = open_at(tmp_path)
        slots = Slots(store)
        check_usable_keys_are_whole(store, provider)
        for name, expected in model.items():
            if name not in in_flight:
                assert states(store.find(name_of(name))) == expected, name
        swept += sweep(slots, provider)
        assert slots.sweep() == []
        check_in_flight(store, model, in_flight)
        check_nothing_is_lost_or_left_over(store, model, provider)
        store.close()
    print(f"{acknowledged} acts acknowledged, swept: {dict(swept)}")
    assert acknowledged > 0
    assert swept.total() > 0, "no kill came between two steps; the test has shown nothing"


def check_in_flight(store: Store, model: Model, in_flight: dict[str, str]) -> None:
    """What was under way took place whole, or not at all."""
    for name, act in in_flight.items():
        before = model.get(name)
        after_model: Model = {} if before is None else {name: before}
        applied(after_model, act, name)
        found = states(store.find(name_of(name)))
        if act == "destroy":
            assert found in (before, None), f"{act} {name}"
        else:
            assert found in (before, after_model[name]), f"{act} {name}"
        if found is None:
            model.pop(name, None)
        else:
            model[name] = found


def check_nothing_is_lost_or_left_over(store: Store, model: Model, provider: Directory) -> None:
    listing = store.list_slots()
    assert listing.tampered == ()
    assert {record.name: states(record) for record in listing.records} == {
        name_of(name): expected for name, expected in model.items()
    }
    with_material = {version.key_id for record in listing.records for version in record.versions}
    assert provider.key_ids() == with_material
    check_usable_keys_are_whole(store, provider)
