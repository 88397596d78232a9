"""liboqs beside software keys in one daemon: preference lists, what each is good for, and where it is not there."""

import json
import tempfile
from collections.abc import Iterator
from shutil import rmtree

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PublicKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key

from hsmbridge.client import CryptoStack, KeyOperationPermission, SignatureParameters, SlotInfo
from hsmbridge.core.algorithms import algorithm
from hsmbridge.core.errors import ProviderError
from hsmbridge.lab.lab import Lab
from hsmbridge.lab.options import LabOptions
from tests.conformance.backends import LIBOQS
from tests.conformance.independent import postquantum
from tests.unit.cli.command import hsmbridge

SIGNING = KeyOperationPermission.SIGN | KeyOperationPermission.VERIFY
KEM = KeyOperationPermission.ENCAPSULATE | KeyOperationPermission.DECAPSULATE
MESSAGE = b"a message"
CONTEXT = SignatureParameters(context=b"a context")


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """A lab with two more providers: liboqs, and one whose liboqs is not there."""
    nowhere = tempfile.mkdtemp(prefix="hb", dir="/tmp")
    with Lab.start(LabOptions(tpm=False)) as lab:
        with lab.config.open("a") as config:
            config.write(f'\n[providers.liboqs]\nuri = "oqs:{LIBOQS}"\n\n[providers.absent]\nuri = "oqs:{nowhere}"\n')
        lab.restart_daemon()
        lab.wait_until_available(["software", "liboqs"])
        yield lab
    rmtree(nowhere)


@pytest.fixture
def stack(lab: Lab) -> Iterator[CryptoStack]:
    with lab.stack() as stack:
        yield stack


def _provider(info: SlotInfo) -> str:
    return info.versions[-1].provider


def _verify(info: SlotInfo, message: bytes, signature: bytes, context: bytes) -> None:
    public = load_der_public_key(info.versions[-1].public_key)
    assert isinstance(public, MLDSA65PublicKey)
    public.verify(signature, message, context)


@pytest.mark.parametrize(
    ("preferences", "chosen"), [(("liboqs", "software"), "liboqs"), (("software", "liboqs"), "software")]
)
def test_an_ml_dsa_slot_signs_by_the_provider_that_comes_first(
    stack: CryptoStack, preferences: tuple[str, ...], chosen: str
) -> None:
    info = stack.create_slot(f"dsa-{chosen}", "ML-DSA-65", SIGNING, providers=preferences)
    assert _provider(info) == chosen
    for parameters in (SignatureParameters(), CONTEXT):
        signature = stack.sign(info.name, "ML-DSA-65", MESSAGE, parameters=parameters)
        _verify(info, MESSAGE, signature, parameters.context)
        with pytest.raises(InvalidSignature):
            _verify(info, MESSAGE + b"!", signature, parameters.context)
        stack.verify(info.name, "ML-DSA-65", MESSAGE, signature, parameters=parameters)


def test_a_rotated_slot_keeps_each_version_with_its_provider(lab: Lab, stack: CryptoStack) -> None:
    info = stack.create_slot(
        "rotated", "ML-DSA-65", SIGNING | KeyOperationPermission.GENERATE, providers=["liboqs", "software"]
    )
    signature = stack.sign("rotated", "ML-DSA-65", MESSAGE)
    stack.rotate("rotated")
    lab.restart_daemon(timeout=60)
    lab.wait_until_available(["software", "liboqs"])
    again = stack.show_slot("rotated")
    assert [version.provider for version in again.versions] == ["liboqs", "liboqs"]
    _verify(info, MESSAGE, signature, b"")
    _verify(again, MESSAGE, stack.sign("rotated", "ML-DSA-65", MESSAGE), b"")


def test_ml_kem_768_agrees_with_another_implementation(stack: CryptoStack) -> None:
    info = stack.create_slot("kem-768", "ML-KEM-768", KEM, providers=["liboqs"])
    public = load_der_public_key(info.versions[-1].public_key)
    assert isinstance(public, MLKEM768PublicKey)
    secret, ciphertext = public.encapsulate()
    assert stack.decapsulate("kem-768", "ML-KEM-768", ciphertext) == secret


def test_ml_kem_512_goes_to_liboqs_for_software_has_none(stack: CryptoStack) -> None:
    info = stack.create_slot("kem-512", "ML-KEM-512", KEM, providers=["software", "liboqs"])
    assert _provider(info) == "liboqs"
    ciphertext, secret = postquantum.encapsulate(algorithm("ML-KEM-512"), info.versions[-1].public_key)
    assert stack.decapsulate("kem-512", "ML-KEM-512", ciphertext) == secret


# Where the library is not there


def test_a_missing_library_is_a_provider_that_says_why_and_nothing_else_suffers(stack: CryptoStack) -> None:
    found = {provider.name: provider for provider in stack.providers()}
    assert found["absent"].state != "available"
    assert "liboqs was not found" in found["absent"].reason
    assert found["software"].state == found["liboqs"].state == "available"
    assert [finding.severity for finding in stack.doctor() if "absent" in finding.subject] == ["error"]


def test_a_slot_that_prefers_the_missing_library_gets_its_next_provider(stack: CryptoStack) -> None:
    info = stack.create_slot("next", "ML-DSA-65", SIGNING, providers=["absent", "software"])
    assert _provider(info) == "software"
    assert info.versions[-1].fell_back_from == "absent"


def test_a_slot_that_has_only_the_missing_library_is_refused_with_the_reason(stack: CryptoStack) -> None:
    with pytest.raises(ProviderError) as refusal:
        stack.create_slot("none", "ML-DSA-65", SIGNING, providers=["absent"])
    assert "liboqs was not found" in str(refusal.value)


def test_the_command_line_shows_the_version_of_the_library(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HSMBRIDGE_SOCKET", str(lab.socket))
    shown = json.loads(hsmbridge("providers", "liboqs", "--json").stdout)
    assert shown["token"]["model"].startswith("liboqs ")
    assert shown["token"]["model"].encode() in hsmbridge("providers", "liboqs").stdout
    assert b"liboqs was not found" in hsmbridge("providers").stdout
    assert b"liboqs was not found" in hsmbridge("doctor").stdout
