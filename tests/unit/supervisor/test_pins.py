"""Where a PIN may come from, and what is refused."""

import os
from pathlib import Path

import pytest

from hsmbridge.core.errors import RequestError, Status
from hsmbridge.core.secrets import Pin
from hsmbridge.supervisor.pins import PinReader, PinSource


@pytest.fixture
def pin_file(tmp_path: Path) -> Path:
    path = tmp_path / "pin"
    path.write_bytes(b"1234\n")
    path.chmod(0o600)
    return path


def read(source: PinSource) -> Pin:
    return PinReader().read("hsm1", source)


def refusal(source: PinSource) -> RequestError:
    with pytest.raises(RequestError) as refused:
        read(source)
    assert refused.value.status is Status.INVALID_CONFIGURATION
    assert "hsm1" in refused.value.message
    return refused.value


@pytest.mark.parametrize("content", [b"1234", b"1234\n", b"1234\r\n"])
def test_one_line_end_is_taken_off(pin_file: Path, content: bytes) -> None:
    pin_file.write_bytes(content)
    assert read(PinSource(file=str(pin_file))) == Pin("1234")


@pytest.mark.parametrize("content", [b"", b"\n", b"1234\n\n", b"12\n34", b"12\x0034", b"\xff\xfe", b"1" * 256])
def test_what_is_no_pin_is_refused(pin_file: Path, content: bytes) -> None:
    pin_file.write_bytes(content)
    refused = refusal(PinSource(file=str(pin_file)))
    assert "12" not in refused.message.replace("hsm1", "")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o620, 0o610])
def test_a_file_that_others_can_get_at_is_refused(pin_file: Path, mode: int) -> None:
    pin_file.chmod(mode)
    refused = refusal(PinSource(file=str(pin_file)))
    assert "chmod 600" in refused.message
    assert str(pin_file) not in refused.message
    assert refused.origin == str(pin_file)


def test_a_missing_file_a_directory_and_a_pipe_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    for path, words in (("missing", "cannot be opened"), (".", "regular file"), ("fifo", "regular file")):
        assert words in refusal(PinSource(file=str(tmp_path / path))).message


def test_a_file_descriptor_is_read_once_and_closed() -> None:
    source, sink = os.pipe()
    os.write(sink, b"1234\n")
    os.close(sink)
    reader = PinReader()
    assert reader.read("hsm1", PinSource(fd=source)) == Pin("1234")
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(source)
    assert reader.read("hsm1", PinSource(fd=source)) == Pin("1234")


def test_a_file_descriptor_that_is_not_there_is_refused() -> None:
    source, sink = os.pipe()
    os.close(source)
    os.close(sink)
    assert "cannot be read" in refusal(PinSource(fd=source)).message


def test_a_credential_is_read_from_systemds_directory(pin_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(pin_file.parent))
    pin_file.chmod(0o440)
    assert read(PinSource(credential="pin")) == Pin("1234")
    assert "no file name" in refusal(PinSource(credential="../pin")).message


def test_a_credential_without_systemd_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    assert "LoadCredential" in refusal(PinSource(credential="pin")).message


@pytest.mark.parametrize("sources", [{}, {"file": "a", "credential": "b"}, {"file": "a", "fd": 5}, {"fd": 1}])
def test_exactly_one_source_is_given_and_no_standard_stream(sources: dict[str, object]) -> None:
    with pytest.raises(RequestError):
        PinSource(**sources)  # type: ignore[arg-type]  # each value is of its field's type
