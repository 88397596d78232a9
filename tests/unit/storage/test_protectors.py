"""What keeps the master key, and what it refuses."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from hsmbridge.core.errors import HsmBridgeError, Status, StoreError
from hsmbridge.core.protocols import Protector
from hsmbridge.keys.slots import Slots
from hsmbridge.storage.master import MasterKey
from hsmbridge.storage.opening import open_store
from hsmbridge.storage.protectors import KeyFileProtector, PassphraseProtector
from tests.unit.storage.opened import behind_its_back, create, database

MASTER = bytes(range(32))
BINDING = b"slot 1, version 1"


def refused(act: Callable[[], object]) -> HsmBridgeError:
    with pytest.raises(StoreError) as refusal:
        act()
    assert refusal.value.status is Status.MASTER_KEY_UNAVAILABLE
    return refusal.value


@pytest.fixture(params=["key file", "passphrase"])
def protector(request: pytest.FixtureRequest, tmp_path: Path) -> Protector:
    return KeyFileProtector(tmp_path / "key") if request.param == "key file" else PassphraseProtector(b"open sesame")


def test_the_master_key_comes_back(protector: Protector) -> None:
    assert protector.recover(protector.protect(MASTER)) == MASTER


def test_the_protected_form_shows_nothing_and_differs_every_time(protector: Protector) -> None:
    first, second = protector.protect(MASTER), protector.protect(MASTER)
    assert first != second
    assert MASTER[:8] not in first


def test_a_changed_protected_form_is_refused_at_every_byte(tmp_path: Path) -> None:
    protector = KeyFileProtector(tmp_path / "key")
    protected = protector.protect(MASTER)
    for place in range(len(protected)):
        changed = bytearray(protected)
        changed[place] ^= 1
        refused(partial(protector.recover, bytes(changed)))
    for length in (0, 5, 12, len(protected) - 1):
        refused(partial(protector.recover, protected[:length]))


def test_the_key_file_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "key"
    protector = KeyFileProtector(path)
    protected = protector.protect(MASTER)
    content = path.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o600
    protector.protect(MASTER)
    assert path.read_bytes() == content
    assert KeyFileProtector(path).recover(protected) == MASTER
    assert list(tmp_path.iterdir()) == [path], "nothing half-made is left behind"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o777])
def test_a_key_file_that_others_can_reach_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key"
    protected = KeyFileProtector(path).protect(MASTER)
    path.chmod(mode)
    assert "set its mode to 0600" in refused(lambda: KeyFileProtector(path).recover(protected)).message
    assert "0600" in refused(lambda: KeyFileProtector(path).protect(MASTER)).message


def test_a_key_file_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "key"
    protected = KeyFileProtector(path).protect(MASTER)
    somebody = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: somebody)
    assert "daemon's user" in refused(lambda: KeyFileProtector(path).recover(protected)).message


def test_a_link_in_the_place_of_the_key_file_is_refused(tmp_path: Path) -> None:
    real = tmp_path / "elsewhere"
    protected = KeyFileProtector(real).protect(MASTER)
    (tmp_path / "key").symlink_to(real)
    assert "plain file" in refused(lambda: KeyFileProtector(tmp_path / "key").recover(protected)).message


def test_something_else_in_the_place_of_the_key_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir(mode=0o700)
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name in ("folder", "pipe"):
        refused(partial(KeyFileProtector(tmp_path / name).recover, b"x" * 60))


@pytest.mark.parametrize("content", [b"", b"hsmbridge key file 1\n", b"hsmbridge key file 1\n" + b"g" * 64 + b"\n"])
def test_a_damaged_key_file_is_refused_and_its_content_not_shown(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    path.chmod(0o600)
    refusal = refused(lambda: KeyFileProtector(path).recover(b"x" * 60))
    assert "damaged" in refusal.message
    assert "gggg" not in refusal.message + refusal.origin
    assert refusal.__cause__ is None


def test_a_missing_key_file_of_a_store_is_not_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "key"
    protected = KeyFileProtector(path).protect(MASTER)
    path.unlink()
    assert "put it back" in refused(lambda: KeyFileProtector(path).recover(protected)).message
    assert not path.exists()


def test_a_key_file_that_cannot_be_made_is_explained(tmp_path: Path) -> None:
    protector = KeyFileProtector(tmp_path / "absent" / "key")
    assert "directory must exist" in refused(lambda: protector.protect(MASTER)).message


def test_the_key_file_of_another_store_is_refused(tmp_path: Path) -> None:
    protected = KeyFileProtector(tmp_path / "one").protect(MASTER)
    KeyFileProtector(tmp_path / "two").protect(MASTER)
    assert "not the one of this store" in refused(lambda: KeyFileProtector(tmp_path / "two").recover(protected)).message


def test_a_wrong_passphrase_is_refused() -> None:
    protected = PassphraseProtector(b"open sesame").protect(MASTER)
    assert "passphrase" in refused(lambda: PassphraseProtector(b"open barley").recover(protected)).message
    refused(lambda: PassphraseProtector(b""))


@pytest.mark.parametrize(("at", "number"), [(0, 0), (0, 1 << 31), (4, 0), (4, 1 << 20), (8, 1), (8, (1 << 32) - 1)])
def test_costs_that_somebody_wrote_into_the_store_are_not_paid(at: int, number: int) -> None:
    protector = PassphraseProtector(b"open sesame")
    protected = bytearray(protector.protect(MASTER))
    protected[at : at + 4] = number.to_bytes(4, "big")
    assert "damaged" in refused(lambda: protector.recover(bytes(protected))).message
    refused(lambda: protector.recover(bytes(protected[:20])))


def test_no_protector_shows_its_secret(tmp_path: Path) -> None:
    for protector in (PassphraseProtector(b"open sesame"), KeyFileProtector(tmp_path / "secret-place")):
        assert "sesame" not in repr(protector)
        assert "secret-place" not in repr(protector)
    assert repr(MasterKey(MASTER, b"id")) == "MasterKey()"


def test_a_store_under_a_passphrase_opens_with_it_and_with_nothing_else(tmp_path: Path) -> None:
    url = f"sqlite:///{database(tmp_path)}"
    store = open_store(url, PassphraseProtector(b"open sesame"))
    record = create(Slots(store))
    assert store.protector_name == "passphrase"
    store.close()
    refused(lambda: open_store(url, PassphraseProtector(b"open barley")))
    wrong_kind = refused(lambda: open_store(url, KeyFileProtector(tmp_path / "key")))
    assert "protected by a passphrase, the configuration names a key file" in wrong_kind.message
    assert not (tmp_path / "key").exists()
    again = open_store(url, PassphraseProtector(b"open sesame"))
    assert again.find(record.name) == record
    again.close()


@pytest.mark.parametrize("column", ["store_id", "check_value", "protected_key"])
def test_a_changed_record_of_the_master_key_is_refused(tmp_path: Path, column: str) -> None:
    url = f"sqlite:///{database(tmp_path)}"
    open_store(url, KeyFileProtector(tmp_path / "key")).close()
    with behind_its_back(tmp_path) as connection:
        (value,) = connection.execute(f"SELECT {column} FROM store").fetchone()
    for changed in (bytes([value[0] ^ 1]) + value[1:], "text", 7, b""):
        with behind_its_back(tmp_path) as connection:
            connection.execute(f"UPDATE store SET {column} = ?", (changed,))
        with pytest.raises(StoreError) as refusal:
            open_store(url, KeyFileProtector(tmp_path / "key"))
        assert refusal.value.status in (Status.STORE_TAMPERED, Status.MASTER_KEY_UNAVAILABLE)


def test_material_is_opened_with_its_own_binding_only() -> None:
    seal = MasterKey(MASTER, b"a store").material_seal()
    sealed = seal.seal(b"a private key", BINDING)
    assert seal.open(sealed, BINDING) == b"a private key"
    assert seal.seal(b"a private key", BINDING) != sealed
    changed = [sealed[:place] + bytes([sealed[place] ^ 1]) + sealed[place + 1 :] for place in range(len(sealed))]
    for bad in (*changed, b"", sealed[:10], sealed[:-1], sealed + b"x"):
        with pytest.raises(StoreError) as refusal:
            seal.open(bad, BINDING)
        assert refusal.value.status is Status.STORE_TAMPERED
    for other, binding in ((seal, b"slot 1, version 2"), (MasterKey(MASTER, b"b store").material_seal(), BINDING)):
        with pytest.raises(StoreError) as refusal:
            other.open(sealed, binding)
        assert refusal.value.status is Status.STORE_TAMPERED
