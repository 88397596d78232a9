"""`./dev demo`: a lab, and on each of its providers what the service is for, checked by the `openssl` command.

Progress goes to stderr, the table to stdout; the exit status is 1 if any row failed.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hsmbridge.core.errors import HsmBridgeError
from hsmbridge.lab.lab import Lab
from hsmbridge.lab.options import LabOptions
from tests.demo import openssl
from tests.demo.rows import ROWS, Stage, same_slots_work
from tests.demo.service import CommandFailed, Service

FILE = Path(__file__).resolve().parents[2] / "LICENSE"
_FAILURES = (AssertionError, CommandFailed, HsmBridgeError, OSError, openssl.OpensslFailed)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; `problem` is "" where it went well. Seconds."""

    provider: str
    what: str
    proof: str
    problem: str
    seconds: float


class Demonstration:
    """Runs rows and keeps what became of them."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        """`folder` is for the files of the rows."""
        self.lab = lab
        self.rows: list[Row] = []
        service = Service(lab.environment)
        self.stages = {}
        for provider in lab.providers:
            (folder / provider).mkdir()
            self.stages[provider] = Stage(lab, service, provider, folder / provider, FILE)

    def show(self, provider: str, what: str, action: Callable[[], str]) -> None:
        """Do one row. A failure is a row too; the next ones still run."""
        started = time.monotonic()
        proof = problem = ""
        try:
            proof = action()
        except _FAILURES as failure:
            problem = str(failure)
        row = Row(provider, what, proof, problem, time.monotonic() - started)
        self.rows.append(row)
        print(f"demo: {provider}: {what}: {row.problem or 'ok'}", file=sys.stderr)

    def show_all(self) -> None:
        """Every row on every provider, then the crashes."""
        for provider, stage in self.stages.items():
            for what, row in ROWS:
                self.show(provider, what, partial(row, stage))
        self.show("all", "kill -9 of the daemon, start", self._without_daemon)
        for provider in ("softhsm", "tpm"):
            self.show(provider, "kill -9 of its host process", partial(self._without_host, provider))
        self.show("tpm", "kill -9 of swtpm, start", self._without_tpm)

    def _without_daemon(self) -> str:
        self.lab.kill_daemon()
        self.lab.start_daemon()
        return self._same_slots(*self.stages)

    def _without_host(self, provider: str) -> str:
        killed = self.lab.kill_host(provider)
        self.lab.wait_until_available([provider], replaced=killed)
        return self._same_slots(provider)

    def _without_tpm(self) -> str:
        self.lab.kill_tpm()
        self.lab.restart_tpm()
        return self._same_slots("tpm")

    def _same_slots(self, *providers: str) -> str:
        for provider in providers:
            same_slots_work(self.stages[provider])
        return "the same slots sign (openssl) and decrypt"


def table(rows: list[Row], seconds: float) -> Table:
    """The rows for a person to read."""
    shown = Table(title=f"hsmbridge over all its providers, against {openssl.version()}", title_justify="left")
    for column in ("", "provider", "what", "verified by"):
        shown.add_column(column)
    shown.add_column("seconds", justify="right")
    for number, row in enumerate(rows, 1):
        proof = f"[red]FAILED[/] {escape(row.problem)}" if row.problem else row.proof
        shown.add_row(str(number), row.provider, row.what, proof, f"{row.seconds:.2f}")
    failed = sum(bool(row.problem) for row in rows)
    shown.caption = (
        f"{len(rows) - failed} rows went well, {failed} failed, in {seconds:.1f} s;"
        " each row starts `hsmbridge` and `openssl` several times"
    )
    return shown


def main() -> int:
    """Run the demonstration. Answers the exit status."""
    console = Console(width=None if sys.stdout.isatty() else 140)
    started = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="hb-demo-") as folder, Lab.start(LabOptions(workers=2)) as lab:
            print(f"demo: lab in {lab.directory} after {time.monotonic() - started:.1f} s", file=sys.stderr)
            demonstration = Demonstration(lab, Path(folder))
            demonstration.show_all()
    except HsmBridgeError as failure:
        print(f"demo: {failure.message}", file=sys.stderr)
        return 1
    console.print(table(demonstration.rows, time.monotonic() - started))
    return 1 if any(row.problem for row in demonstration.rows) else 0


if __name__ == "__main__":
    sys.exit(main())
