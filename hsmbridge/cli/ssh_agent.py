"""`ssh-agent`: lead `ssh`, `git` and whatever else asks an SSH agent here."""

import shlex
from typing import Final

import click

from hsmbridge.cli.configuration import config_option
from hsmbridge.cli.options import json_option
from hsmbridge.cli.output import print_json, print_line
from hsmbridge.config import load_config
from hsmbridge.core.errors import RequestError, Status

SOCKET_VARIABLE: Final = "SSH_AUTH_SOCK"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def ssh_agent() -> None:
    """Lead ssh, git and others to the daemon, which is their SSH agent."""


@ssh_agent.command()
@config_option
@json_option
def env(config_file: str | None, as_json: bool) -> None:
    """Print what a shell needs: eval "$(hsmbridge ssh-agent env)"."""
    found = load_config(config_file)
    if found.frontends.ssh_agent is None:
        raise RequestError(
            Status.INVALID_CONFIGURATION,
            "The configuration has no SSH agent; add a section [frontends.ssh_agent] and restart the daemon.",
        )
    socket = str(found.ssh_agent_socket.absolute())
    if as_json:
        print_json({"socket": socket})
    else:
        print_line(f"export {SOCKET_VARIABLE}={shlex.quote(socket)}")
