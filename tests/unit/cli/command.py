"""Runs the command line in this process, with its own stdin, stdout and stderr."""

import contextlib
import io
import json
import sys
from dataclasses import dataclass
from typing import Any

from hsmbridge.cli.app import run


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended."""

    code: int
    stdout: bytes
    stderr: str

    @property
    def text(self) -> str:
        return self.stdout.decode()

    @property
    def json(self) -> Any:  # a JSON document, for a test to look into
        return json.loads(self.stdout)

    @property
    def problem(self) -> Any:  # likewise
        return json.loads(self.stderr)


def hsmbridge(*arguments: object, stdin: bytes = b"") -> Ended:
    """Run `hsmbridge ARGUMENTS`."""
    code: object = 0
    stdout, stderr = io.TextIOWrapper(io.BytesIO()), io.StringIO()
    before = sys.stdin
    sys.stdin = io.TextIOWrapper(io.BytesIO(stdin))
    try:
        with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
            run([str(argument) for argument in arguments])
    except SystemExit as ended:
        code = ended.code
    finally:
        sys.stdin = before
    stdout.flush()
    buffer = stdout.buffer
    assert isinstance(buffer, io.BytesIO)
    return Ended(code if isinstance(code, int) else 0, buffer.getvalue(), stderr.getvalue())
