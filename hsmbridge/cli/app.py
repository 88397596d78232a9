"""The command line as a whole: which commands there are, and how a run ends.

Every error is one line on stderr (with --json one JSON document) and an exit code of the status table.
"""

import importlib
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NoReturn

import click

from hsmbridge import __version__
from hsmbridge.core.errors import STATUS_TABLE, HsmBridgeError, Status

USAGE_EXIT = 2
INTERRUPTED_EXIT = 130


class LazyGroup(click.Group):
    """A group that imports a command when it is called, or when its help is asked for."""

    def __init__(self, name: str, modules: Mapping[str, str], summary: str) -> None:
        """`modules` names, for each command, the module that has it under the same name, with _ for -."""
        super().__init__(name, help=summary, context_settings={"help_option_names": ["-h", "--help"]})
        self._modules = modules

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the order of the table."""
        return list(self._modules)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """One command, imported now."""
        module = self._modules.get(cmd_name)
        if module is None:
            return None
        found: object = getattr(importlib.import_module(module), cmd_name.replace("-", "_"))
        return found if isinstance(found, click.Command) else None


COMMANDS: Mapping[str, str] = MappingProxyType(
    {
        "serve": "hsmbridge.cli.serve",
        "status": "hsmbridge.cli.service",
        "doctor": "hsmbridge.cli.doctor",
        "providers": "hsmbridge.cli.service",
        "slot": "hsmbridge.cli.slots",
        "sign": "hsmbridge.cli.signatures",
        "verify": "hsmbridge.cli.signatures",
        "mac": "hsmbridge.cli.signatures",
        "encrypt": "hsmbridge.cli.encryption",
        "decrypt": "hsmbridge.cli.encryption",
        "agree": "hsmbridge.cli.derivation",
        "derive": "hsmbridge.cli.derivation",
        "encapsulate": "hsmbridge.cli.encapsulation",
        "decapsulate": "hsmbridge.cli.encapsulation",
        "wrap": "hsmbridge.cli.wrapping",
        "unwrap": "hsmbridge.cli.wrapping",
        "cert": "hsmbridge.cli.certificates",
        "trust": "hsmbridge.cli.trust",
        "crl": "hsmbridge.cli.trust",
        "digest": "hsmbridge.cli.keyless",
        "random": "hsmbridge.cli.keyless",
        "pkcs11": "hsmbridge.cli.pkcs11",
        "ssh-agent": "hsmbridge.cli.ssh_agent",
        "config": "hsmbridge.cli.configuration",
        "lab": "hsmbridge.lab.cli",
    }
)

hsmbridge = LazyGroup("hsmbridge", COMMANDS, "Keys in tokens, TPMs and software, used without holding one.")
hsmbridge = click.version_option(__version__, prog_name="hsmbridge")(hsmbridge)


def run(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command line and exit with its code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    as_json = "--json" in arguments
    code = 0
    try:
        # Not click's own main: it would end a closed pipe with 1, which here says that a signature is not valid.
        with hsmbridge.make_context("hsmbridge", list(arguments)) as context:
            hsmbridge.invoke(context)
        sys.stdout.flush()
    except click.exceptions.Exit as ended:
        code = ended.exit_code
    except HsmBridgeError as problem:
        code = _report(problem, as_json)
    except click.exceptions.NoArgsIsHelpError as problem:
        problem.show()
        code = USAGE_EXIT
    except click.ClickException as problem:
        code = _report_usage(problem, as_json)
    except (click.Abort, KeyboardInterrupt):
        code = INTERRUPTED_EXIT
    except BrokenPipeError:
        # Who read our output has seen enough; without this the interpreter complains when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 128 + signal.SIGPIPE
    sys.exit(code)


def _report(problem: HsmBridgeError, as_json: bool) -> int:
    code = STATUS_TABLE[problem.status].exit_code
    incident = f" (incident {problem.incident})" if problem.incident else ""
    _tell(problem.status, problem.message + incident, problem.message, problem.incident, code, as_json)
    return code


def _report_usage(problem: click.ClickException, as_json: bool) -> int:
    message = problem.format_message()
    command = problem.ctx.command_path if isinstance(problem, click.UsageError) and problem.ctx else "hsmbridge"
    _tell(
        Status.INVALID_ARGUMENT,
        f"{message} See `{command} --help`.",
        message,
        "",
        USAGE_EXIT,
        as_json,
    )
    return USAGE_EXIT


def _tell(status: Status, line: str, message: str, incident: str, code: int, as_json: bool) -> None:
    if as_json:
        document = {
            "status": status.name,
            "code": f"{status:#010x}",
            "message": message,
            "incident": incident,
            "exit_code": code,
        }
        line = json.dumps(document, ensure_ascii=False)
    else:
        line = "hsmbridge: " + " ".join(line.split())
    print(line, file=sys.stderr)
