"""Servers of others for the tests: started on a port that is free, waited for by what they say, and ended."""

import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def wait_until_it_says(ready: str, stream: IO[str] | None, command: Sequence[str]) -> None:
    """Read what a server writes until `ready` is in it."""
    assert stream is not None
    said = []
    for line in stream:
        said.append(line)
        if ready in line:
            return
    raise AssertionError(f"{command[0]} did not start: {''.join(said)}")


@contextmanager
def serving(command: list[str], ready: str, cwd: Path, environment: Mapping[str, str]) -> Iterator[None]:
    """A server from the moment that it says `ready`."""
    server = subprocess.Popen(
        command,
        cwd=cwd,
        env=dict(environment),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        wait_until_it_says(ready, server.stdout, command)
        yield
    finally:
        server.kill()
        server.communicate()
