"""PINs: digests that tell nothing, wrong ones that count, and what an initialised token may destroy."""

import hmac
from dataclasses import replace

import msgspec
import pytest
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from hsmbridge.core.errors import HsmBridgeError, Status
from hsmbridge.core.identifiers import QualifiedName
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.core.policy import PinOwner, Role
from hsmbridge.core.secrets import Secret
from hsmbridge.keys.pins import (
    LOCKED_TIME,
    WRONG_PINS,
    check_open,
    counted,
    described,
    forgiven,
    initialized,
    is_locked,
    may_be_wiped,
    pin_digest,
    pin_fits,
    unchanged,
    with_digest,
)
from hsmbridge.keys.slots import Slots
from hsmbridge.storage.pins import TokenPins
from hsmbridge.storage.records import AccessEntry, Origin, SlotRecord, SlotState
from hsmbridge.storage.store import Store
from tests.unit.storage.opened import ALICE, BOB, create

KEY = Secret(bytes(32))
NOW = 1e9
USER = PinOwner.USER
PINS = with_digest(initialized(TokenPins(principal=ALICE, token="tpm"), b"so", "mine", NOW), USER, b"user")


def refusal(pins: TokenPins, now: float) -> Status:
    with pytest.raises(HsmBridgeError) as refused:
        check_open(pins, USER, now, own=True)
    return refused.value.status


def locked(now: float = NOW) -> TokenPins:
    pins = PINS
    for _ in range(WRONG_PINS):
        pins = counted(pins, USER, now)
    return pins


def test_a_digest_fits_its_pin_under_its_key_and_no_other() -> None:
    digest = pin_digest(b"1234", KEY)
    assert pin_fits(b"1234", digest, KEY)
    assert not pin_fits(b"1235", digest, KEY)
    assert not pin_fits(b"1234", digest, Secret(bytes(31) + b"\1"))
    assert pin_digest(b"1234", KEY) != digest, "each has a salt of its own"


def test_a_digest_says_at_what_cost_it_was_made() -> None:
    n, r, p, salt, value = msgspec.msgpack.decode(pin_digest(b"1234", KEY))
    assert (n, r, p, len(salt), len(value)) == (1 << 14, 8, 1, 16, 32)
    under_the_key = hmac.digest(KEY.reveal(), b"1234", "sha256")
    cheaper = Scrypt(salt=b"salt", length=32, n=2, r=1, p=1).derive(under_the_key)
    assert pin_fits(b"1234", msgspec.msgpack.encode((2, 1, 1, b"salt", cheaper)), KEY)


def test_three_wrong_ones_lock_a_pin_for_a_while_and_not_the_other_one() -> None:
    pins = locked()
    assert refusal(pins, NOW + LOCKED_TIME - 1) is Status.PIN_LOCKED
    check_open(pins, USER, NOW + LOCKED_TIME, own=True)
    assert counted(pins, PinOwner.SO, NOW).so.wrong == 1
    after = counted(pins, USER, NOW + LOCKED_TIME)
    assert after.user.wrong == 1
    assert forgiven(after, USER).user.wrong == 0


def test_a_lock_of_a_clock_that_went_wrong_locks_nobody() -> None:
    assert not is_locked(locked(NOW + 10 * LOCKED_TIME).user, NOW)


def test_a_pin_that_is_not_set_is_not_tried_unless_it_is_one_for_all() -> None:
    fresh = TokenPins(principal=ALICE, token="*")
    assert refusal(fresh, NOW) is Status.RESOURCE_NOT_FOUND
    check_open(fresh, USER, NOW, own=False)


def test_how_it_stands_is_told_at_every_step() -> None:
    pins, seen = PINS, []
    for _ in range(WRONG_PINS + 1):
        user = described(pins, NOW).user
        seen.append((user.wrong, user.left, user.locked_until))
        if user.left:
            pins = counted(pins, USER, NOW)
    assert seen == [(0, 3, 0.0), (1, 2, 0.0), (2, 1, 0.0), (3, 0, NOW + LOCKED_TIME)]
    later = described(pins, NOW + LOCKED_TIME).user
    assert (later.wrong, later.left, later.locked_until) == (3, 3, 0.0)


def test_initialising_again_forgets_the_users_pin_and_keeps_the_first_time() -> None:
    again = initialized(PINS, b"so", "other", NOW + 5)
    assert (again.label, again.initialized, again.so.digest, again.user.digest) == ("other", NOW, b"so", b"")


def test_a_pin_that_was_changed_meanwhile_is_not_the_one_that_was_looked_at() -> None:
    unchanged(PINS, USER, locked())
    with pytest.raises(HsmBridgeError) as refused:
        unchanged(PINS, USER, with_digest(PINS, USER, b"another"))
    assert refused.value.status is Status.PIN_INCORRECT


# What goes with a token that is initialised again


@pytest.fixture
def slot(store: Store) -> SlotRecord:
    """Alice's, of the providers software and tpm, with its one version in software."""
    return create(Slots(store))


@pytest.mark.parametrize(
    "change",
    [
        {"name": QualifiedName("shared", "web")},
        {"creator": BOB},
        {"state": SlotState.PENDING},
        {"access": (AccessEntry(ALICE, Role.ADMINISTER, P.SIGN), AccessEntry(BOB, Role.USE, P.SIGN))},
    ],
    ids=["of another namespace", "made by another", "being made", "granted to another"],
)
def test_what_is_not_the_callers_alone_stays(slot: SlotRecord, change: dict[str, object]) -> None:
    assert may_be_wiped(slot, ALICE, ["software"], slot.created)
    assert not may_be_wiped(replace(slot, **change), ALICE, ["software"], slot.created)  # type: ignore[arg-type]


def test_what_is_older_than_the_token_stays(slot: SlotRecord) -> None:
    assert not may_be_wiped(slot, ALICE, ["software"], slot.created + 0.001)


def test_what_is_elsewhere_as_well_stays(slot: SlotRecord) -> None:
    assert not may_be_wiped(slot, ALICE, ["tpm"], slot.created)
    (version,) = slot.versions
    there = replace(version, number=2, provider="tpm")
    assert not may_be_wiped(replace(slot, versions=(version, there)), ALICE, ["software"], slot.created)
    assert may_be_wiped(replace(slot, versions=(version, there)), ALICE, ["software", "tpm"], slot.created)


def test_an_empty_slot_goes_where_nothing_of_it_could_be_elsewhere(slot: SlotRecord) -> None:
    empty = replace(slot, versions=())
    assert not may_be_wiped(empty, ALICE, ["software"], slot.created)
    assert may_be_wiped(empty, ALICE, ["software", "tpm"], slot.created)


def test_a_key_that_was_on_the_device_before_stays(slot: SlotRecord) -> None:
    (version,) = slot.versions
    adopted = replace(slot, versions=(replace(version, origin=Origin.ADOPTED),))
    assert not may_be_wiped(adopted, ALICE, ["software"], slot.created)
