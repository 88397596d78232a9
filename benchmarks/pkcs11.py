"""PKCS#11 through the daemon against Debian's `p11-kit server` over SoftHSM, by the same small C program.

Both sides are reached by the same module, p11-kit-client.so; the C program is compiled when the suite begins.
"""

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pkcs11
from pkcs11.util.ec import encode_named_curve_parameters

from benchmarks.core import Choice
from benchmarks.measure import Contender, Result, compare
from hsmbridge.client import KeyOperationPermission
from hsmbridge.lab.lab import Lab
from hsmbridge.lab.options import LabOptions
from hsmbridge.lab.rigs import SoftHsmToken
from hsmbridge.providers.pkcs11.initialise import open_module

SUITE = "pkcs11"
MODULE = "/usr/lib/x86_64-linux-gnu/pkcs11/p11-kit-client.so"
KEYS = 1_000
"""Keys of the token and the store that are searched."""
CLIENTS = 4
_TURN = 0.5
TURNS = 12
"""Of each side."""
_USE = KeyOperationPermission.SIGN | KeyOperationPermission.VERIFY


def run(only: str, turns: int) -> Iterator[Result]:
    """Every case whose name contains `only`, with so many turns of each side."""
    choice = Choice(only, turns)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hb", dir="/tmp")))
        program = folder / "client"
        source = Path(__file__).with_name("pkcs11_client.c")
        subprocess.run(["gcc", "-O2", "-w", str(source), "-o", str(program), "-ldl"], check=True, timeout=60)
        lab, token_lab = stack.enter_context(_lab(workers=2)), stack.enter_context(_lab(workers=1))
        token = SoftHsmToken.make(folder / "token", "direct")
        keys = KEYS if _SEARCH in choice else 1
        _fill(token, keys)
        with lab.stack() as client:
            for number in range(keys):
                client.create_slot(f"key-{number}", "EC-P256", _USE, providers=["software"])
        with token_lab.stack() as client:
            client.create_slot("token-key", "EC-P256", _USE, providers=["softhsm"])
        ours = _Side(program, MODULE, _address(lab.runtime_directory / "p11kit.sock"), "software", "-", "key-0")
        there = _address(token_lab.runtime_directory / "p11kit.sock")
        held = _Side(program, MODULE, there, "softhsm", "-", "token-key")
        pin = token.pin_file.read_text().strip()
        served = stack.enter_context(_p11_kit_server(token, folder / "p11-kit.sock"))
        theirs = _Side(program, MODULE, served, token.label, pin, "key-0")
        direct = _Side(program, str(token.module), token.environment, token.label, pin, "key-0")
        yield from _signatures(choice, ours, held, theirs)
        yield from _others(choice, ours, theirs, direct)


_SEARCH = f"search by label among {KEYS:,} keys"


def _signatures(choice: Choice, ours: "_Side", held: "_Side", theirs: "_Side") -> Iterator[Result]:
    for side, name, targets in ((ours, "software", (1.1, 1.0)), (held, "SoftHSM", (0.5, 0.5))):
        for clients, target in zip((1, CLIENTS), targets, strict=True):
            case = f"P-256, {name} key, {clients} client{'s' if clients > 1 else ''}"
            if case in choice:
                with side.clients(clients, "sign") as mine, theirs.clients(clients, "sign") as other:
                    yield compare(
                        SUITE, case, mine, other, against_name="p11_kit", target=target, turns=choice.turns, turn=_TURN
                    )


def _others(choice: Choice, ours: "_Side", theirs: "_Side", direct: "_Side") -> Iterator[Result]:
    case = "connect, open, close"
    if case in choice:
        with ours.clients(1, "connect") as mine, theirs.clients(1, "connect") as other:
            yield compare(SUITE, case, mine, other, against_name="p11_kit", target=20, turns=choice.turns, turn=_TURN)
    if _SEARCH in choice:
        with ours.clients(1, "find") as mine, direct.clients(1, "find") as other:
            yield compare(
                SUITE, _SEARCH, mine, other, against_name="softhsm", target=50, turns=choice.turns, turn=_TURN
            )


class _Side:
    """The C program against one module, token and key."""

    def __init__(
        self, program: Path, module: str, environment: Mapping[str, str], token: str, pin: str, label: str
    ) -> None:
        self.environment = environment
        self._command = [str(program), module, token, pin, label]

    @contextmanager
    def clients(self, count: int, what: str) -> Iterator[Contender]:
        """So many processes at once, as one contender."""
        processes: list[subprocess.Popen[str]] = []
        try:
            for _ in range(count):
                process = subprocess.Popen(
                    self._command,
                    env={**os.environ, **self.environment},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    bufsize=1,
                )
                processes.append(process)
                # p11-kit server takes one after the other.
                _line(process)
            yield lambda seconds: _together(processes, what, seconds)
        finally:
            for process in processes:
                process.kill()
                process.communicate()


def _line(process: "subprocess.Popen[str]") -> str:
    line = process.stdout.readline() if process.stdout is not None else ""
    if not line:
        raise RuntimeError("the C program ended; its message is above")
    return line


def _together(processes: "list[subprocess.Popen[str]]", what: str, seconds: float) -> float:
    for process in processes:
        if process.stdin is not None:
            process.stdin.write(f"{what} {seconds}\n")
    return sum(float(_line(process)) for process in processes)


def _address(path: Path) -> Mapping[str, str]:
    return {"P11_KIT_SERVER_ADDRESS": f"unix:path={path}"}


@contextmanager
def _lab(workers: int) -> Iterator[Lab]:
    # SoftHSM computes in the module: on two processors one thread there leaves the other to daemon and clients.
    threads = max(1, len(os.sched_getaffinity(0)) // 2)
    with Lab.start(LabOptions(workers=workers, tpm=False, threads=threads, spread=True)) as lab:
        with lab.config.open("a") as file:
            file.write("\n[frontends.p11kit]\n")
        lab.restart_daemon()
        yield lab


def _fill(token: SoftHsmToken, keys: int) -> None:
    os.environ.update(token.environment)
    opened = open_module(str(token.module)).library.get_token(token_label=token.label)
    with opened.open(rw=True, user_pin=token.pin_file.read_text()) as session:
        curve = {pkcs11.Attribute.EC_PARAMS: encode_named_curve_parameters("secp256r1")}
        parameters = session.create_domain_parameters(pkcs11.KeyType.EC, curve, local=True)
        for number in range(keys):
            parameters.generate_keypair(store=True, label=f"key-{number}")


@contextmanager
def _p11_kit_server(token: SoftHsmToken, path: Path) -> Iterator[Mapping[str, str]]:
    server = subprocess.Popen(
        ["p11-kit", "server", "-f", "--provider", str(token.module), "-n", str(path), f"pkcs11:token={token.label}"],
        env={**os.environ, **token.environment},
        stdout=subprocess.DEVNULL,
    )
    try:
        for _ in range(100):
            if path.exists():
                break
            time.sleep(0.05)
        yield _address(path)
    finally:
        server.terminate()
        server.wait()
