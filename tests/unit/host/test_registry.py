"""Which provider stands behind which URI, and what is said where none can."""

import subprocess
import sys

import pytest

from hsmbridge.core.errors import RequestError
from hsmbridge.core.secrets import Pin
from hsmbridge.providers.host.spec import HostSpec, memory_file, read_spec, write_spec
from hsmbridge.providers.registry import ProviderSpec, open_provider
from hsmbridge.providers.software import SoftwareProvider


class NoSeal:
    """A seal for a provider that is only opened."""

    def seal(self, material: bytes, binding: bytes) -> bytes:
        raise NotImplementedError

    def open(self, sealed: bytes, binding: bytes) -> bytes:
        raise NotImplementedError


def spec(uri: str, name: str = "p") -> ProviderSpec:
    return ProviderSpec(name=name, uri=uri)


def test_software_keys_live_where_the_master_key_is() -> None:
    assert isinstance(open_provider(spec("software:"), seal=NoSeal()), SoftwareProvider)
    with pytest.raises(RequestError, match="isolation = thread"):
        open_provider(spec("software:"))


def test_the_scheme_is_read_in_any_case() -> None:
    assert isinstance(open_provider(spec("SOFTWARE:"), seal=NoSeal()), SoftwareProvider)


@pytest.mark.parametrize("uri", ["", "kms:x", "/usr/lib/softhsm/libsofthsm2.so"])
def test_an_unknown_scheme_is_refused_and_the_known_ones_are_named(uri: str) -> None:
    with pytest.raises(RequestError, match=r"software:, oqs:, pkcs11:, tpm:"):
        open_provider(spec(uri), seal=NoSeal())


WITHOUT = """
import sys
sys.modules[sys.argv[2]] = None
from hsmbridge.providers.registry import ProviderSpec, open_provider
try:
    open_provider(ProviderSpec(name="p", uri=sys.argv[1]))
except Exception as problem:
    print(repr(problem))
"""


@pytest.mark.parametrize(
    ("uri", "module", "package"),
    [
        ("pkcs11:token=x?module-path=/x", "pkcs11", "python-pkcs11"),
        ("tpm:device:/dev/null", "tpm2_pytss", "tpm2-pytss"),
    ],
)
def test_a_missing_library_is_one_sentence(uri: str, module: str, package: str) -> None:
    done = subprocess.run(
        (sys.executable, "-c", WITHOUT, uri, module), capture_output=True, text=True, timeout=60, check=True
    )
    assert "RequestError(INVALID_CONFIGURATION" in done.stdout
    assert f"Provider p needs the Python package {package}; install it." in done.stdout


def test_a_pin_for_what_takes_none_is_refused() -> None:
    for uri in ("software:", "tpm:device:/dev/null"):
        with pytest.raises(RequestError, match="takes no PIN"):
            open_provider(spec(uri), Pin("1234"), NoSeal())


@pytest.mark.parametrize("name", ["", "a/b", "-x", "n" * 33, "ä"])
def test_a_name_that_cannot_be_one_is_refused(name: str) -> None:
    with pytest.raises(RequestError):
        spec("software:", name)


@pytest.mark.parametrize("threads", [0, -1, 65])
def test_a_number_of_threads_that_cannot_be_right_is_refused(threads: int) -> None:
    with pytest.raises(RequestError, match="1 to 64"):
        ProviderSpec(name="p", uri="software:", threads=threads)


def test_a_specification_and_its_pin_travel_through_a_file_descriptor() -> None:
    sent = HostSpec(provider=ProviderSpec(name="p", uri="tpm:x", environment={"B": "2", "A": "1"}), directory="/run")
    assert read_spec(write_spec(sent, Pin("1234"))) == (sent, Pin("1234"))
    assert read_spec(write_spec(sent, None)) == (sent, None)


def test_the_digest_of_a_specification_is_that_of_its_meaning() -> None:
    one = HostSpec(provider=ProviderSpec(name="p", uri="tpm:x", environment={"A": "1", "B": "2"}), directory="/run")
    same = HostSpec(provider=ProviderSpec(name="p", uri="tpm:x", environment={"B": "2", "A": "1"}), directory="/run")
    other = HostSpec(provider=ProviderSpec(name="p", uri="tpm:y", environment={"A": "1", "B": "2"}), directory="/run")
    assert one.digest() == same.digest() != other.digest()


def test_a_specification_that_cannot_be_read_is_refused_without_being_shown() -> None:
    with pytest.raises(RequestError) as refused:
        read_spec(memory_file("test", b"secret"))
    assert "secret" not in refused.value.message
