"""Slots against a simple model: whatever is asked in whatever order, store and check say what the model says.

The model is a few dictionaries and the rules in the plainest words; the real thing runs on a real store that is
closed and opened again in between, at which whatever was being made belongs to a process that is no more.
"""

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hsmbridge.core.algorithms import algorithm
from hsmbridge.core.errors import HsmBridgeError, Status
from hsmbridge.core.identifiers import KeyId
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.core.policy import Role
from hsmbridge.keys.access import SlotEntry, SlotKeys, candidates
from hsmbridge.keys.slots import Slots
from hsmbridge.storage.records import NewVersion, SlotId, SlotRecord
from tests.unit.storage.opened import ALICE, BOB, made_key, name_of, new_slot, open_at

CAROL = "uid:1002"
CEILING = P.SIGN | P.VERIFY | P.GENERATE
ECDSA = algorithm("ECDSA-P256-SHA256")
HAS_KEY = ("active", "rotated", "revoked")
HIDDEN = ("creating", "abandoned")

names = st.sampled_from(["a", "b"])
picks = st.integers(0, 30)
numbers = st.integers(0, 5)
principals = st.sampled_from([ALICE, BOB, CAROL])
masks = st.sampled_from([P.NONE, P.SIGN, P.VERIFY, P.SIGN | P.VERIFY, P.SIGN | P.EXPORT])


@dataclass
class Version:
    key_id: KeyId
    permissions: P
    state: str = "creating"
    maker_lives: bool = True


@dataclass
class Slot:
    name: str
    id: SlotId
    state: str
    ceiling: P = CEILING
    versions: dict[int, Version] = field(default_factory=dict)
    access: dict[str, tuple[Role, P]] = field(default_factory=lambda: {ALICE: (Role.ADMINISTER, CEILING)})

    def in_state(self, state: str) -> list[Version]:
        return [version for version in self.versions.values() if version.state == state]


class SlotMachine(RuleBasedStateMachine):
    """The store and its model side by side."""

    @initialize()
    def open(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="hb", dir="/tmp"))
        self.store = open_at(self.directory)
        self.slots = Slots(self.store)
        self.keys = SlotKeys(self.store)
        self.model: list[Slot] = []

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            shutil.rmtree(self.directory)

    def slot(self, pick: int) -> Slot:
        return self.model[pick % len(self.model)]

    def version(self, slot: Slot, pick: int) -> Version | None:
        if not slot.versions:
            return None
        return slot.versions[sorted(slot.versions)[pick % len(slot.versions)]]

    def outcome(self, act: Callable[[], object], expected: Status | None) -> None:
        status = None
        try:
            act()
        except HsmBridgeError as refusal:
            status = refusal.status
        assert status is expected

    # Making

    @rule(name=names, empty=st.booleans())
    def create(self, name: str, empty: bool) -> None:
        taken = any(slot.name == name and slot.state not in ("destroyed", "removed") for slot in self.model)
        new = NewVersion(provider="software", permissions=CEILING)
        made: list[SlotRecord] = []
        self.outcome(
            lambda: made.append(self.slots.create(new_slot(name), None if empty else new)),
            Status.RESOURCE_EXISTS if taken else None,
        )
        if made:
            slot = Slot(name, made[0].id, "live" if empty else "pending")
            if not empty:
                slot.versions[1] = Version(new.key_id, CEILING)
            self.model.append(slot)

    @precondition(lambda self: self.model)
    @rule(pick=picks, mask=masks)
    def begin_version(self, pick: int, mask: P) -> None:
        slot = self.slot(pick)
        new = NewVersion(provider="software", permissions=mask)
        expected = None
        if slot.state == "removed":
            expected = Status.RESOURCE_NOT_FOUND
        elif slot.state in ("destroying", "destroyed"):
            expected = Status.KEY_STATE_FORBIDS
        elif mask & ~slot.ceiling:
            expected = Status.INVALID_PERMISSIONS
        elif any(version.maker_lives for version in slot.in_state("creating")):
            expected = Status.KEY_STATE_FORBIDS
        self.outcome(lambda: self.slots.begin_version(slot.id, new), expected)
        if expected is None:
            for version in slot.in_state("creating"):
                version.state = "abandoned"
            slot.versions[max(slot.versions, default=0) + 1] = Version(new.key_id, mask)

    @precondition(lambda self: self.model)
    @rule(pick=picks, which=picks)
    def activate(self, pick: int, which: int) -> None:
        slot = self.slot(pick)
        version = self.version(slot, which)
        if version is None or slot.state == "removed":
            return
        possible = version.state == "creating" and version.maker_lives
        expected = None if possible else Status.KEY_STATE_FORBIDS
        self.outcome(lambda: self.slots.activate(slot.id, version.key_id, made_key()), expected)
        if possible:
            for other in slot.in_state("active"):
                other.state = "rotated"
            version.state = "active"
            slot.state = "live"

    @precondition(lambda self: self.model)
    @rule(pick=picks, which=picks)
    def abandon(self, pick: int, which: int) -> None:
        slot = self.slot(pick)
        version = self.version(slot, which)
        if version is None:
            return
        if version.state == "creating":
            version.state = "abandoned"
        assert self.slots.abandon(slot.id, version.key_id) is (version.state == "abandoned")

    @precondition(lambda self: self.model)
    @rule(pick=picks, which=picks)
    def remove_abandoned(self, pick: int, which: int) -> None:
        slot = self.slot(pick)
        version = self.version(slot, which)
        if version is None:
            return
        self.slots.remove_abandoned(slot.id, version.key_id)
        if version.state == "abandoned":
            slot.versions = {number: other for number, other in slot.versions.items() if other is not version}
            if slot.state == "pending" and not slot.versions:
                slot.state = "removed"

    # Ending

    @precondition(lambda self: self.model)
    @rule(pick=picks, number=numbers)
    def revoke(self, pick: int, number: int) -> None:
        slot = self.slot(pick)
        version = slot.versions.get(number) if number else next(iter(slot.in_state("active")), None)
        expected = None
        if slot.state == "removed":
            expected = Status.RESOURCE_NOT_FOUND
        elif version is None or version.state in HIDDEN:
            expected = Status.RESOURCE_NOT_FOUND if number else Status.KEY_STATE_FORBIDS
        elif version.state not in ("active", "rotated"):
            expected = Status.KEY_STATE_FORBIDS
        self.outcome(lambda: self.slots.revoke(slot.id, number), expected)
        if expected is None and version is not None:
            version.state = "revoked"

    @precondition(lambda self: self.model)
    @rule(pick=picks, number=st.integers(1, 5))
    def destroy_version(self, pick: int, number: int) -> None:
        slot = self.slot(pick)
        version = slot.versions.get(number)
        expected = None
        if slot.state == "removed" or version is None or version.state in HIDDEN:
            expected = Status.RESOURCE_NOT_FOUND
        elif version.state == "destroyed":
            expected = Status.KEY_STATE_FORBIDS
        self.outcome(lambda: self.slots.begin_destroy(slot.id, number), expected)
        if expected is None and version is not None:
            version.state = "destroying"

    @precondition(lambda self: self.model)
    @rule(pick=picks)
    def destroy_slot(self, pick: int) -> None:
        slot = self.slot(pick)
        self.outcome(
            lambda: self.slots.begin_destroy(slot.id), Status.RESOURCE_NOT_FOUND if slot.state == "removed" else None
        )
        if slot.state in ("pending", "live"):
            for version in slot.versions.values():
                if version.state in HAS_KEY:
                    version.state = "destroying"
                elif version.state == "creating":
                    version.state = "abandoned"
            slot.state = "destroying" if slot.in_state("destroying") else "destroyed"

    @precondition(lambda self: self.model)
    @rule(pick=picks, which=picks)
    def finish_destroy(self, pick: int, which: int) -> None:
        slot = self.slot(pick)
        version = self.version(slot, which)
        if version is None or slot.state == "removed":
            return
        self.slots.finish_destroy(slot.id, version.key_id)
        if version.state == "destroying":
            version.state = "destroyed"
            if slot.state == "destroying" and not slot.in_state("destroying"):
                slot.state = "destroyed"

    # Access

    @precondition(lambda self: self.model)
    @rule(pick=picks, principal=principals, role=st.sampled_from(Role), mask=masks)
    def grant(self, pick: int, principal: str, role: Role, mask: P) -> None:
        slot = self.slot(pick)
        expected = self._not_live(slot)
        if expected is None and mask & ~slot.ceiling:
            expected = Status.INVALID_PERMISSIONS
        elif expected is None and not self._administered(slot.access | {principal: (role, mask)}):
            expected = Status.INVALID_ARGUMENT
        self.outcome(lambda: self.slots.grant(slot.id, principal, role, mask), expected)
        if expected is None:
            slot.access[principal] = (role, mask)

    @precondition(lambda self: self.model)
    @rule(pick=picks, principal=principals)
    def ungrant(self, pick: int, principal: str) -> None:
        slot = self.slot(pick)
        left = {other: entry for other, entry in slot.access.items() if other != principal}
        expected = self._not_live(slot)
        if expected is None and principal not in slot.access:
            expected = Status.RESOURCE_NOT_FOUND
        elif expected is None and not self._administered(left):
            expected = Status.INVALID_ARGUMENT
        self.outcome(lambda: self.slots.ungrant(slot.id, principal), expected)
        if expected is None:
            slot.access = left

    @precondition(lambda self: self.model)
    @rule(pick=picks, remove=masks, number=numbers)
    def restrict(self, pick: int, remove: P, number: int) -> None:
        slot = self.slot(pick)
        expected = self._not_live(slot)
        if expected is None and number and number not in slot.versions:
            expected = Status.RESOURCE_NOT_FOUND
        self.outcome(lambda: self.slots.restrict(slot.id, remove, number), expected)
        if expected is None:
            for found, version in slot.versions.items():
                if number in (0, found):
                    version.permissions &= ~remove
            if not number:
                slot.ceiling &= ~remove
                slot.access = {who: (role, mask & ~remove) for who, (role, mask) in slot.access.items()}

    @staticmethod
    def _not_live(slot: Slot) -> Status | None:
        if slot.state == "removed":
            return Status.RESOURCE_NOT_FOUND
        return None if slot.state == "live" else Status.KEY_STATE_FORBIDS

    @staticmethod
    def _administered(access: dict[str, tuple[Role, P]]) -> bool:
        return any(role is Role.ADMINISTER for role, _ in access.values())

    # Restarts

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = open_at(self.directory)
        self.slots = Slots(self.store)
        self.keys = SlotKeys(self.store)
        for slot in self.model:
            for version in slot.versions.values():
                version.maker_lives = False

    @rule()
    def sweep(self) -> None:
        swept = {item.version.key_id for item in self.slots.sweep()}
        expected = set()
        for slot in self.model:
            for version in slot.versions.values():
                if version.state == "creating" and not version.maker_lives:
                    version.state = "abandoned"
                if version.state in ("abandoned", "destroying"):
                    expected.add(version.key_id)
        assert swept == expected

    # What must hold at every moment

    @invariant()
    def the_store_says_what_the_model_says(self) -> None:
        listing = self.store.list_slots(destroyed=True)
        assert listing.tampered == ()
        found = {record.id: record for record in listing.records}
        assert set(found) == {slot.id for slot in self.model if slot.state != "removed"}
        for slot in self.model:
            if slot.state == "removed":
                continue
            record = found[slot.id]
            assert (record.state.value, record.permissions) == (slot.state, slot.ceiling)
            assert {
                version.number: (version.key_id, version.state.value, version.permissions)
                for version in record.versions
            } == {
                number: (version.key_id, version.state, version.permissions)
                for number, version in slot.versions.items()
            }
            assert {entry.principal: (entry.role, entry.permissions) for entry in record.access} == slot.access
            assert len(slot.in_state("active")) <= 1
            for version in record.versions:
                assert bool(version.reference) == (version.state.value in (*HAS_KEY, "destroying"))

    @invariant()
    def the_check_serves_what_the_model_serves(self) -> None:
        for name in ("a", "b"):
            slot = next(
                (slot for slot in self.model if slot.name == name and slot.state in ("live", "destroying")), None
            )
            entry = self.keys.entry(name_of(name))
            if not self.keys.entry_is_current(entry):
                self.keys.refresh(entry)
            for principal in (ALICE, BOB, CAROL):
                for permission in (P.SIGN, P.VERIFY):
                    served, status = self._asked(entry, principal, permission)
                    hidden = slot is None or principal not in slot.access
                    assert (status is Status.RESOURCE_NOT_FOUND) is hidden
                    assert served == self._serving(slot, principal, permission)

    @staticmethod
    def _asked(entry: SlotEntry, principal: str, permission: P) -> tuple[list[KeyId], Status | None]:
        try:
            return [key.key_id for key in candidates(entry, principal, permission, ECDSA)], None
        except HsmBridgeError as refusal:
            return [], refusal.status

    @staticmethod
    def _serving(slot: Slot | None, principal: str, permission: P) -> list[KeyId]:
        if slot is None or principal not in slot.access or permission not in slot.access[principal][1] & slot.ceiling:
            return []
        states = ("active", "rotated") if permission is P.VERIFY else ("active",)
        newest_first = [slot.versions[number] for number in sorted(slot.versions, reverse=True)]
        return [
            version.key_id
            for state in states
            for version in newest_first
            if version.state == state and permission in version.permissions
        ]


SlotMachine.TestCase.settings = settings(
    stateful_step_count=30, max_examples=30 if settings().max_examples <= 100 else settings().max_examples
)
TestSlots = pytest.mark.timeout(3600)(SlotMachine.TestCase)
