"""Where liboqs is looked for, and what is said where there is none; never what liboqs-python does by itself then."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from hsmbridge.core.errors import HsmBridgeError, RequestError, Status
from hsmbridge.providers.oqs import OqsProvider, library, load_library
from hsmbridge.providers.registry import ProviderSpec, open_provider
from tests.conformance.backends import LIBOQS, AesGcmSeal

SEAL = AesGcmSeal(bytes(32))
_LOAD = """
import ctypes.util, os, sys
ctypes.util.find_library = lambda name: os.environ.get("SYSTEM_LIBRARY")  # whatever this machine has
from hsmbridge.core.errors import HsmBridgeError
from hsmbridge.providers.oqs import load_library
for prefix in sys.argv[1:]:
    try:
        print(load_library(prefix).version)
    except HsmBridgeError as problem:
        print(problem.status.name, problem.message)
print("imported" if "oqs" in sys.modules else "not imported")
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="hb", dir="/tmp"))
    yield made
    shutil.rmtree(made)


def _in_another_process(home: Path, *prefixes: str, **environment: str) -> list[str]:
    """What a process of its own prints that loads from each prefix in turn; nothing else comes out of it."""
    ended = subprocess.run(
        [sys.executable, "-c", _LOAD, *prefixes],
        env={"HOME": str(home), "PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert ended.stderr == ""
    return ended.stdout.splitlines()


def _refused(prefix: str) -> HsmBridgeError:
    with pytest.raises(HsmBridgeError) as refusal:
        load_library(prefix)
    return refusal.value


def test_a_library_is_loaded_and_says_nothing_on_standard_output(folder: Path) -> None:
    version, imported = _in_another_process(folder, str(LIBOQS))
    assert version.count(".") == 2
    assert imported == "imported"


def test_the_variable_of_liboqs_python_is_heeded(folder: Path) -> None:
    assert _in_another_process(folder, "", OQS_INSTALL_PATH=str(LIBOQS)) == _in_another_process(folder, str(LIBOQS))


def test_a_library_of_the_system_is_found(folder: Path) -> None:
    system = str(LIBOQS / "lib" / "liboqs.so")
    assert _in_another_process(folder, "", SYSTEM_LIBRARY=system) == _in_another_process(folder, str(LIBOQS))


def test_the_folder_that_is_configured_comes_before_the_system(folder: Path) -> None:
    # The one of the system is a file that liboqs-python would fail on.
    version, imported = _in_another_process(folder, str(LIBOQS), SYSTEM_LIBRARY=str(LIBOQS / "lib" / "liboqs.so.7"))
    assert version.count(".") == 2
    assert imported == "imported"


def test_where_there_is_no_library_liboqs_python_is_not_even_imported(folder: Path) -> None:
    (refusal, imported) = _in_another_process(folder, "")
    assert refusal.startswith("PROVIDER_UNAVAILABLE liboqs was not found")
    assert "oqs:/opt/liboqs" in refusal
    assert imported == "not imported"
    assert list(folder.iterdir()) == [], "something was put into the home directory"


def test_an_empty_folder_holds_no_library_and_the_message_keeps_its_path(folder: Path) -> None:
    refusal = _refused(str(folder))
    assert refusal.status is Status.PROVIDER_UNAVAILABLE
    assert "where the configuration says" in refusal.message
    assert str(folder) not in refusal.message


def test_a_file_that_is_no_library_is_not_loaded(folder: Path) -> None:
    (folder / "lib").mkdir()
    (folder / "lib" / "liboqs.so").write_text("not a library")
    refusal = _refused(str(folder))
    assert refusal.status is Status.PROVIDER_UNAVAILABLE
    assert str(folder) in refusal.origin


def test_a_library_that_is_too_old_is_said_to_be_so(folder: Path) -> None:
    # The library as 0.13 is, without the function that ./dev liboqs adds.
    (folder / "lib").mkdir()
    shutil.copy(LIBOQS / "lib" / "liboqs.so.7", folder / "lib" / "liboqs.so")
    refusal = _refused(str(folder))
    assert refusal.status is Status.PROVIDER_UNAVAILABLE
    assert "too old" in refusal.message
    assert "OQS_SIG_supports_ctx_str" in refusal.message


def test_one_process_has_one_library(folder: Path) -> None:
    shutil.copytree(LIBOQS / "lib", folder / "lib", symlinks=True)
    version, refusal, again, _ = _in_another_process(folder, str(LIBOQS), str(folder), str(LIBOQS))
    assert refusal.startswith("PROVIDER_UNAVAILABLE Another liboqs")
    assert version == again


def test_a_folder_is_an_absolute_path() -> None:
    assert _refused("opt/liboqs").status is Status.INVALID_CONFIGURATION


def test_loading_leaves_the_environment_as_it_was() -> None:
    before = dict(os.environ)
    load_library(str(LIBOQS))
    assert dict(os.environ) == before


# By its URI


def test_its_uri_opens_it() -> None:
    provider = open_provider(ProviderSpec(name="pq", uri=f"oqs:{LIBOQS}"), seal=SEAL)
    assert isinstance(provider, OqsProvider)
    described = provider.describe()
    assert described.token.model.startswith("liboqs 0.")
    assert any("liboqs-python" in note for note in described.notes)
    provider.close()


def test_outside_the_daemon_it_has_no_seal_and_is_refused() -> None:
    with pytest.raises(RequestError) as refusal:
        open_provider(ProviderSpec(name="pq", uri=f"oqs:{LIBOQS}"))
    assert refusal.value.status is Status.INVALID_CONFIGURATION
    assert "isolation = thread" in refusal.value.message


def test_without_its_python_package_it_says_which_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(library, "version", missing)
    with pytest.raises(RequestError) as refusal:
        open_provider(ProviderSpec(name="pq", uri=f"oqs:{LIBOQS}"), seal=SEAL)
    assert "liboqs-python" in refusal.value.message
