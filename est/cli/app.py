"""The command line `est` as a whole: its commands, and how a run ends.

Every error is one line on stderr (with --json one JSON document) and an exit code of the status table; a request that
waits for approval ends with 75, which shells know as "try again later".
"""

import json
import logging
import sys
from collections.abc import Sequence
from typing import NoReturn

import click
import structlog

from est import refusals
from est.cli.authority import ca
from est.cli.certificates import enroll, rekey, renew, serverkeygen
from est.cli.information import bootstrap, cacerts, csrattrs
from est.cli.lab import lab
from est.cli.renewal import control, service, status
from est.cli.serving import serve
from hsmbridge.core.errors import STATUS_TABLE, HsmBridgeError

USAGE_EXIT = 2
INTERRUPTED_EXIT = 130


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def est() -> None:
    """Certificates over EST (RFC 7030)."""


for _command in (
    bootstrap,
    cacerts,
    csrattrs,
    enroll,
    renew,
    rekey,
    serverkeygen,
    status,
    serve,
    service,
    control,
    ca,
    lab,
):
    est.add_command(_command)


def run(arguments: Sequence[str]) -> int:
    """Run one command; the exit code."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    try:
        result = est.main(args=list(arguments), prog_name="est", standalone_mode=False)
    except HsmBridgeError as problem:
        return _failed(problem, as_json="--json" in arguments)
    except OSError as problem:
        named = f"{problem.filename}: " if problem.filename else ""
        return _failed(refusals.unwanted(f"{named}{problem.strerror or problem}"), as_json="--json" in arguments)
    except click.exceptions.Abort:
        return INTERRUPTED_EXIT
    except click.ClickException as problem:
        problem.show()
        return USAGE_EXIT
    return result if isinstance(result, int) else 0


def _failed(problem: HsmBridgeError, *, as_json: bool) -> int:
    if as_json:
        document = {"error": {"status": problem.status.name, "message": problem.message}}
        click.echo(json.dumps(document, ensure_ascii=False), err=True)
    else:
        shown = "".join(one if one.isprintable() else " " for one in problem.message)
        click.echo(f"est: {shown}", err=True)
    return STATUS_TABLE[problem.status].exit_code


def main() -> NoReturn:
    """The entry point."""
    sys.exit(run(sys.argv[1:]))
