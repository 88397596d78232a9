"""The tables: complete, without contradictions, and the same numbers for ever."""

import pytest

from hsmbridge.core import calls, messages, token_messages
from hsmbridge.core.algorithms import ALGORITHMS, PERMISSION_FOR, Algorithm, KeyOperation, Kind, Scheme, algorithm
from hsmbridge.core.errors import STATUS_TABLE, Category, RequestError, Status, error, error_from_wire
from hsmbridge.core.identifiers import ALGORITHM_NAME_MAX
from hsmbridge.core.key_types import KEY_TYPES, KeyType, Maturity, check_permissions_fit, key_type
from hsmbridge.core.lifecycle import TRANSITIONS, USABLE, KeyVersionState
from hsmbridge.core.operations import OPERATION_FOR, OPERATIONS
from hsmbridge.core.permissions import KeyOperationPermission as P


@pytest.mark.parametrize("row", ALGORITHMS.values(), ids=lambda row: row.name)
def test_an_algorithm_names_key_types_and_digests_that_exist(row: Algorithm) -> None:
    assert len(row.name.encode()) <= ALGORITHM_NAME_MAX
    assert set(row.key_types) <= set(KEY_TYPES)
    assert bool(row.key_types) is (row.kind is not Kind.DIGEST)
    assert not row.hash or ALGORITHMS[row.hash].kind is Kind.DIGEST
    assert not row.aead or ALGORITHMS[row.aead].kind is Kind.AEAD
    assert row.slow <= set(row.operations)


def test_an_aead_is_a_keystream_and_a_mac() -> None:
    aeads = {row.scheme for row in ALGORITHMS.values() if row.kind is Kind.AEAD}
    assert aeads == {Scheme.GCM, Scheme.CCM, Scheme.CHACHA20_POLY1305}, (
        "A ciphertext may change while it is decrypted: see docs/decisions/0021 for what that asks of an AEAD."
    )


@pytest.mark.parametrize("row", ALGORITHMS.values(), ids=lambda row: row.name)
def test_every_key_type_of_an_algorithm_may_have_the_permissions_to_use_it(row: Algorithm) -> None:
    for operation in row.operations:
        needed = PERMISSION_FOR.get(operation, P.NONE)
        for name in row.key_types:
            assert needed in KEY_TYPES[name].permissions, f"{name} cannot {operation}"


@pytest.mark.parametrize("row", KEY_TYPES.values(), ids=lambda row: row.name)
def test_every_key_type_is_good_for_something(row: KeyType) -> None:
    assert any(row.name in algorithm.key_types for algorithm in ALGORITHMS.values())
    assert row.symmetric is (row.spki_oid == "")


def test_every_operation_of_the_provider_contract_belongs_to_a_kind_of_algorithm() -> None:
    with_algorithm = {operation for kind in Kind for operation in kind.operations}
    assert with_algorithm | {KeyOperation.GENERATE, KeyOperation.IMPORT} == set(KeyOperation)


def test_every_provider_call_says_what_it_answers() -> None:
    named = {name for name in vars(calls) if name.endswith("Call") and not name.startswith(("_", "Provider"))}
    assert named == {call.__name__ for call in calls.REPLIES}


def test_an_opcode_and_a_request_belong_to_one_operation() -> None:
    assert len({row.opcode for row in OPERATION_FOR.values()} - {0}) == len(OPERATIONS)
    for opcode, row in OPERATIONS.items():
        assert 0 < opcode < 0x8000
        fields = row.request.__struct_fields__
        for requirement in row.requires:
            assert requirement.field in fields
        assert not row.administers or row.administers in fields
        assert not row.into_slot or row.into_slot in fields


def test_every_request_of_the_messages_is_an_operation() -> None:
    requests = {name for name in vars(messages) if name.endswith("Request") and not name.startswith("_")}
    assert requests == {row.request.__name__ for row in OPERATIONS.values()}


def test_what_only_a_front_end_may_ask_no_frame_can() -> None:
    requests = {name for name in vars(token_messages) if name.endswith("Request")}
    within = {row for row in OPERATION_FOR.values() if not row.opcode}
    assert requests == {row.request.__name__ for row in within}
    assert not {row.name for row in within} & {row.name for row in OPERATIONS.values()}


def test_every_status_has_a_row_whose_text_says_something() -> None:
    assert set(STATUS_TABLE) == set(Status)
    for status, row in STATUS_TABLE.items():
        assert row.summary.endswith(".")
        assert (row.exit_code == 0) is (status is Status.OK)
        if status is not Status.OK:
            assert status >> 24 == 0x01
            assert status.category is not Category.SUCCESS
            assert row.ckr != 0
            assert row.http >= 400


def test_the_number_that_others_rely_on_does_not_move() -> None:
    assert int(Status.CONTEXT_RESET_FAILED) == 0x01070003


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.OK])
def test_an_error_survives_the_wire(status: Status) -> None:
    sent = error(status, "what happened", origin="inner", incident="abc")
    received = error_from_wire(int(sent.status), sent.message, sent.incident)
    assert type(received) is type(sent)
    assert (received.status, received.message, received.incident) == (status, "what happened", "abc")
    assert received.origin == ""


def test_a_status_of_a_newer_version_is_an_internal_error_that_names_its_number() -> None:
    received = error_from_wire(0x010A00FF, "too much", "")
    assert received.status is Status.INTERNAL
    assert "0x010a00ff" in received.message


def test_no_state_is_left_out_and_only_active_serves_everything() -> None:
    assert set(USABLE) == set(TRANSITIONS) == set(KeyVersionState)
    everything = [state for state, usable in USABLE.items() if usable == ~P.NONE]
    assert everything == [KeyVersionState.ACTIVE]
    assert USABLE[KeyVersionState.ROTATED] == P.DECRYPT | P.VERIFY | P.DECAPSULATE | P.UNWRAP


def test_nothing_comes_back_from_destruction() -> None:
    def reachable(state: KeyVersionState) -> set[KeyVersionState]:
        found = {state}
        for following in TRANSITIONS[state]:
            found |= reachable(following)
        return found

    assert reachable(KeyVersionState.DESTROYING) == {KeyVersionState.DESTROYING, KeyVersionState.DESTROYED}
    assert KeyVersionState.ACTIVE not in reachable(KeyVersionState.REVOKED)
    assert KeyVersionState.ACTIVE not in reachable(KeyVersionState.ROTATED)


@pytest.mark.parametrize(
    ("asked", "nearest"), [("ECDSA-P256-SHA-256", "ECDSA-P256-SHA256"), ("aes-256-gcm", "AES-256-GCM")]
)
def test_an_unknown_algorithm_names_the_nearest_known_one(asked: str, nearest: str) -> None:
    with pytest.raises(RequestError, match=nearest) as refused:
        algorithm(asked)
    assert refused.value.status is Status.UNKNOWN_ALGORITHM


def test_a_name_that_is_too_long_is_refused_and_not_repeated() -> None:
    with pytest.raises(RequestError) as refused:
        key_type("x" * 65)
    assert "64 bytes" in refused.value.message
    assert "xxx" not in refused.value.message


def test_a_permission_that_means_nothing_for_a_key_type_is_refused() -> None:
    with pytest.raises(RequestError) as refused:
        check_permissions_fit(key_type("Ed25519"), P.SIGN | P.ENCRYPT)
    assert refused.value.status is Status.INVALID_PERMISSIONS
    assert "encrypt" in refused.value.message


def test_legacy_rows_are_few_and_known() -> None:
    legacy = {row.name for row in ALGORITHMS.values() if row.maturity is Maturity.LEGACY}
    assert legacy == {"RSA-PKCS1", "SHA-1"}
    assert {row.name for row in ALGORITHMS.values() if row.maturity is Maturity.BY_NAME} == {"RSA-PKCS1-SHA1"}
