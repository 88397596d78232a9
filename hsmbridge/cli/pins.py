"""`pkcs11 pin`: the PINs that PKCS#11 applications have set, and what becomes of a forgotten one."""

import click

from hsmbridge.cli.options import Client, client_options
from hsmbridge.cli.output import Json, print_json, print_line, print_table, timestamp
from hsmbridge.cli.principals import principal_of
from hsmbridge.client import PinInfo, PinTries
from hsmbridge.core.errors import ResourceError, Status


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def pin() -> None:
    """List and reset the PINs that PKCS#11 applications have set."""


@pin.command(name="list")
@client_options
def list_(client: Client) -> None:
    """List PINs: everybody's for root and the user of the daemon, for others their own."""
    with client.stack() as stack:
        found = stack.pins()
    if client.as_json:
        print_json([_document(one) for one in found])
        return
    print_table(
        ("PRINCIPAL", "TOKEN", "LABEL", "INITIALISED", "SO PIN", "USER PIN"),
        [
            (
                one.principal,
                one.token,
                one.label,
                timestamp(one.initialized) if one.initialized else "no",
                _shown(one.so),
                _shown(one.user),
            )
            for one in found
        ],
    )


@pin.command()
@click.argument("principal")
@click.argument("token")
@client_options
def reset(client: Client, principal: str, token: str) -> None:
    """Forget the PINs of PRINCIPAL (uid:N, or a user's name) for TOKEN (a provider, or * where one stands for all).

    The token is then as if never initialised for that user, who initialises it again; no key is lost. For root and the
    user of the daemon only.
    """
    whose = principal_of(principal)
    with client.stack() as stack:
        if not stack.reset_pins(whose, token):
            raise ResourceError(
                Status.RESOURCE_NOT_FOUND,
                f"{whose} has no PINs for token {token}; `hsmbridge pkcs11 pin list` shows who has.",
            )
    if client.as_json:
        print_json({"principal": whose, "token": token})
    else:
        print_line(f"{token}: not initialised any more for {whose}")


def _shown(tries: PinTries) -> str:
    if tries.locked_until:
        return f"locked until {timestamp(tries.locked_until)}"
    state = "set" if tries.is_set else "not set"
    return f"{state}, {tries.wrong} wrong" if tries.wrong else state


def _document(one: PinInfo) -> Json:
    return {
        "principal": one.principal,
        "token": one.token,
        "label": one.label,
        "initialized": timestamp(one.initialized) if one.initialized else None,
        "so_pin": _tries(one.so),
        "user_pin": _tries(one.user),
    }


def _tries(tries: PinTries) -> Json:
    return {
        "set": tries.is_set,
        "wrong": tries.wrong,
        "left": tries.left,
        "locked_until": timestamp(tries.locked_until) if tries.locked_until else None,
    }
