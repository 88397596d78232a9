"""What a slot may be, and what a new key may be used for: refused when it is made, not when it is used."""

import pytest

from hsmbridge.core.errors import AccessError, HsmBridgeError, RequestError, Status
from hsmbridge.core.key_types import key_type
from hsmbridge.core.messages import SlotCreateRequest
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.keys.origin import permissions_of_new_key
from hsmbridge.keys.slots import NamespacePolicy, plan_slot
from hsmbridge.storage.records import NewSlot, Origin
from tests.unit.storage.opened import ALICE, BOB, new_slot

POLICY = NamespacePolicy({"web": [ALICE, "uid:7"], "uid-7": [ALICE]})


def planned(name: str = "web", principal: str = ALICE, **changes: object) -> NewSlot:
    values: dict[str, object] = {"key_type": "EC-P256", "providers": ("software",), "permissions": int(P.SIGN)}
    request = SlotCreateRequest(name, **(values | changes))  # type: ignore[arg-type]  # what the codec has checked
    return plan_slot(request, principal, POLICY)


def refused(**changes: object) -> HsmBridgeError:
    with pytest.raises(HsmBridgeError) as refusal:
        planned(**changes)  # type: ignore[arg-type]  # as above
    return refusal.value


def test_a_name_without_a_namespace_lies_in_the_callers_own() -> None:
    assert str(planned("web").name) == "uid-1000/web"
    assert planned("web").creator == ALICE


@pytest.mark.parametrize(
    ("name", "principal", "allowed"),
    [
        ("uid-1000/x", ALICE, True),
        ("web/x", ALICE, True),
        ("web/x", "uid:7", True),
        ("uid-7/x", ALICE, True),
        ("web/x", BOB, False),
        ("uid-1000/x", BOB, False),
        ("uid-1001/x", ALICE, False),
    ],
)
def test_slots_are_created_where_the_policy_says(name: str, principal: str, allowed: bool) -> None:
    if allowed:
        assert str(planned(name, principal).name) == name
        return
    with pytest.raises(AccessError) as refusal:
        planned(name, principal)
    assert refusal.value.status is Status.ACCESS_DENIED


@pytest.mark.parametrize("name", ["", "a" * 65, "-a", "a/b/c", "a b", "ä", "a\n", "/a", "a/"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    assert refused(name=name).status is Status.INVALID_NAME


def test_reserved_names_are_refused() -> None:
    assert refused(name="shm-1").status is Status.INVALID_NAME
    assert refused(name="web/shm-1").status is Status.INVALID_NAME


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"key_type": "EC-P255"}, Status.UNKNOWN_KEY_TYPE),
        ({"permissions": 1 << 20}, Status.INVALID_PERMISSIONS),
        ({"permissions": int(P.ENCAPSULATE)}, Status.INVALID_PERMISSIONS),
        ({"key_type": "AES-256", "permissions": int(P.WRAP | P.DECRYPT)}, Status.INVALID_PERMISSIONS),
        ({"key_type": "AES-256", "permissions": int(P.UNWRAP | P.ENCRYPT)}, Status.INVALID_PERMISSIONS),
        ({"key_type": "RSA-2048", "permissions": int(P.SIGN | P.DECRYPT)}, Status.INVALID_PERMISSIONS),
        ({"algorithms": ("ECDSA-P256-SHA255",)}, Status.UNKNOWN_ALGORITHM),
        ({"algorithms": ("RSA-PSS-SHA256",)}, Status.KEY_TYPE_MISMATCH),
        ({"providers": ()}, Status.INVALID_ARGUMENT),
        ({"providers": ("tpm", "tpm")}, Status.INVALID_ARGUMENT),
        ({"providers": tuple(f"p{number}" for number in range(17))}, Status.INVALID_ARGUMENT),
        ({"providers": ("a provider",)}, Status.INVALID_NAME),
    ],
)
def test_what_cannot_be_a_slot_is_refused(changes: dict[str, object], status: Status) -> None:
    assert refused(**changes).status is status


def test_an_rsa_key_signs_and_decrypts_only_if_its_slot_says_so() -> None:
    slot = planned(key_type="RSA-2048", permissions=int(P.SIGN | P.DECRYPT), sign_and_decrypt=True)
    assert slot.permissions == P.SIGN | P.DECRYPT


def test_algorithms_are_kept_once_each() -> None:
    slot = planned(algorithms=("ECDSA-P256-SHA256", "ECDSA-P256-SHA256"))
    assert slot.algorithms == ("ECDSA-P256-SHA256",)


AES = key_type("AES-256")
WRAPPING = new_slot("kek", "AES-256", P.WRAP | P.UNWRAP | P.EXPORT | P.GENERATE)


def test_a_new_key_gets_what_is_asked_for_within_the_slots_ceiling() -> None:
    row = key_type("EC-P256")
    assert permissions_of_new_key(row, P.SIGN | P.DERIVE, Origin.GENERATED, None) == P.SIGN | P.DERIVE
    assert permissions_of_new_key(row, P.SIGN | P.DERIVE, Origin.DERIVED, new_slot()) == P.SIGN


@pytest.mark.parametrize("origin", Origin)
@pytest.mark.parametrize("asked", [P.WRAP, P.UNWRAP])
def test_a_key_from_outside_never_wraps_unless_its_slot_says_so(origin: Origin, asked: P) -> None:
    allowing = new_slot("kek", "AES-256", WRAPPING.permissions, imported_wrapping_key=True)
    assert permissions_of_new_key(AES, asked, origin, allowing) == asked
    for slot in (WRAPPING, None):
        if origin in (Origin.IMPORTED, Origin.UNWRAPPED, Origin.ADOPTED):
            with pytest.raises(RequestError) as refusal:
                permissions_of_new_key(AES, asked, origin, slot)
            assert refusal.value.status is Status.INVALID_PERMISSIONS
        else:
            assert permissions_of_new_key(AES, asked, origin, slot) == asked


def test_an_unwrapped_key_never_leaves_again() -> None:
    allowing = new_slot("kek", "AES-256", WRAPPING.permissions, imported_wrapping_key=True)
    for slot in (allowing, WRAPPING, None):
        with pytest.raises(RequestError) as refusal:
            permissions_of_new_key(AES, P.EXPORT, Origin.UNWRAPPED, slot)
        assert refusal.value.status is Status.INVALID_PERMISSIONS
    assert permissions_of_new_key(AES, P.EXPORT, Origin.IMPORTED, None) == P.EXPORT


@pytest.mark.parametrize(
    ("row", "asked"),
    [
        (AES, P.WRAP | P.DECRYPT),
        (AES, P.UNWRAP | P.ENCRYPT),
        (key_type("RSA-2048"), P.SIGN | P.DECRYPT),
        (key_type("Ed25519"), P.ENCRYPT),
    ],
)
def test_key_separation_holds_for_ephemeral_keys_too(row: object, asked: P) -> None:
    with pytest.raises(RequestError) as refusal:
        permissions_of_new_key(row, asked, Origin.GENERATED, None)  # type: ignore[arg-type]  # pytest's parameters
    assert refusal.value.status is Status.INVALID_PERMISSIONS
