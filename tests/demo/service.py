"""Our side of the demonstration: the `hsmbridge` command, run as a user runs it."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HSMBRIDGE = Path(sys.executable).with_name("hsmbridge")


class CommandFailed(Exception):
    """The command ended with another exit status than 0.

    Attributes:
        status: the exit status.
    """

    def __init__(self, arguments: tuple[str | Path, ...], status: int, said: str) -> None:
        super().__init__(f"hsmbridge {' '.join(map(str, arguments[:2]))} (exit status {status}): {said.strip()}")
        self.status = status


class Service:
    """A daemon, reached by the command line."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """`environment` is that of a lab."""
        self._environment = {**os.environ, **environment}

    def run(self, *arguments: str | Path) -> str:
        """Run `hsmbridge` with arguments; answers its stdout. Raises CommandFailed."""
        ended = subprocess.run(
            (HSMBRIDGE, *arguments),
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if ended.returncode != 0:
            raise CommandFailed(arguments, ended.returncode, ended.stderr)
        return ended.stdout

    def refusal(self, *arguments: str | Path) -> CommandFailed:
        """Run it where it has to fail; answers how. Raises AssertionError where it succeeds."""
        try:
            self.run(*arguments)
        except CommandFailed as failure:
            return failure
        raise AssertionError(f"hsmbridge {' '.join(map(str, arguments[:2]))} was not refused")

    def create(self, name: str, provider: str, key_type: str, permissions: str, *options: str) -> None:
        """Make a slot."""
        self.run(
            *("slot", "create", name, "--provider", provider),
            *("--key-type", key_type, "--permissions", permissions, *options),
        )

    def save_public_key(self, slot: str, path: Path) -> Path:
        """Write a slot's public key to a PEM file, which is answered."""
        path.write_text(self.run("slot", "show", slot, "--public-key", "pem"))
        return path

    def calls(self) -> dict[str, int]:
        """How often each provider was called so far."""
        providers: list[dict[str, Any]] = json.loads(self.run("providers", "--json"))
        return {provider["name"]: provider["calls"] for provider in providers}
