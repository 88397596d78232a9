"""Another token, or an empty one, where the right one was: nothing is deleted, slots say why, and come back with it."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hsmbridge.client import CryptoStack, KeyOperationPermission, SlotInfo
from hsmbridge.core.errors import HsmBridgeError, ProviderError, Status
from hsmbridge.lab.lab import TOKEN_LABEL, Lab
from hsmbridge.lab.rigs import SoftHsmToken

ALGORITHM = "ECDSA-P256-SHA256"
PERMISSIONS = KeyOperationPermission.SIGN | KeyOperationPermission.VERIFY
SLOTS = 5


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab.start() as lab:
        with lab.stack() as stack:
            for provider in ("softhsm", "tpm"):
                for number in range(SLOTS):
                    stack.create_slot(f"{provider}-{number}", "EC-P256", PERMISSIONS, providers=[provider])
        yield lab


@pytest.fixture
def aside() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="hb", dir="/tmp"))
    yield directory
    shutil.rmtree(directory)


def _start(lab: Lab) -> None:
    """Start the daemon although a provider may stay away."""
    try:
        lab.start_daemon(timeout=8)
    except ProviderError:
        lab.wait_until_available(["software"])


def _slots(stack: CryptoStack, provider: str) -> list[SlotInfo]:
    found = [info for info in stack.list_slots() if info.providers == (provider,)]
    assert len(found) == SLOTS, "slots were lost"
    return found


def _is_refused(stack: CryptoStack, provider: str, *statuses: Status) -> None:
    for info in _slots(stack, provider):
        shown = stack.show_slot(info.name, probe=True)
        assert [version.state for version in shown.versions] == ["active"]
        assert shown.versions[0].unavailable, "the slot does not say why it cannot be used"
        with pytest.raises(HsmBridgeError) as refused:
            stack.sign(info.name, ALGORITHM, b"message")
        assert refused.value.status in statuses
    assert any(finding.severity == "error" for finding in stack.doctor())


def _works(lab: Lab) -> None:
    with lab.stack() as stack:
        for provider in ("softhsm", "tpm"):
            for info in _slots(stack, provider):
                signature = stack.sign(info.name, ALGORITHM, b"message")
                stack.verify(info.name, ALGORITHM, b"message", signature)
        assert [f.message for f in stack.doctor() if f.severity in {"warning", "error"}] == []


@pytest.mark.timeout(180)
def test_another_hsm_and_another_tpm_lose_nothing_and_the_right_ones_bring_everything_back(
    lab: Lab, aside: Path
) -> None:
    assert lab.tpm is not None
    lab.stop_daemon()
    lab.tpm.stop()
    shutil.move(lab.token.directory, aside / "softhsm")
    shutil.move(lab.tpm.directory, aside / "tpm")
    SoftHsmToken.make(lab.token.directory, TOKEN_LABEL)
    lab.tpm.start()
    _start(lab)
    with lab.stack() as stack:
        _is_refused(stack, "softhsm", Status.WRONG_TOKEN)
        _is_refused(stack, "tpm", Status.WRONG_TOKEN)
        stack.create_slot("made-meanwhile", "EC-P256", PERMISSIONS, providers=["softhsm"])
        stack.sign("made-meanwhile", ALGORITHM, b"message")
        stack.destroy("made-meanwhile")
    lab.stop_daemon()
    lab.tpm.stop()
    shutil.rmtree(lab.token.directory)
    shutil.rmtree(lab.tpm.directory)
    shutil.move(aside / "softhsm", lab.token.directory)
    shutil.move(aside / "tpm", lab.tpm.directory)
    lab.tpm.start()
    lab.start_daemon()
    _works(lab)


@pytest.mark.timeout(180)
def test_an_empty_token_directory_and_a_tpm_that_is_off_lose_nothing(lab: Lab, aside: Path) -> None:
    assert lab.tpm is not None
    lab.stop_daemon()
    lab.tpm.stop()
    tokens = lab.token.directory / "tokens"
    shutil.move(tokens, aside / "tokens")
    tokens.mkdir(mode=0o700)
    _start(lab)
    with lab.stack() as stack:
        _is_refused(stack, "softhsm", Status.TOKEN_NOT_PRESENT, Status.PROVIDER_UNAVAILABLE)
        _is_refused(stack, "tpm", Status.TOKEN_NOT_PRESENT, Status.PROVIDER_UNAVAILABLE)
        name = "meanwhile-software"
        stack.create_slot(name, "EC-P256", PERMISSIONS, providers=["software"])
        stack.sign(name, ALGORITHM, b"the others work on")
    lab.stop_daemon()
    tokens.rmdir()
    shutil.move(aside / "tokens", tokens)
    lab.tpm.start()
    lab.start_daemon()
    _works(lab)
