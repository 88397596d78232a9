"""`doctor` and `config check` on a machine where no daemon answers."""

import fcntl
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.cli.command import hsmbridge


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="hb", dir="/tmp"))
    (folder / "c.toml").write_text('[daemon]\nruntime_dir = "run"\nstate_dir = "state"\n')
    monkeypatch.setenv("HSMBRIDGE_CONFIG", str(folder / "c.toml"))
    monkeypatch.setenv("HSMBRIDGE_SOCKET", str(folder / "run" / "hsmbridge.sock"))
    yield folder
    shutil.rmtree(folder)


def findings() -> dict[str, tuple[str, str]]:
    ended = hsmbridge("doctor", "--json")
    assert ended.code == 1
    assert ended.json["healthy"] is False
    return {one["subject"]: (one["severity"], one["message"]) for one in ended.json["findings"]}


def test_it_says_that_no_daemon_answers_and_what_else_it_sees(place: Path) -> None:
    found = findings()
    assert found["configuration"][0] == "ok"
    assert found["daemon"][0] == "error"
    assert "is not there" in found["socket"][1]
    assert "serve` makes it" in found["runtime_dir"][1]
    assert "supervisor" not in found


def test_a_stale_socket_is_named_as_such(place: Path) -> None:
    (place / "run").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place / "run" / "hsmbridge.sock"))
    assert "left by a daemon that ended" in findings()["socket"][1]


def test_what_is_no_socket_is_an_error(place: Path) -> None:
    (place / "run").mkdir()
    (place / "run" / "hsmbridge.sock").touch()
    assert findings()["socket"] == ("error", f"{place}/run/hsmbridge.sock is no socket; move it away.")


def test_a_lock_that_nobody_holds_is_stale(place: Path) -> None:
    (place / "run").mkdir()
    lock = place / "run" / "supervisor.lock"
    lock.write_text("4711\n")
    assert "None runs" in findings()["supervisor"][1]
    with lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert "process 4711" in findings()["supervisor"][1]


def test_a_folder_that_others_may_write_to_is_an_error(place: Path) -> None:
    (place / "state").mkdir()
    (place / "state").chmod(0o777)
    assert findings()["state_dir"][0] == "error"


def test_a_configuration_that_is_wrong_is_told_and_the_rest_still_looked_at(place: Path) -> None:
    (place / "c.toml").write_text("[daemon]\nwokers = 2\n")
    found = findings()
    assert "did you mean workers?" in found["configuration"][1]
    assert found["daemon"][0] == "error"


def test_config_check_tells_what_it_comes_to(place: Path) -> None:
    ended = hsmbridge("config", "check", "--json")
    assert ended.code == 0
    assert ended.json["file"] == str(place / "c.toml")
    assert ended.json["config"]["effective"]["runtime_dir"] == str(place / "run")
    assert "valid" in hsmbridge("config", "check").text


def test_config_check_ends_with_the_code_of_the_table_where_something_is_wrong(place: Path) -> None:
    (place / "c.toml").write_text("[daemon]\nwokers = 2\n")
    ended = hsmbridge("config", "check")
    assert ended.code == 11
    assert "[daemon] wokers (line 2): there is no such key; did you mean workers?" in ended.stderr


def test_serve_refuses_a_wrong_configuration_before_anything_is_made(place: Path) -> None:
    (place / "c.toml").write_text('[daemon]\nruntime_dir = "run"\nwokers = 2\n')
    assert hsmbridge("serve").code == 11
    assert not (place / "run").exists()
    assert [file.name for file in place.iterdir()] == ["c.toml"]
