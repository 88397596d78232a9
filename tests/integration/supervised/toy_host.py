"""A real provider host over the toy provider.

Each start leaves a line in the file that TOY_STARTS names. It waits for a writer of the FIFO TOY_OPEN_GATE before it
opens the provider, and of TOY_END_GATE before it ends after a failure.
"""

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from hsmbridge.core.secrets import Pin
from hsmbridge.providers.base import Provider
from hsmbridge.providers.host.process import main
from hsmbridge.providers.registry import ProviderSpec
from tests.unit.host.toy_provider import open_toy


def wait_at(gate: str) -> None:
    if path := os.environ.get(gate):
        Path(path).read_bytes()


def opener(spec: ProviderSpec, pin: Pin | None) -> Provider:
    """The toy, with ways to fail that only a process has."""
    if starts := os.environ.get("TOY_STARTS"):
        with Path(starts).open("a") as file:
            file.write(f"{os.getpid()}\n")
    wait_at("TOY_OPEN_GATE")
    if spec.uri == "toy:crash":
        os.abort()
    if spec.uri == "toy:hang":
        time.sleep(600)
    return open_toy(spec, pin)


if __name__ == "__main__":
    status = main(opener=opener)
    if status:
        wait_at("TOY_END_GATE")
    os._exit(status)
