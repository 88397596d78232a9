"""`encapsulate` and `decapsulate`: shared secrets by a KEM, put into a slot or an owner-only file."""

import click

from hsmbridge.cli.defaults import default_algorithm
from hsmbridge.cli.files import STANDARD, encode_base64, read_small, write_output
from hsmbridge.cli.options import Client, algorithm_option, client_options, slot_option, version_option
from hsmbridge.cli.output import Json, print_json, print_line
from hsmbridge.client import CryptoStack
from hsmbridge.core.algorithms import Algorithm, Kind, algorithm
from hsmbridge.core.errors import RequestError, Status

_into_option = click.option(
    "--into", metavar="NAME", help="Make the secret a key of this slot; it never leaves the service."
)
_secret_option = click.option(
    "--secret-out", metavar="FILE", help="Write the secret to a file that only you can read; - is stdout."
)


@click.command()
@slot_option
@algorithm_option
@click.option("--ciphertext-out", default="-", metavar="FILE", help="For the other side [default: stdout].")
@_secret_option
@_into_option
@client_options
def encapsulate(
    client: Client,
    slot: str,
    algorithm: str | None,
    ciphertext_out: str,
    secret_out: str | None,
    into: str | None,
) -> None:
    """Make a shared secret for the holder of the slot's key pair."""
    _require_one(secret_out, into)
    if secret_out == ciphertext_out == STANDARD and not client.as_json:
        raise RequestError(Status.INVALID_ARGUMENT, "Ciphertext and secret cannot both go to stdout.")
    with client.stack() as stack:
        row = _chosen(stack, slot, algorithm)
        made = stack.encapsulate(slot, row.name, slot=into or "")
    document: dict[str, Json] = {"slot": slot, "algorithm": row.name, "version": made.version}
    if secret_out is not None:
        document |= _give(client, "secret", made.secret, secret_out)
    else:
        document |= {"into": into, "into_version": made.slot_version}
    document |= _give(client, "ciphertext", made.ciphertext, ciphertext_out)
    if client.as_json:
        print_json(document)


@click.command()
@slot_option
@algorithm_option
@click.option("--in", "input_", default="-", metavar="FILE", help="The ciphertext [default: stdin].")
@_secret_option
@_into_option
@version_option
@client_options
def decapsulate(
    client: Client,
    slot: str,
    algorithm: str | None,
    input_: str,
    secret_out: str | None,
    into: str | None,
    version: int,
) -> None:
    """Recover the shared secret of a ciphertext."""
    _require_one(secret_out, into)
    ciphertext = read_small(input_)
    with client.stack() as stack:
        row = _chosen(stack, slot, algorithm)
        document: dict[str, Json] = {"slot": slot, "algorithm": row.name}
        if into is not None:
            made = stack.decapsulate_into(slot, row.name, ciphertext, into, version=version)
            document |= {"into": into, "into_version": made}
            if not client.as_json:
                print_line(f"the secret is version {made} of slot {into}")
        elif secret_out is not None:
            secret = stack.decapsulate(slot, row.name, ciphertext, version=version)
            document |= _give(client, "secret", secret, secret_out)
    if client.as_json:
        print_json(document)


def _require_one(secret_out: str | None, into: str | None) -> None:
    if (secret_out is None) == (into is None):
        raise RequestError(Status.INVALID_ARGUMENT, "Say where the secret goes: --into SLOT or --secret-out FILE.")


def _chosen(stack: CryptoStack, slot: str, name: str | None) -> Algorithm:
    return default_algorithm(stack.show_slot(slot), (Kind.KEM,)) if name is None else algorithm(name)


def _give(client: Client, what: str, data: bytes, output: str) -> dict[str, Json]:
    if client.as_json and output == STANDARD:
        return {what: encode_base64(data)}
    write_output(output, data, secret=what == "secret")
    return {f"{what}_out": output}
