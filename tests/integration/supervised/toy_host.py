"""A real provider host over the toy provider. Each start leaves a line in the file that TOY_STARTS names."""

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from hsmbridge.core.secrets import Pin
from hsmbridge.providers.base import Provider
from hsmbridge.providers.host.process import run
from hsmbridge.providers.registry import ProviderSpec
from tests.unit.host.toy_provider import open_toy


def opener(spec: ProviderSpec, pin: Pin | None) -> Provider:
    """The toy, with ways to fail that only a process has."""
    if starts := os.environ.get("TOY_STARTS"):
        with Path(starts).open("a") as file:
            file.write(f"{os.getpid()}\n")
    if spec.uri == "toy:crash":
        os.abort()
    if spec.uri == "toy:hang":
        time.sleep(600)
    return open_toy(spec, pin)


if __name__ == "__main__":
    run(opener=opener)
