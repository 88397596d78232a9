"""A client with ten thousand keys and open contexts is killed: all of it is gone at once, and nobody else notices."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from hsmbridge.client import CryptoStack, GenerateKeyParams, KeyOperationPermission
from hsmbridge.core.errors import HsmBridgeError
from hsmbridge.lab.lab import Lab
from tests.faulty_module import FaultyModule

ECDSA = "ECDSA-P256-SHA256"
PROVIDERS = ("software", "softhsm", "tpm")
CONTEXTS = 50
WHOLE = 10_000
SHARE = {"software": 1000, "softhsm": 1000, "tpm": 100}
GONE_WITHIN = 0.25
PAUSE = 0.002
"""Seconds between two calls of a client: the machine is not to be loaded, but to be looked at."""
MARGIN = 8
"""By how much a crowded machine may miss what is promised."""

CLIENT = textwrap.dedent(
    """
    import sys, threading, time
    from hsmbridge.client import CryptoStack, GenerateKeyParams, KeyOperationPermission as P
    socket, provider, keys, contexts = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    stack = CryptoStack(socket, timeout=60)
    params = GenerateKeyParams(key_type="HMAC-SHA256", permissions=int(P.SIGN))
    guards = []
    def generate(count):
        for _ in range(count):
            guards.append(stack.generate_key(params, provider=provider))
    threads = [threading.Thread(target=generate, args=(keys // 4,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    held = []
    for guard in guards[-contexts:]:
        context = stack.mac_context(guard, "HMAC-SHA256")
        context.update(b"data" * 500)
        held.append(context)
    print("ready", len(guards), len(held), flush=True)
    time.sleep(600)
    """
)


@dataclass
class Bystander:
    """Another client, which signs all the time; `took` is when each call began and its seconds."""

    lab: Lab
    slot: str
    stop: threading.Event = field(default_factory=threading.Event)
    took: list[tuple[float, float]] = field(default_factory=list)
    failure: BaseException | None = None

    def run(self) -> None:
        try:
            with CryptoStack(self.lab.socket, lifetime="fixed", timeout=20) as stack:
                signature = b""
                while not self.stop.is_set():
                    began = time.perf_counter()
                    signature = stack.sign(self.slot, ECDSA, b"message")
                    self.took.append((began, time.perf_counter() - began))
                    self.stop.wait(PAUSE)
                stack.verify(self.slot, ECDSA, b"message", signature)
        except BaseException as failure:  # noqa: BLE001 - told by the test, in its own thread
            self.failure = failure

    def longest(self, since: float, until: float) -> float:
        """Of the calls that overlapped a time."""
        return max((took for began, took in self.took if began < until and began + took > since), default=0.0)


@pytest.fixture(scope="module")
def module() -> Iterator[FaultyModule]:
    directory = Path(tempfile.mkdtemp(prefix="hb", dir="/tmp"))
    yield FaultyModule.build(directory / "counting")
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def lab(module: FaultyModule) -> Iterator[Lab]:
    """A lab whose connections may have many keys, and whose token's calls are counted."""
    with Lab.start() as lab:
        lab.stop_daemon()
        text = lab.config.read_text().replace(str(lab.token.module), str(module.path))
        limits = "max_keys = 20000\nmax_keys_per_principal = 100000\nmax_contexts = 5000"
        lab.config.write_text(text.replace("[daemon]", f"[daemon]\n{limits}"))
        lab.start_daemon()
        with lab.stack() as stack:
            for provider in PROVIDERS:
                permissions = KeyOperationPermission.SIGN | KeyOperationPermission.VERIFY
                stack.create_slot(provider, "EC-P256", permissions, providers=[provider])
        yield lab


@pytest.mark.timeout(600)
@pytest.mark.parametrize("keys", [0, pytest.param(WHOLE, marks=pytest.mark.all)])
@pytest.mark.parametrize("provider", PROVIDERS)
def test_what_a_killed_client_had_is_gone_at_once_and_nobody_notices(
    lab: Lab, module: FaultyModule, provider: str, keys: int
) -> None:
    count = keys or SHARE[provider]
    bystanders = [Bystander(lab, slot) for slot in PROVIDERS]
    threads = [threading.Thread(target=bystander.run) for bystander in bystanders]
    command = [sys.executable, "-c", CLIENT, str(lab.socket), provider, str(count), str(CONTEXTS)]
    with lab.stack() as stack, subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as client:
        before = stack.status()
        try:
            assert client.stdout is not None
            assert client.stdout.readline() == f"ready {count} {CONTEXTS}\n"
            there = stack.status()
            assert (there.keys - before.keys, there.contexts - before.contexts) == (count, CONTEXTS)
            calls = provider_calls(stack, provider)
            for thread in threads:
                thread.start()
            while not all(len(bystander.took) > 20 or bystander.failure for bystander in bystanders):
                bystanders[0].stop.wait(0.01)
            token = {name: module.calls(name) for name in ("C_DestroyObject", "C_FindObjectsInit")}
        finally:
            client.send_signal(signal.SIGKILL)
        killed = time.perf_counter()
        while (now := stack.status()).keys > before.keys or now.contexts > before.contexts:
            assert time.perf_counter() - killed < GONE_WITHIN * MARGIN
            bystanders[0].stop.wait(PAUSE)
        gone = time.perf_counter()
        for bystander in bystanders:
            bystander.stop.set()
        for thread in threads:
            thread.join(30)
        assert (now.keys, now.contexts) == (before.keys, before.contexts)
        assert [bystander.failure for bystander in bystanders] == [None] * len(bystanders)
        # One call frees them; none is looked for on the token, nor destroyed by itself. The bystander's own key is
        # found once in each session that signs with it.
        signed = sum(len(bystander.took) for bystander in bystanders if bystander.slot == provider)
        assert provider_calls(stack, provider) - calls <= signed + 3
        assert module.calls("C_DestroyObject") == token["C_DestroyObject"]
        assert module.calls("C_FindObjectsInit") - token["C_FindObjectsInit"] < 10 < count
    longest = {bystander.slot: round(1000 * bystander.longest(killed, gone), 1) for bystander in bystanders}
    usual = {one.slot: round(1000 * one.longest(0.0, killed), 1) for one in bystanders}
    print(f"{count} keys in {provider}: gone after {1000 * (gone - killed):.0f} ms;")
    print(f"the longest signature of others meanwhile {longest} ms, before {usual} ms")


@pytest.mark.timeout(120)
def test_what_a_killed_worker_had_on_the_token_is_gone_with_it(lab: Lab, module: FaultyModule) -> None:
    params = GenerateKeyParams(key_type="HMAC-SHA256", permissions=int(KeyOperationPermission.SIGN))
    with CryptoStack(lab.socket, lifetime="fixed", timeout=20) as stack:
        guards = [stack.generate_key(params, provider="softhsm") for _ in range(20)]
        closed, destroyed = module.calls("C_CloseSession"), module.calls("C_DestroyObject")
        os.kill(stack.status().pid, signal.SIGKILL)
        with pytest.raises(HsmBridgeError):
            guards[0].mac("HMAC-SHA256", b"message")
    deadline = time.monotonic() + 20
    while module.calls("C_CloseSession") == closed:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert module.calls("C_CloseSession") == closed + 1, "one session had them all"
    assert module.calls("C_DestroyObject") == destroyed
    lab.wait_until_available()


def provider_calls(stack: CryptoStack, provider: str) -> int:
    """Calls that the provider had."""
    return next(info.calls for info in stack.providers() if info.name == provider)
