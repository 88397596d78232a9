"""`ssh-agent`: lead `ssh`, `git` and whatever else asks an SSH agent here, and give it certificates."""

import shlex
from typing import Final

import click

from hsmbridge.cli.configuration import config_option
from hsmbridge.cli.files import read_small
from hsmbridge.cli.options import Client, client_options, json_option
from hsmbridge.cli.output import print_json, print_line, timestamp
from hsmbridge.cli.slot_output import public_key_of
from hsmbridge.config import load_config
from hsmbridge.core.errors import RequestError, Status
from hsmbridge.frontends.ssh_agent.algorithms import public_key_blob
from hsmbridge.frontends.ssh_agent.certificates import ATTRIBUTE, UserCertificate, read_line

SOCKET_VARIABLE: Final = "SSH_AUTH_SOCK"
_CALENDAR_END: Final = 253_402_300_799
"""The last second of the year 9999; certificates without an end have 2**64 - 1."""


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


@ssh_agent.command()
@click.argument("name")
@click.argument("file", required=False)
@click.option("--remove", is_flag=True, help="Take the slot's certificate away.")
@client_options
def certificate(client: Client, name: str, file: str | None, remove: bool) -> None:
    """Offer the certificate in FILE, such as id-cert.pub, beside the key of slot NAME.

    It is an OpenSSH user certificate of that key. One that is there is replaced.
    """
    if (file is None) is not remove:
        raise RequestError(Status.INVALID_ARGUMENT, "Give a file with a certificate, or --remove.")
    with client.stack() as stack:
        if file is None:
            stack.set_slot_attributes(name, {ATTRIBUTE: b""})
            print_json({"name": name}) if client.as_json else print_line(f"{name}: no certificate")
            return
        try:
            found = read_line(read_small(file))
        except ValueError as problem:
            raise RequestError(
                Status.INVALID_ARGUMENT, f"{file} is no OpenSSH user certificate that can be used: {problem}."
            ) from None
        slot = stack.show_slot(name)
        if public_key_blob(public_key_of(slot, None)) != found.key:
            raise RequestError(
                Status.INVALID_ARGUMENT,
                f"{file} is for another key than the active one of slot {slot.name}; have that one certified:"
                " ssh-add -L tells it.",
            )
        stack.set_slot_attributes(name, {ATTRIBUTE: found.blob})
    _print_certificate(client, slot.name, found)


def _print_certificate(client: Client, name: str, found: UserCertificate) -> None:
    until = None if found.valid_before > _CALENDAR_END else timestamp(found.valid_before)
    if client.as_json:
        print_json(
            {
                "name": name,
                "key_id": found.key_id,
                "serial": found.serial,
                "principals": list(found.principals),
                "valid_until": until,
            }
        )
        return
    accounts = ", ".join(found.principals) or "every account"
    end = "without end" if until is None else f"until {until}"
    print_line(f"{name}: certificate {found.key_id!r} for {accounts}, valid {end}")
