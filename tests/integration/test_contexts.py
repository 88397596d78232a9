"""Contexts against a real daemon: on every provider, with files, through deaths of clients, hosts and workers."""

import hashlib
import hmac
import io
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from hsmbridge.client import (
    AeadContext,
    ContextState,
    CryptoStack,
    GenerateKeyParams,
    KeyOperationPermission,
    MacContext,
)
from hsmbridge.errors import (
    ConnectionLost,
    ContextError,
    DecryptionFailed,
    HsmBridgeError,
    LimitError,
    ProviderError,
    SignatureInvalid,
    Status,
)
from hsmbridge.lab.lab import Lab
from hsmbridge.lab.options import LabOptions
from hsmbridge.providers.pkcs11.streams import SESSIONS
from tests.faulty_module import FaultyModule

P = KeyOperationPermission
PROVIDERS = ("software", "softhsm", "tpm")
ECDSA, GCM, HMAC = "ECDSA-P256-SHA256", "AES-256-GCM", "HMAC-SHA256"
GONE_WITHIN = 0.25
MIB = 1 << 20
_numbers = count()


@pytest.fixture
def stack(hsmbridge_lab: Lab) -> Iterator[CryptoStack]:
    with CryptoStack(hsmbridge_lab.socket) as made:
        yield made


def new_slot(stack: CryptoStack, provider: str, key_type: str, permissions: P) -> str:
    name = f"contexts-{next(_numbers)}"
    stack.create_slot(name, key_type, permissions, providers=[provider])
    return name


def eventually(condition: Callable[[], bool], within: float) -> float:
    """The seconds that it took until something was so."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < within, "that took too long"
        time.sleep(0.005)
    return time.monotonic() - began


def resident(pid: int) -> int:
    """Bytes of memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the process has ended")


# Every provider


@pytest.mark.parametrize("provider", PROVIDERS)
def test_what_is_signed_in_pieces_verifies_in_pieces_and_at_once(stack: CryptoStack, provider: str) -> None:
    slot = new_slot(stack, provider, "EC-P256", P.SIGN | P.VERIFY)
    data = secrets.token_bytes(100_001)
    with stack.sign_context(slot, ECDSA) as signing:
        assert not signing.buffered
        assert signing.provider == provider
        for position in range(0, len(data), 9_999):
            signing.update(memoryview(data)[position : position + 9_999])
        signature = signing.finalize()
    assert signature.version == 1
    assert stack.verify(slot, ECDSA, data, signature) == 1
    with stack.verify_context(slot, ECDSA) as verifying:
        assert verifying.update_from(io.BytesIO(data)) == len(data)
        assert verifying.finalize(signature) == 1
        verifying.restart()
        verifying.update(b"something else")
        with pytest.raises(SignatureInvalid):
            verifying.finalize(signature)
        assert verifying.state is ContextState.FINALIZED


def test_slots_and_guards_make_contexts_of_their_key(stack: CryptoStack) -> None:
    kinds = (
        ("EC-P256", P.SIGN | P.VERIFY, ()),
        ("HMAC-SHA256", P.SIGN | P.VERIFY, ()),
        ("AES-256", P.ENCRYPT | P.DECRYPT, (GCM, "AES-256-CTR")),
    )
    made = [f"contexts-{next(_numbers)}" for _ in kinds]
    for name, (key_type, permissions, algorithms) in zip(made, kinds, strict=True):
        stack.create_slot(name, key_type, permissions, providers=["software"], algorithms=algorithms)
    pairs, macs, secret = map(stack.slot, made)
    params = [GenerateKeyParams(key_type=key_type, permissions=permissions) for key_type, permissions, _ in kinds]
    with stack.generate_key(params[0]) as pair, stack.generate_key(params[1]) as mac:
        for key in (pairs, pair):
            with key.sign_context(ECDSA) as signing, key.verify_context(ECDSA) as verifying:
                for context in (signing, verifying):
                    context.update(b"data")
                assert verifying.finalize(signing.finalize()) == signing.version
        for key in (macs, mac):
            with key.mac_context(HMAC) as computing, key.mac_context(HMAC, verify=True) as checking:
                for each in (computing, checking):
                    each.update(b"data")
                assert checking.verify(computing.finalize()) == computing.version
    with secret.aead_context(GCM, "encrypt", aad=b"aad") as sealing:
        sealed = sealing.update(b"data") + sealing.finalize()
        assert secret.decrypt(GCM, sealed, aad=b"aad", nonce=sealing.nonce, tag=sealing.get_tag()) == b"data"
    with secret.cipher_context("AES-256-CTR", "encrypt") as streaming:
        sealed = streaming.update(b"data") + streaming.finalize()
        assert secret.decrypt("AES-256-CTR", sealed, nonce=streaming.nonce) == b"data"


@pytest.mark.parametrize("provider", PROVIDERS)
def test_macs_in_pieces_are_macs(stack: CryptoStack, provider: str) -> None:
    slot = new_slot(stack, provider, "HMAC-SHA256", P.SIGN | P.VERIFY)
    data = bytearray(secrets.token_bytes(50_000))
    with stack.mac_context(slot, HMAC) as computing:
        computing.update(data)
        computing.update(b"")
        mac = computing.finalize()
    assert mac == stack.mac(slot, HMAC, data)
    with stack.mac_context(slot, HMAC, verify=True) as verifying:
        verifying.update(data)
        assert verifying.verify(mac) == 1


@pytest.mark.parametrize("provider", PROVIDERS)
def test_digests_in_pieces_are_digests(stack: CryptoStack, provider: str) -> None:
    data = secrets.token_bytes(3 * MIB + 1 if provider != "tpm" else 70_000)
    with stack.digest_context("SHA-256", provider=provider) as context:
        context.update(data)
        assert context.finalize() == hashlib.sha256(data).digest()
        context.reset()
        assert context.state is ContextState.CREATED
        context.init()
        assert context.finalize() == hashlib.sha256(b"").digest()


@pytest.mark.parametrize("provider", ["software", "softhsm"])
def test_an_aead_in_pieces_is_one_at_once_and_gives_nothing_for_a_wrong_tag(stack: CryptoStack, provider: str) -> None:
    slot = new_slot(stack, provider, "AES-256", P.ENCRYPT | P.DECRYPT)
    data = secrets.token_bytes(5 * MIB + 3)
    with stack.aead_context(slot, GCM, "encrypt", aad=b"aad") as sealing:
        assert not sealing.buffered
        sealed = sealing.update(data[:7]) + sealing.update(data[7:]) + sealing.finalize()
        tag, nonce = sealing.get_tag(), sealing.nonce
    assert stack.decrypt(slot, GCM, sealed, aad=b"aad", nonce=nonce, tag=tag) == data
    with stack.aead_context(slot, GCM, "decrypt", nonce=nonce, aad=b"aad") as opening:
        assert opening.buffered
        assert opening.update(sealed) == b""
        opening.set_tag(tag)
        assert opening.finalize() == data
        assert opening.key_version == 1
    target = io.BytesIO()
    with stack.aead_context(slot, GCM, "decrypt", nonce=nonce, aad=b"aad") as opening:
        opening.update_from(io.BytesIO(sealed), target)
        opening.set_tag(bytes(16))
        with pytest.raises(DecryptionFailed):
            opening.finalize_to(target)
        assert opening.state is ContextState.ERROR
        with pytest.raises(ContextError) as refusal:
            opening.finalize()
        assert refusal.value.status is Status.CONTEXT_FAILED
    assert target.getvalue() == b""


def test_a_cipher_in_pieces_decrypts_in_pieces(stack: CryptoStack) -> None:
    for provider, algorithm in (("software", "AES-256-CBC"), ("softhsm", "AES-256-CTR"), ("tpm", "AES-128-CFB")):
        name = f"contexts-{next(_numbers)}"
        stack.create_slot(
            name,
            algorithm[:7],
            P.ENCRYPT | P.DECRYPT,
            providers=[provider],
            algorithms=[algorithm],
        )
        data = secrets.token_bytes(30_011)
        with stack.cipher_context(name, algorithm, "encrypt") as sealing:
            sealed = sealing.update(data) + sealing.finalize()
        with stack.cipher_context(name, algorithm, "decrypt", nonce=sealing.nonce) as opening:
            assert not opening.buffered
            assert opening.update(sealed[:1]) + opening.update(sealed[1:]) + opening.finalize() == data


def test_what_a_provider_takes_only_at_once_is_told_to_be_buffered(stack: CryptoStack) -> None:
    slot = new_slot(stack, "softhsm", "Ed25519", P.SIGN | P.VERIFY)
    data = secrets.token_bytes(20 * MIB)
    with stack.sign_context(slot, "Ed25519") as context:
        assert context.buffered
        assert context.held_max == 64 * MIB
        context.update(data)
        signature = context.finalize()
    with stack.verify_context(slot, "Ed25519") as context:
        context.update(data)
        assert context.finalize(signature) == 1


def test_what_is_buffered_has_its_bound(stack: CryptoStack) -> None:
    slot = new_slot(stack, "software", "AES-256", P.ENCRYPT | P.DECRYPT)
    with stack.aead_context(slot, GCM, "decrypt", nonce=bytes(12)) as context:
        piece = bytes(8 * MIB)
        for _ in range(8):
            context.update(piece)
        with pytest.raises(LimitError) as refusal:
            context.update(b"!")
        assert refusal.value.status is Status.DATA_TOO_LARGE
        assert "in chunks, as `hsmbridge encrypt` writes them" in refusal.value.message
        assert context.state is ContextState.ERROR


def test_a_context_that_is_used_again_saves_a_round_trip(stack: CryptoStack) -> None:
    slot = new_slot(stack, "software", "AES-256", P.ENCRYPT)
    stack.encrypt(slot, GCM, b"the slot's id is known")
    requests = stack._connection(5)._ids

    def use(context: AeadContext) -> None:
        context.update(b"data")
        context.finalize()

    before = next(requests)
    with stack.aead_context(slot, GCM, "encrypt") as context:
        use(context)
    anew = next(requests) - before - 1
    with stack.aead_context(slot, GCM, "encrypt") as context:
        use(context)
        before = next(requests)
        context.restart()
        use(context)
        again = next(requests) - before - 1
    assert (anew, again) == (4, 3)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("provider", "kind"),
    [
        *((provider, kind) for provider in ("software", "softhsm") for kind in ("AEAD", "MAC", "digest")),
        *(("tpm", kind) for kind in ("MAC", "digest")),  # no TPM has an AEAD
    ],
)
@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.all)], ids=["a share", "1 GiB"])
def test_much_goes_through_and_the_daemon_does_not_grow(
    hsmbridge_lab: Lab, stack: CryptoStack, provider: str, kind: str, whole: bool
) -> None:
    size = 1024 * MIB if whole else 8 * MIB if provider == "tpm" else 64 * MIB
    worker = stack.status().pid
    # The software provider has no process of its own.
    host = hsmbridge_lab.provider("softhsm" if provider == "software" else provider).pid
    piece = secrets.token_bytes(MIB)
    if kind == "AEAD":
        slot = new_slot(stack, provider, "AES-256", P.ENCRYPT | P.DECRYPT)
        with stack.aead_context(slot, GCM, "encrypt") as context:
            before = resident(worker), resident(host)
            for _ in range(size // MIB):
                context.update(piece)
            after = resident(worker), resident(host)
    else:
        slot = new_slot(stack, provider, "HMAC-SHA256", P.SIGN) if kind == "MAC" else ""
        with (
            stack.mac_context(slot, HMAC) if kind == "MAC" else stack.digest_context("SHA-256", provider=provider)
        ) as reader:
            before = resident(worker), resident(host)
            for _ in range(size // MIB):
                reader.update(piece)
            after = resident(worker), resident(host)
    assert after[0] - before[0] < 32 * MIB
    assert after[1] - before[1] < 32 * MIB


# Order, deadlines, keys


def test_a_call_out_of_order_is_refused_and_does_no_harm(stack: CryptoStack) -> None:
    slot = new_slot(stack, "software", "HMAC-SHA256", P.SIGN)
    with stack.mac_context(slot, HMAC, init=False) as context:
        for call in (lambda: context.update(b"data"), context.finalize, context.reset):
            with pytest.raises(ContextError) as refusal:
                call()
            assert refusal.value.status is Status.INVALID_OPERATION
        context.init()
        context.update(b"data")
        with pytest.raises(ContextError):
            context.reset()
        with pytest.raises(ContextError):
            context.init()
        assert context.finalize() == stack.mac(slot, HMAC, b"data")
    assert context.state is ContextState.CLOSED
    context.close()
    with pytest.raises(ContextError):
        context.update(b"")
    cipher = new_slot(stack, "software", "AES-256", P.ENCRYPT)
    with stack.aead_context(cipher, GCM, "encrypt") as sealing:
        for result in (sealing.get_tag, lambda: sealing.key_version):
            with pytest.raises(ContextError):
                result()


def test_any_buffer_is_taken_as_the_bytes_that_it_has(stack: CryptoStack) -> None:
    data = bytes(range(256)) * 4
    for view in (memoryview(data)[::2], memoryview(data).cast("I"), memoryview(bytearray(data))):
        with stack.digest_context("SHA-256") as context:
            context.update(view)
            assert context.finalize() == hashlib.sha256(view.tobytes()).digest()


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_context_keeps_its_key_when_the_guard_is_released(stack: CryptoStack, provider: str) -> None:
    params = GenerateKeyParams(key_type="EC-P256", permissions=int(P.SIGN | P.VERIFY))
    guard = stack.generate_key(params, provider=provider)
    verifying = stack.verify_context(guard, ECDSA)
    with stack.sign_context(guard, ECDSA) as context:
        guard.release()
        context.update(b"message")
        signature = context.finalize()
    with verifying:
        verifying.update(b"message")
        verifying.finalize(signature)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_context_of_a_revoked_key_fails_at_its_next_call(stack: CryptoStack, provider: str) -> None:
    slot = new_slot(stack, provider, "EC-P256", P.SIGN | P.VERIFY)
    with stack.sign_context(slot, ECDSA) as context:
        context.update(b"message")
        stack.revoke(slot)
        with pytest.raises(HsmBridgeError) as refusal:
            context.update(b"message")
        assert refusal.value.status is Status.KEY_STATE_FORBIDS
        assert context.state is ContextState.ERROR


def test_a_context_that_is_forgotten_is_closed_with_the_next_call(stack: CryptoStack) -> None:
    before = stack.status().contexts
    context = stack.digest_context("SHA-256")
    assert stack.status().contexts == before + 1
    del context
    eventually(lambda: stack.status().contexts == before, 1.0)


# Deaths

CLIENT = textwrap.dedent(
    """
    import sys, time
    from hsmbridge.client import CryptoStack, GenerateKeyParams, KeyOperationPermission as P
    stack = CryptoStack(sys.argv[1], timeout=60)
    params = GenerateKeyParams(key_type="HMAC-SHA256", permissions=int(P.SIGN))
    held = []
    for provider in ("software", "softhsm"):
        for _ in range(50):
            guard = stack.generate_key(params, provider=provider)
            context = stack.mac_context(guard, "HMAC-SHA256")
            assert not context.buffered
            context.update(b"data")
            held.append((guard, context))
    print("ready", flush=True)
    time.sleep(60)
    """
)


@pytest.mark.timeout(120)
def test_what_a_killed_client_left_is_gone_from_daemon_and_token_at_once(
    hsmbridge_lab: Lab, stack: CryptoStack
) -> None:
    slot = new_slot(stack, "softhsm", "HMAC-SHA256", P.SIGN)
    before = stack.status()
    command = [sys.executable, "-c", CLIENT, str(hsmbridge_lab.socket)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as client:
        try:
            assert client.stdout is not None
            assert client.stdout.readline() == b"ready\n"
            assert stack.status().contexts == before.contexts + 100
            mine = streams(stack, slot, SESSIONS - 50)
            assert streams(stack, slot, 1) == [], "the token's sessions for streams are all taken"
        finally:
            client.send_signal(signal.SIGKILL)
        took = eventually(lambda: stack.status().contexts == before.contexts + len(mine), GONE_WITHIN)
        eventually(lambda: streams(stack, slot, 1) != [], GONE_WITHIN - took)
    eventually(lambda: len(streams(stack, slot, 50)) == 50, 10)
    assert stack.status().connections == before.connections
    for context in mine:
        context.update(b"nobody else notices")
        assert context.finalize() == stack.mac(slot, HMAC, b"nobody else notices")
        context.close()


def streams(stack: CryptoStack, slot: str, wanted: int) -> list[MacContext]:
    """So many streams of the token as can be had of `wanted`."""
    contexts = [stack.mac_context(slot, HMAC) for _ in range(wanted)]
    for context in contexts:
        if context.buffered:
            context.close()
    return [context for context in contexts if context.state is not ContextState.CLOSED]


@pytest.mark.timeout(120)
def test_a_host_that_dies_takes_its_contexts_along_and_no_others(hsmbridge_lab: Lab, stack: CryptoStack) -> None:
    slot = new_slot(stack, "softhsm", "HMAC-SHA256", P.SIGN)
    other = stack.digest_context("SHA-256", provider="software")
    context = stack.mac_context(slot, HMAC)
    context.update(b"data")
    host = hsmbridge_lab.provider("softhsm").pid
    hsmbridge_lab.kill_host("softhsm")
    hsmbridge_lab.wait_until_available(["softhsm"], replaced=host)
    with pytest.raises(ProviderError) as failure:
        context.update(b"data")
    assert failure.value.status is Status.PROVIDER_UNAVAILABLE
    assert context.state is ContextState.ERROR
    with pytest.raises(ContextError):
        context.finalize()
    context.close()
    other.update(b"data")
    assert other.finalize() == hashlib.sha256(b"data").digest()
    assert stack.mac_context(slot, HMAC).finalize() == stack.mac(slot, HMAC, b"")


@pytest.mark.timeout(120)
def test_a_daemon_that_dies_leaves_no_stream_in_the_host(hsmbridge_lab: Lab, stack: CryptoStack) -> None:
    slot = new_slot(stack, "softhsm", "HMAC-SHA256", P.SIGN)
    contexts = [stack.mac_context(slot, HMAC) for _ in range(SESSIONS)]
    assert not any(context.buffered for context in contexts)
    assert stack.mac_context(slot, HMAC).buffered, "a token that has no session left is not asked for more"
    os.kill(stack.status().pid, signal.SIGKILL)
    with pytest.raises(ConnectionLost):
        contexts[0].update(b"data")
    assert contexts[1].state is ContextState.ERROR
    hsmbridge_lab.wait_until_available(["softhsm"])
    eventually(lambda: len(streams(stack, slot, SESSIONS)) == SESSIONS, 10)


@pytest.fixture
def hanging() -> Iterator[tuple[Lab, FaultyModule]]:
    """A lab whose token hangs when it is told to."""
    directory = Path(tempfile.mkdtemp(prefix="hb", dir="/tmp"))
    module = FaultyModule.build(directory / "faulty")
    with Lab.start(LabOptions(tpm=False)) as lab:
        lab.stop_daemon()
        lab.config.write_text(lab.config.read_text().replace(str(lab.token.module), str(module.path)))
        lab.start_daemon()
        yield lab, module
    shutil.rmtree(directory)


@pytest.mark.timeout(120)
def test_a_deadline_ends_the_call_in_time_and_the_context_in_error(hanging: tuple[Lab, FaultyModule]) -> None:
    lab, module = hanging
    with lab.stack() as stack:
        slot = new_slot(stack, "softhsm", "EC-P256", P.SIGN)
        stack.sign(slot, ECDSA, b"the key is loaded")
        host = lab.provider("softhsm").pid
        with stack.sign_context(slot, ECDSA, timeout=0.5) as context:
            context.update(b"message")
            module.hang("C_Sign", 60)
            began = time.monotonic()
            with pytest.raises(ProviderError) as failure:
                context.finalize()
            assert failure.value.status is Status.OPERATION_TIMED_OUT
            assert time.monotonic() - began < 0.5 + 0.3
            assert context.state is ContextState.ERROR
            with pytest.raises(ContextError):
                context.reset()
        lab.wait_until_available(["softhsm"], replaced=host)
        eventually(lambda: stack.status().contexts == 0, 1.0)
        with stack.sign_context(slot, ECDSA) as context:
            context.update(b"message")
            context.finalize()


def test_an_independent_implementation_agrees(stack: CryptoStack) -> None:
    key = secrets.token_bytes(32)
    from hsmbridge.client import ImportKeyParams

    params = ImportKeyParams(key_type="HMAC-SHA256", permissions=int(P.SIGN), format="raw")
    with stack.import_key(params, key, provider="softhsm") as guard, stack.mac_context(guard, HMAC) as context:
        context.update(b"some ")
        context.update(b"data")
        assert context.finalize() == hmac.digest(key, b"some data", "sha256")
