"""The command `est` as a user runs it, for tests."""

import io
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from cryptography import x509

from est.cli.app import run
from est.trust.fingerprint import fingerprint

PASSWORD = "first enrolment only"


def est(*arguments: str | Path, expect: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "est.cli", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == expect, done.stderr
    return done


def est_here(*arguments: str | Path, expect: int = 0) -> subprocess.CompletedProcess[str]:
    """The same within this process, where a process for each of many commands would take long."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = run([str(one) for one in arguments])
    assert code == expect, err.getvalue()
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


class Server:
    """`est serve` as a process."""

    def __init__(self, folder: Path, *more: str | Path) -> None:
        command = [sys.executable, "-m", "est.cli", "serve", str(folder), "--host", "127.0.0.1", "--port", "0"]
        command += map(str, more)
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self.process.stdout is not None
        self.address = f"localhost:{int(self.process.stdout.readline().split()[-1])}"

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(20)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


def root_fingerprint(folder: Path) -> str:
    return fingerprint(x509.load_pem_x509_certificate((folder / "ca" / "root.pem").read_bytes()))
