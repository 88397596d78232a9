"""Where the daemon's socket is when nobody says."""

import os
from pathlib import Path

import pytest

from hsmbridge.client import socket_path
from hsmbridge.client.socket_path import check_socket_path, default_socket, runtime_directory
from hsmbridge.errors import RequestError, Status


@pytest.fixture(autouse=True)
def nobody_in_particular(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HSMBRIDGE_SOCKET", raising=False)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 4711)
    monkeypatch.setattr(socket_path, "SYSTEM_RUNTIME_DIRECTORY", tmp_path / "run")


def test_the_variable_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HSMBRIDGE_SOCKET", "/tmp/mine.sock")
    assert default_socket() == Path("/tmp/mine.sock")


def test_root_has_the_machines_daemon(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_socket() == tmp_path / "run" / "hsmbridge.sock"


def test_a_user_has_a_daemon_of_the_session(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert default_socket() == tmp_path / "hsmbridge" / "hsmbridge.sock"


def test_the_machines_daemon_serves_who_has_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "hsmbridge.sock").touch()
    assert default_socket() == tmp_path / "run" / "hsmbridge.sock"


def test_a_relative_runtime_directory_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "relative")
    assert runtime_directory() == Path(f"/tmp/hsmbridge-{os.getuid() + 4711}")


def test_a_folder_of_tmp_that_somebody_else_made_is_refused() -> None:
    planted = Path(f"/tmp/hsmbridge-{os.getuid() + 4711}")
    planted.mkdir(mode=0o700)
    try:
        with pytest.raises(RequestError, match="XDG_RUNTIME_DIR") as caught:
            runtime_directory()
        assert caught.value.status is Status.INVALID_CONFIGURATION
    finally:
        planted.rmdir()


def test_the_longest_path_that_the_kernel_takes_is_taken() -> None:
    longest = Path("/" + "x" * 106)
    assert check_socket_path(longest) == longest
    with pytest.raises(RequestError, match="has 108 bytes"):
        check_socket_path(Path("/" + "x" * 107))
