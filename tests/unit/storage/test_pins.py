"""The PINs of PKCS#11 applications in the store: durable, authenticated, and nowhere in clear."""

from dataclasses import replace
from pathlib import Path

import pytest

from hsmbridge.core.errors import Status, StoreError
from hsmbridge.core.policy import PinOwner
from hsmbridge.storage.pins import PinRecord, TokenPins
from hsmbridge.storage.store import Store
from tests.unit.storage.opened import ALICE, BOB, behind_its_back, database, open_at

TOKEN = "softhsm"


def initialized(pins: TokenPins) -> TokenPins:
    return replace(pins, label="mine", initialized=1e9, so=PinRecord(b"so"), user=PinRecord(b"user", 2, 1.5e9))


def one_more_wrong(pins: TokenPins) -> TokenPins:
    return pins.with_pin(PinOwner.USER, replace(pins.user, wrong=pins.user.wrong + 1))


def test_what_is_not_there_is_an_empty_record_and_is_not_written(store: Store) -> None:
    blank = store.pins.get(ALICE, TOKEN)
    assert blank == TokenPins(principal=ALICE, token=TOKEN)
    assert store.pins.change(ALICE, TOKEN, lambda pins: pins) == blank
    assert store.pins.list_all() == ([], [])


@pytest.mark.parametrize("durable", [True, False])
def test_what_was_changed_is_there_after_a_restart(tmp_path: Path, durable: bool) -> None:
    first = open_at(tmp_path)
    made = first.pins.change(ALICE, TOKEN, initialized, durable=durable)
    first.close()
    second = open_at(tmp_path)
    assert second.pins.get(ALICE, TOKEN) == made == initialized(TokenPins(principal=ALICE, token=TOKEN, revision=1))
    assert second.pins.get(BOB, TOKEN).revision == second.pins.get(ALICE, "tpm").revision == 0
    second.close()


def test_two_processes_count_together(tmp_path: Path) -> None:
    first, second = open_at(tmp_path), open_at(tmp_path)
    counts = [store.pins.change(ALICE, TOKEN, one_more_wrong).user.wrong for store in (first, second, first, second)]
    assert counts == [1, 2, 3, 4]
    first.close()
    second.close()


def test_a_change_that_is_refused_changes_nothing(store: Store) -> None:
    store.pins.change(ALICE, TOKEN, initialized)

    def refuse(_: TokenPins) -> TokenPins:
        raise StoreError(Status.INTERNAL)

    with pytest.raises(StoreError):
        store.pins.change(ALICE, TOKEN, refuse)
    assert store.pins.get(ALICE, TOKEN).revision == 1


def test_an_operator_sees_all_and_others_their_own(store: Store) -> None:
    for principal in (ALICE, BOB):
        store.pins.change(principal, TOKEN, initialized)
    assert [pins.principal for pins in store.pins.list_all()[0]] == [ALICE, BOB]
    assert [pins.principal for pins in store.pins.list_all(BOB)[0]] == [BOB]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE pins SET user_wrong = 0",
        "UPDATE pins SET user_digest = so_digest",
        "UPDATE pins SET principal = 'uid:1001'",
        "UPDATE pins SET token = 'tpm'",
        "UPDATE pins SET mac = zeroblob(32)",
        "UPDATE pins SET initialized = 0, user_wrong = 0",
        "UPDATE pins SET revision = 9223372036854775807",
        "UPDATE pins SET revision = 'many'",
    ],
)
def test_a_record_that_was_changed_is_not_obeyed_until_it_is_forgotten(tmp_path: Path, statement: str) -> None:
    store = open_at(tmp_path)
    store.pins.change(ALICE, TOKEN, initialized)
    with behind_its_back(tmp_path) as connection:
        connection.execute(statement)
        ((principal, token),) = connection.execute("SELECT principal, token FROM pins")
    with pytest.raises(StoreError) as refusal:
        store.pins.get(principal, token)
    assert refusal.value.status is Status.STORE_TAMPERED
    with pytest.raises(StoreError):
        store.pins.change(principal, token, one_more_wrong)
    assert store.pins.list_all() == ([], [(principal, token)])
    assert store.pins.forget(principal, token)
    assert not store.pins.get(principal, token).initialized
    store.pins.change(principal, token, initialized)
    store.close()


def test_a_record_that_was_put_back_is_found_out_by_who_has_seen_a_newer_one_until_it_is_forgotten(
    tmp_path: Path,
) -> None:
    store, other = open_at(tmp_path), open_at(tmp_path)
    store.pins.change(ALICE, TOKEN, initialized)
    with behind_its_back(tmp_path) as connection:
        (before,) = connection.execute("SELECT * FROM pins")
    for _ in range(3):
        store.pins.change(ALICE, TOKEN, one_more_wrong)
    with behind_its_back(tmp_path) as connection:
        connection.execute("DELETE FROM pins")
        connection.execute(f"INSERT INTO pins VALUES ({','.join('?' * len(before))})", before)
    with pytest.raises(StoreError) as refusal:
        store.pins.change(ALICE, TOKEN, one_more_wrong)
    assert refusal.value.status is Status.STORE_TAMPERED
    assert other.pins.forget(ALICE, TOKEN), "in a process that has seen nothing newer"
    assert store.pins.change(ALICE, TOKEN, initialized).initialized
    store.close()
    other.close()


def test_forgetting_is_seen_by_every_process_and_says_whether_there_was_anything(tmp_path: Path) -> None:
    first, second = open_at(tmp_path), open_at(tmp_path)
    assert not first.pins.forget(ALICE, TOKEN)
    for _ in range(3):
        second.pins.change(ALICE, TOKEN, initialized)
    assert first.pins.forget(ALICE, TOKEN)
    assert not second.pins.forget(ALICE, TOKEN)
    assert second.pins.change(ALICE, TOKEN, initialized).initialized
    first.close()
    second.close()


def test_the_key_of_pins_is_the_stores_own(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    first, second, other = open_at(tmp_path), open_at(tmp_path), open_at(tmp_path / "other")
    assert first.pins.key == second.pins.key != other.pins.key
    assert first.pins.key.reveal() not in database(tmp_path).read_bytes()
    for store in (first, second, other):
        store.close()
