"""The commands grant and ungrant of `cert`, `trust` and `crl`."""

import click

from hsmbridge.cli.certificate_output import print_access
from hsmbridge.cli.options import Client, client_options
from hsmbridge.cli.output import Json, print_json
from hsmbridge.cli.principals import principal_of
from hsmbridge.client import AccessInfo, ResourceKind, Role


def access_commands(kind: ResourceKind) -> tuple[click.Command, click.Command]:
    """Both commands for one kind."""

    @click.command()
    @click.argument("name")
    @click.argument("principal")
    @click.option(
        "--role",
        type=click.Choice([role.value for role in Role]),
        default=Role.USE.value,
        show_default=True,
        help="Who administers may also change and remove it, grant and ungrant.",
    )
    @client_options
    def grant(client: Client, name: str, principal: str, role: str) -> None:
        """Let PRINCIPAL (uid:N, or the name of a user) use it."""
        with client.stack() as stack:
            _print(client, name, stack.grant_certificate(name, principal_of(principal), role=Role(role), kind=kind))

    @click.command()
    @click.argument("name")
    @click.argument("principal")
    @client_options
    def ungrant(client: Client, name: str, principal: str) -> None:
        """Take PRINCIPAL off its access list."""
        with client.stack() as stack:
            _print(client, name, stack.ungrant_certificate(name, principal_of(principal), kind=kind))

    return grant, ungrant


def _print(client: Client, name: str, access: list[AccessInfo]) -> None:
    if client.as_json:
        entries: list[Json] = [{"principal": entry.principal, "role": entry.role.value} for entry in access]
        print_json({"name": name, "access": entries})
    else:
        print_access(access)
