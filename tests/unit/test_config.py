"""The configuration: what it takes, what it makes of silence, and how it says what is wrong."""

import contextlib
import json
import os
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsmbridge.config import (
    ByteSize,
    Config,
    DaemonSection,
    FileMode,
    InvalidConfiguration,
    LogSection,
    NamespaceSection,
    ProviderSection,
    StoreSection,
    expected,
    load_config,
    parse_config,
    read_passphrase,
)
from hsmbridge.config.service import supervisor_settings, worker_spec
from hsmbridge.config.values import decode_value
from hsmbridge.core.errors import RequestError, Status
from hsmbridge.core.secrets import Secret
from hsmbridge.providers.registry import Isolation
from hsmbridge.supervisor import PinSource

FULL = """
[daemon]
socket = "run/d.sock"
socket_mode = "0666"
runtime_dir = "/run/hb"
state_dir = "/var/hb"
workers = 4
max_frame = "1MiB"
max_connections = 10
max_connections_per_principal = 5
default_timeout = 5
drain_timeout = 0
durability = "process-crash"

[store]
url = "sqlite:////var/hb/other.sqlite"
protector = "passphrase"
passphrase_file = "secret"

[providers.software]
uri = "software:"

[providers.hsm1]
uri = "pkcs11:token=web?module-path=/usr/lib/softhsm/libsofthsm2.so"
threads = 8
sessions = 16
pin_credential = "hsm1-pin"
environment = { SOFTHSM2_CONF = "/etc/softhsm2.conf" }

[providers.tpm]
uri = "tpm:device:/dev/tpmrm0"
srk_handle = 0x81000002

[namespaces.web]
creators = ["uid:1000", "uid:0"]

[log]
level = "debug"
audit_uses = true
"""


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HSMBRIDGE_CONFIG", "HSMBRIDGE_SOCKET", "CREDENTIALS_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)


def parse(text: str) -> Config:
    return parse_config(text, "test.toml", Path("/etc/hb"))


def problems_of(text: str) -> tuple[str, ...]:
    with pytest.raises(InvalidConfiguration) as caught:
        parse(text)
    assert caught.value.status is Status.INVALID_CONFIGURATION
    return caught.value.problems


def test_every_setting_is_read() -> None:
    config = parse(FULL)
    assert config.socket == Path("/etc/hb/run/d.sock")
    assert config.daemon.socket_mode == 0o666
    assert config.daemon.max_frame == 1 << 20
    assert config.daemon.durability == "process-crash"
    assert config.store_url == "sqlite:////var/hb/other.sqlite"
    assert config.store.passphrase_file == Path("/etc/hb/secret")
    assert config.providers["hsm1"].environment == {"SOFTHSM2_CONF": "/etc/softhsm2.conf"}
    assert config.providers["tpm"].srk_handle == 0x81000002
    assert config.namespaces["web"].creators == ("uid:1000", "uid:0")
    assert config.log.audit_uses


def test_the_same_in_json() -> None:
    assert parse(json.dumps({"daemon": {"workers": 4}, "log": {"level": "debug"}})) == parse(
        '[daemon]\nworkers = 4\n[log]\nlevel = "debug"\n'
    )


def test_without_a_file_there_are_software_keys_and_nothing_else() -> None:
    config = parse("")
    assert list(config.providers) == ["software"]
    assert config.isolation("software") is Isolation.THREAD
    assert config.daemon.workers == 1
    assert config.daemon.socket_mode == 0o600


def test_providers_that_are_named_are_all_there_are() -> None:
    assert list(parse('[providers.tpm]\nuri = "tpm:swtpm:path=/x"\n').providers) == ["tpm"]


def test_tokens_and_tpms_run_in_processes_of_their_own_unless_told() -> None:
    config = parse(
        '[providers.a]\nuri = "pkcs11:token=a"\n[providers.b]\nuri = "tpm:device"\n'
        '[providers.c]\nuri = "pkcs11:token=a"\nisolation = "thread"\n'
    )
    assert [config.isolation(name) for name in "abc"] == [Isolation.PROCESS, Isolation.PROCESS, Isolation.THREAD]


def test_paths_follow_runtime_dir_and_state_dir() -> None:
    config = parse('[daemon]\nruntime_dir = "/r"\nstate_dir = "/s"\n')
    assert config.socket == Path("/r/hsmbridge.sock")
    assert config.lock_file == Path("/r/supervisor.lock")
    assert config.providers_dir == Path("/r/providers")
    assert config.store_url == "sqlite:////s/store.sqlite"
    assert config.key_file == Path("/s/master.key")


def test_the_socket_variable_stands_in_for_a_setting_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HSMBRIDGE_SOCKET", "/run/other.sock")
    assert parse("").socket == Path("/run/other.sock")
    assert parse('[daemon]\nsocket = "/run/mine.sock"\n').socket == Path("/run/mine.sock")


def test_root_and_users_have_places_of_their_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert (parse("").runtime_dir, parse("").state_dir) == (Path("/run/hsmbridge"), Path("/var/lib/hsmbridge"))
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    config = parse("")
    assert config.runtime_dir == tmp_path / "run" / "hsmbridge"
    assert config.state_dir == tmp_path / "state" / "hsmbridge"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[daemon]\n\nwokers = 2\n", "[daemon] wokers (line 3): there is no such key; did you mean workers?"),
        ("[deamon]\nworkers = 2\n", "[deamon] (line 1): there is no such section; did you mean daemon?"),
        ("[log]\nlevl = 1\n", "[log] levl (line 2): there is no such key; did you mean level?"),
        ("[daemon]\nworkers = 0\n", "[daemon] workers (line 2): it is a whole number from 1 to 256, not 0"),
        (
            '[daemon]\nworkers = "many"\n',
            '[daemon] workers (line 2): it is a whole number from 1 to 256, not "many"',
        ),
        ("[daemon]\nworkers = true\n", "[daemon] workers (line 2): it is a whole number from 1 to 256, not true"),
        (
            '[providers.x]\nuri = "tpm:"\nisolation = "proces"\n',
            '[providers.x] isolation (line 3): it is one of "process", "thread", not "proces"',
        ),
        (
            '[daemon]\nmax_frame = "16MB"\n',
            '[daemon] max_frame (line 2): it is a number of bytes, or a size such as "16MiB", not "16MB"',
        ),
        ("[daemon]\nmax_frame = 1\n", "[daemon] max_frame (line 2): it is 64KiB to 1GiB, not 1"),
        (
            "[daemon]\nsocket_mode = 438\n",
            '[daemon] socket_mode (line 2): it is permission bits such as "0660", not 438',
        ),
        ('daemon = "x"\n', "[daemon]: it is a section with keys of its own"),
        ("[providers]\nx = 1\n", "[providers.x]: it is a section with keys of its own"),
        ("[providers.x]\nthreads = 2\n", "[providers.x] uri: it is missing; it is a string"),
        (
            '[providers.x]\nuri = "pcks11:token=a"\n',
            (
                '[providers.x] uri (line 2): it begins with "software:", "oqs:", "pkcs11:" or "tpm:"; did you mean'
                ' "pkcs11:"?'
            ),
        ),
        (
            '[providers.software]\nuri = "software:"\nisolation = "process"\n',
            """[providers.software] isolation (line 3): software keys live under the master key: write "thread\"""",
        ),
        (
            '[daemon]\nworkers = 2\n[providers.t]\nuri = "tpm:"\nisolation = "thread"\n',
            '[providers.t] isolation (line 5): a TPM has one owner, and there are 2 workers: "process", or workers = 1',
        ),
        (
            '[providers.t]\nuri = "tpm:"\npin_fd = 3\n',
            "[providers.t] pin_fd (line 3): a tpm provider takes no PIN",
        ),
        (
            '[providers.h]\nuri = "pkcs11:token=a"\npin_fd = 3\npin_file = "p"\n',
            "[providers.h] pin_fd (line 3): one PIN is enough, and pin_file names it",
        ),
        (
            '[providers.h]\nuri = "pkcs11:token=a"\npin_credential = "../p"\n',
            "[providers.h] pin_credential (line 3): it is the name of a credential, not a path",
        ),
        (
            '[store]\nprotector = "passphrase"\n',
            "[store] protector (line 2): give one of passphrase_file, passphrase_fd, passphrase_credential",
        ),
        (
            '[store]\npassphrase_file = "p"\n',
            '[store] passphrase_file (line 2): it is only read where protector = "passphrase"',
        ),
        (
            '[store]\nprotector = "tpm"\n',
            '[store] protector (line 2): give tcti, the way to the TPM, such as "device:/dev/tpmrm0"',
        ),
        (
            "[store]\npcrs = [7]\n",
            '[store] pcrs (line 2): it is only used where protector = "tpm"',
        ),
        (
            '[store]\nprotector = "tpm"\ntcti = "device:/dev/tpmrm0"\nkey_file = "k"\n',
            '[store] key_file (line 4): it is only used where protector = "keyfile"',
        ),
        (
            '[providers.s]\nuri = "software:"\nparameter_encryption = true\n',
            "[providers.s] parameter_encryption (line 3): only a TPM has that",
        ),
        (
            '[namespaces.web]\ncreators = ["root"]\n',
            "[namespaces.web] creators (line 2): 'root' is not a principal; write uid:N",
        ),
    ],
)
def test_what_is_wrong_is_said_with_its_place_and_what_is_right(text: str, sentence: str) -> None:
    assert problems_of(text) == (sentence,)


def test_every_problem_is_found_in_one_run() -> None:
    assert len(problems_of("[daemon]\nworkers = 0\nsockte = 1\n[log]\nlevel = 3\n[stoer]\n")) == 4


def test_a_namespace_whose_name_no_slot_can_have_is_refused() -> None:
    (problem,) = problems_of('[namespaces."a/b"]\ncreators = []\n')
    assert problem.startswith("[namespaces.a/b]")


def test_a_socket_path_longer_than_the_kernel_takes_is_refused() -> None:
    fits = "/" + "x" * 91
    assert len(str(parse(f'[daemon]\nruntime_dir = "{fits}"\n').socket)) == 107
    (problem,) = problems_of(f'[daemon]\nruntime_dir = "{fits}x"\n')
    assert "has 108 bytes, and the kernel takes 107" in problem


def test_the_socket_of_a_providers_process_counts_too() -> None:
    folder = "/" + "x" * 80
    (problem,) = problems_of(f'[daemon]\nruntime_dir = "{folder}"\n[providers.abcdefghijkl]\nuri = "tpm:"\n')
    assert problem.startswith("[providers.abcdefghijkl]")


def test_a_secret_in_the_wrong_place_is_not_repeated() -> None:
    text = '[providers.h]\nuri = "pkcs11:token=a?pin-value=9876543"\n[store]\npassphrase_fd = "hunter2"\n'
    assert not any("9876543" in problem or "hunter2" in problem for problem in problems_of(text))
    text = '[providers.h]\nuri = "pkcs11:token=a?pin-value=9876543"\n'
    assert not any("9876543" in problem for problem in problems_of(text))


def test_a_file_that_is_no_toml_says_where(tmp_path: Path) -> None:
    (problem,) = problems_of("[daemon\n")
    assert "line 1" in problem


def test_a_named_file_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = tmp_path / "missing.toml"
    with pytest.raises(InvalidConfiguration, match="cannot be read: No such file"):
        load_config(missing)
    monkeypatch.setenv("HSMBRIDGE_CONFIG", str(missing))
    with pytest.raises(InvalidConfiguration, match="cannot be read"):
        load_config()


def test_the_variable_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "c.toml"
    file.write_text('[daemon]\nworkers = 3\nstate_dir = "state"\n')
    monkeypatch.setenv("HSMBRIDGE_CONFIG", str(file))
    assert load_config().daemon.workers == 3
    assert load_config().state_dir == tmp_path / "state"


@given(st.text())
def test_no_text_breaks_the_reader(text: str) -> None:
    with contextlib.suppress(InvalidConfiguration):
        parse(text)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
_KEYS = st.sampled_from(["workers", "socket", "max_frame", "uri", "creators", "environment", "level", "x"])


@given(
    st.dictionaries(
        st.sampled_from(["daemon", "store", "providers", "namespaces", "log"]),
        st.dictionaries(_KEYS, _VALUES | st.dictionaries(_KEYS, _VALUES)) | _VALUES,
    )
)
def test_no_document_breaks_the_reader(document: dict[str, object]) -> None:
    with contextlib.suppress(InvalidConfiguration):
        parse(json.dumps(document))


@given(st.integers(min_value=0, max_value=1 << 40))
def test_a_size_reads_back_as_it_is_shown(size: int) -> None:
    shown = str(ByteSize(size))
    written: object = shown if shown.endswith("iB") else int(shown)
    assert msgspec.convert(written, ByteSize, dec_hook=decode_value) == size


def test_file_modes_are_shown_as_they_are_written() -> None:
    assert str(FileMode(0o660)) == "0660"


def test_every_setting_says_what_it_takes() -> None:
    for section in (DaemonSection, StoreSection, ProviderSection, NamespaceSection, LogSection):
        for setting in msgspec.structs.fields(section):
            assert expected(setting.type)
            described = msgspec.inspect.type_info(setting.type)
            assert isinstance(described, msgspec.inspect.Metadata)
            assert described.extra_json_schema is not None
            assert described.extra_json_schema["description"].endswith((".", "?"))


def secret_file(folder: Path, content: bytes, mode: int = 0o600) -> Path:
    file = folder / "secret"
    file.write_bytes(content)
    file.chmod(mode)
    return file


def passphrase_in(file: Path) -> StoreSection:
    return StoreSection(protector="passphrase", passphrase_file=file)


def test_a_passphrase_comes_from_a_file_without_its_line_end(tmp_path: Path) -> None:
    for content in (b"correct horse", b"correct horse\n", b"correct horse\r\n"):
        passphrase = read_passphrase(passphrase_in(secret_file(tmp_path, content)))
        assert passphrase is not None
        assert passphrase.reveal() == b"correct horse"


def test_a_store_without_a_passphrase_has_none() -> None:
    assert read_passphrase(StoreSection()) is None


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_passphrase_that_others_can_read_or_change_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(RequestError, match="mode 0600"):
        read_passphrase(passphrase_in(secret_file(tmp_path, b"correct horse", mode)))


@pytest.mark.parametrize(("content", "why"), [(b"", "empty"), (b"\n", "empty"), (b"x" * 5000, "more than 4096")])
def test_what_is_no_passphrase_is_refused(tmp_path: Path, content: bytes, why: str) -> None:
    with pytest.raises(RequestError, match=why):
        read_passphrase(passphrase_in(secret_file(tmp_path, content)))


def test_a_passphrase_file_that_is_missing_or_no_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="No such file"):
        read_passphrase(passphrase_in(tmp_path / "missing"))
    with pytest.raises(RequestError, match="cannot be read"):
        read_passphrase(passphrase_in(tmp_path))


def test_a_passphrase_comes_from_a_file_descriptor_once() -> None:
    read, write = os.pipe()
    os.write(write, b"correct horse\n")
    os.close(write)
    store = StoreSection(protector="passphrase", passphrase_fd=read)
    passphrase = read_passphrase(store)
    assert passphrase is not None
    assert passphrase.reveal() == b"correct horse"
    with pytest.raises(RequestError, match="read once"):
        read_passphrase(store)


def test_a_credential_is_read_where_systemd_put_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = StoreSection(protector="passphrase", passphrase_credential="secret")
    with pytest.raises(RequestError, match="LoadCredential"):
        read_passphrase(store)
    secret_file(tmp_path, b"correct horse", 0o440)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    passphrase = read_passphrase(store)
    assert passphrase is not None
    assert passphrase.reveal() == b"correct horse"


def test_supervisor_and_workers_are_told_all_of_it() -> None:
    config = parse(FULL)
    settings = supervisor_settings(config, Secret(b"correct horse"))
    assert settings.socket_path == config.socket
    assert settings.socket_mode == 0o666
    assert [provider.spec.name for provider in settings.hosted()] == ["hsm1", "tpm"]
    assert settings.hosted()[0].pin == PinSource(credential="hsm1-pin")
    told = worker_spec(config, Secret(b"correct horse"))
    assert told.order == ("software", "hsm1", "tpm")
    assert [spec.name for spec in told.in_process] == ["software"]
    assert told.store.passphrase == b"correct horse"
    assert "correct horse" not in repr(told)
