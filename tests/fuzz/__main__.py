"""python -m tests.fuzz TARGET [--runs N] [--seed N] [--corpus FOLDER] [--found FOLDER] [--reproduce FILE]

Runs one target in this process, guided by coverage where atheris is installed. What is found is written to a file
in --found; --reproduce reads such a file again, without the fuzzer, for a debugger or a traceback.
"""

import argparse
import importlib
import random
import resource
import sys
import tempfile
import warnings
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from tests.fuzz.targets import TARGETS

if TYPE_CHECKING:
    from tests.fuzz.target import Target

ROOM = 128 << 20
"""Bytes of memory that reading, and the fuzzer's own corpus, may take beside what is there at the beginning."""

PATIENCE = 600
"""Seconds after which an input that is still being read is a finding; this process may be held up that long."""


def main() -> None:
    """Run as the arguments say; libFuzzer ends the process itself."""
    arguments = _arguments()
    fuzzer = None if arguments.reproduce else _fuzzer()
    target = _target(arguments.target, fuzzer)
    # The libraries warn of much that is odd in what they read; here everything is.
    warnings.simplefilter("ignore")
    for seed in target.seeds():
        assert len(seed) <= target.longest
        target.readers[seed[0]].read(seed[1:])
    if arguments.reproduce:
        target.run(arguments.reproduce.read_bytes())
        return
    fuzz(target, fuzzer, arguments)


def fuzz(target: "Target", fuzzer: ModuleType | None, arguments: argparse.Namespace) -> None:
    """Run a target in this process, whose memory is limited for good."""
    _limit_memory()
    if fuzzer is None:
        _blind(target, arguments)
    else:
        _guided(fuzzer, target, arguments)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz what reads messages of others.")
    parser.add_argument("target", choices=sorted(TARGETS))
    parser.add_argument("--runs", type=int, default=-1, help="how many inputs; without it, until it is interrupted")
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers; 0 takes another one each time")
    parser.add_argument("--corpus", type=Path, help="a folder in which interesting inputs are kept for the next time")
    parser.add_argument("--found", type=Path, default=Path(), help="the folder for what was found (default: this one)")
    parser.add_argument("--reproduce", type=Path, metavar="FILE", help="read one input and end")
    return parser.parse_args()


def _fuzzer() -> ModuleType | None:
    try:
        return importlib.import_module("atheris")
    except ImportError:
        return None


def _target(name: str, fuzzer: ModuleType | None) -> "Target":
    # Instrumentation takes place while a module is imported, so nothing of these packages may be here yet.
    if fuzzer is None:
        module = importlib.import_module(f"tests.fuzz.{name}")
    else:
        with fuzzer.instrument_imports(include=list(TARGETS[name].instrumented)):
            module = importlib.import_module(f"tests.fuzz.{name}")
    target: Target = module.TARGET
    return target


def _limit_memory() -> None:
    status = Path("/proc/self/status").read_text()
    used = next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmData:"))
    resource.setrlimit(resource.RLIMIT_DATA, (used + ROOM, used + ROOM))


def _guided(fuzzer: ModuleType, target: "Target", arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="hbfuzz") as folder:
        for number, seed in enumerate(target.seeds()):
            Path(folder, str(number)).write_bytes(seed)
        folders = [str(arguments.corpus)] if arguments.corpus else []
        options = {
            "runs": arguments.runs,
            "seed": arguments.seed,
            "max_len": target.longest,
            "timeout": PATIENCE,
            "report_slow_units": PATIENCE,
            "rss_limit_mb": 0,
            "artifact_prefix": f"{arguments.found}/",
            "print_final_stats": 1,
            "reload": 0,
        }
        command = [sys.argv[0], *(f"-{name}={value}" for name, value in options.items()), *folders, folder]
        fuzzer.Setup(command, target.run)
        fuzzer.Fuzz()


def _blind(target: "Target", arguments: argparse.Namespace) -> None:
    """Without a fuzzer: seeds, changed at random."""
    choice = random.Random(arguments.seed or None)
    seeds = target.seeds()
    run = 0
    while run != arguments.runs:
        run += 1
        data = _changed(choice, choice.choice(seeds))[: target.longest]
        try:
            target.run(data)
        except BaseException:
            found = arguments.found / f"crash-{run}"
            found.write_bytes(data)
            sys.stderr.write(f"the input is in {found}\n")
            raise
    sys.stderr.write(f"stat::number_of_executed_units: {run}\n")


def _changed(choice: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(choice.randint(1, 4)):
        place = choice.randrange(len(changed) + 1)
        match choice.randrange(4):
            case 0:
                del changed[place : place + choice.randint(1, 8)]
            case 1:
                changed[place:place] = choice.randbytes(choice.randint(1, 8))
            case 2:
                changed[place : place + 4] = choice.choice((b"\xff\xff\xff\xff", bytes(4), b"\x7f\xff\xff\xff"))
            case _:
                changed[place : place + 1] = choice.randbytes(1)
    return bytes(changed)


if __name__ == "__main__":
    main()
