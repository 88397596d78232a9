"""`hsmbridge lab`: a lab from the command line, in the manner of ssh-agent.

    eval "$(hsmbridge lab up)"
    hsmbridge slot create web --provider tpm --key-type EC-P256 --permissions sign,verify
    eval "$(hsmbridge lab down)"

What a shell evaluates goes to stdout and everything else to stderr. The environment holds paths, and never a PIN.
"""

import os
import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import click

from hsmbridge.cli.options import json_option
from hsmbridge.cli.output import Json, print_json, print_line, print_table
from hsmbridge.core.errors import HsmBridgeError, ResourceError, Status
from hsmbridge.lab.lab import START_TIMEOUT, Lab, LabUnusable
from hsmbridge.lab.options import LabFrontEnd, LabOptions
from hsmbridge.lab.places import LAB_VARIABLE, current, labs
from hsmbridge.providers.registry import Isolation

_which = click.argument("directory", required=False, type=click.Path(path_type=Path))


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def lab() -> None:
    """A SoftHSM token, a simulated TPM and a daemon over them, to try things and to test."""


@lab.command()
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1), help="Daemon processes.")
@click.option(
    "--dir", "directory", type=click.Path(path_type=Path), help="Where; a folder that is empty or not there yet."
)
@click.option("--without-tpm", is_flag=True, help="Leave the TPM out, and with it the need for swtpm.")
@click.option(
    "--isolation",
    default=Isolation.PROCESS.value,
    show_default=True,
    type=click.Choice([isolation.value for isolation in Isolation]),
    help="Where the token and the TPM are served: in host processes of their own or on threads of the daemon.",
)
@click.option(
    "--frontend",
    "frontends",
    multiple=True,
    type=click.Choice([one.value.replace("_", "-") for one in LabFrontEnd]),
    help="Listen for PKCS#11 applications (p11kit) or SSH (ssh-agent) too; may be given for both.",
)
@click.option(
    "--timeout", default=START_TIMEOUT, show_default=True, type=click.FloatRange(1), help="Seconds to wait for it."
)
@json_option
def up(
    workers: int,
    directory: Path | None,
    without_tpm: bool,
    isolation: str,
    frontends: tuple[str, ...],
    timeout: float,
    as_json: bool,
) -> None:
    """Start a lab and print its environment: eval "$(hsmbridge lab up)"."""
    started = time.monotonic()
    try:
        options = LabOptions(
            workers=workers,
            isolation=Isolation(isolation),
            tpm=not without_tpm,
            frontends=tuple(LabFrontEnd(name.replace("-", "_")) for name in frontends),
        )
        made = Lab.start(options, directory, timeout=timeout)
    except HsmBridgeError as failure:
        if not as_json:
            # A script that evaluates nothing would go on, and with another daemon than it means to.
            print_line("false")
            if isinstance(failure, LabUnusable) and failure.log:
                click.echo(f"The daemon's log ends with:\n{failure.log}", err=True)
        raise
    seconds = time.monotonic() - started
    if as_json:
        print_json(_described(made))
        return
    _print_environment(made.environment)
    _say(f"lab in {made.directory}: {', '.join(made.providers)} available after {seconds:.1f} s; log in {made.log}")
    _say('end it with: eval "$(hsmbridge lab down)"')
    before = current()
    if before is not None and before != made.directory and before in labs():
        _say(f"the lab in {before}, which the environment named before, still runs")


@lab.command()
@_which
@json_option
def env(directory: Path | None, as_json: bool) -> None:
    """Print the environment of a lab (default $HSMBRIDGE_LAB), for another shell to evaluate."""
    found = Lab.at(_chosen(directory))
    if as_json:
        print_json(_described(found))
    else:
        _print_environment(found.environment)


@lab.command()
@_which
@json_option
def down(directory: Path | None, as_json: bool) -> None:
    """End a lab (default $HSMBRIDGE_LAB) and remove its folder: eval "$(hsmbridge lab down)"."""
    found = Lab.at(_chosen(directory))
    found.down()
    if as_json:
        print_json({"directory": str(found.directory), "removed": True})
        return
    if os.environ.get(LAB_VARIABLE) == str(found.directory):
        print_line(f"unset {' '.join(found.environment)}")
    _say(f"lab in {found.directory}: removed")


@lab.command(name="list")
@json_option
def list_(as_json: bool) -> None:
    """List your labs; one that was given a folder of its own (--dir) is found by it alone."""
    found = [Lab.at(directory) for directory in labs()]
    if as_json:
        print_json([_described(each) for each in found])
        return
    if not found:
        _say('no lab; start one with: eval "$(hsmbridge lab up)"')
        return
    print_table(("DIRECTORY", "STATE", "PROVIDERS", "NOTE"), [_row(each) for each in found])


def _row(found: Lab) -> tuple[str, ...]:
    note = "this shell's" if current() == found.directory else ""
    return (str(found.directory), "running" if found.running else "stopped", ", ".join(found.providers), note)


def _described(found: Lab) -> dict[str, Json]:
    return {
        "directory": str(found.directory),
        "running": found.running,
        "providers": list(found.providers),
        "workers": found.options.workers,
        "isolation": found.options.isolation.value,
        "log": str(found.log),
        "environment": dict(found.environment),
    }


def _print_environment(environment: Mapping[str, str]) -> None:
    for name, value in environment.items():
        click.echo(f"export {name}={shlex.quote(value)}")
    if sys.stdout.isatty():
        _say('to use it in a shell: eval "$(hsmbridge lab env DIRECTORY)"')


def _chosen(directory: Path | None) -> Path:
    chosen = directory or current()
    if chosen is None:
        raise ResourceError(
            Status.RESOURCE_NOT_FOUND,
            f"Which lab? ${LAB_VARIABLE} is not set; `hsmbridge lab list` shows the labs there are.",
        )
    return chosen


def _say(sentence: str) -> None:
    click.echo(f"lab: {sentence}", err=True)
