"""Input and output of commands: limits, and files that are there whole or not at all."""

import os
import socket
import stat
from pathlib import Path

import pytest

from hsmbridge.cli.files import read_input, write_output
from hsmbridge.core.errors import LimitError, RequestError, Status


def test_a_file_of_just_the_limit_is_read(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"x" * 100)
    assert read_input(str(file), 100) == b"x" * 100


def test_a_larger_one_is_refused_with_the_name_of_the_limit(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"x" * 101)
    with pytest.raises(LimitError, match=r"has 101 bytes; one call takes at most 100 \(max_frame") as caught:
        read_input(str(file), 100)
    assert caught.value.status is Status.DATA_TOO_LARGE


def test_a_pipe_that_does_not_end_is_refused_too(tmp_path: Path) -> None:
    with pytest.raises(LimitError, match="more than 100"):
        read_input("/dev/zero", 100)


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="cannot be read: No such file"):
        read_input(str(tmp_path / "missing"), 100)


def test_a_secret_is_only_its_owners(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.touch(mode=0o666)
    file.chmod(0o666)
    write_output(str(file), b"secret", secret=True)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_bytes() == b"secret"


def test_other_files_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_output(str(tmp_path / "f"), b"data")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o640


def test_a_failed_write_leaves_what_was_there_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"before")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RequestError, match="No space left"):
        write_output(str(file), b"after")
    assert file.read_bytes() == b"before"
    assert [entry.name for entry in tmp_path.iterdir()] == ["f"]


def test_a_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"before")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_output(str(tmp_path / "link"), b"after")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"after"


def test_a_device_is_written_to_and_not_replaced() -> None:
    write_output("/dev/null", b"data")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_what_cannot_be_written_says_so(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="cannot be written"):
        write_output(str(tmp_path / "no" / "folder"), b"data")
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        with pytest.raises(RequestError, match="cannot be written"):
            write_output(str(path), b"data")
