"""`digest` and `random`: what needs a provider and no key."""

import click

from hsmbridge.cli.files import STANDARD, encode_base64, write_output
from hsmbridge.cli.long_data import LongInput, opened_input
from hsmbridge.cli.options import Client, client_options, in_option, out_option
from hsmbridge.cli.output import print_json, print_line

_RANDOM_MAX = 64 * 1024
_provider_option = click.option("--provider", default="", metavar="NAME", help="[default: the daemon chooses]")


@click.command()
@click.option("--algorithm", default="SHA-256", show_default=True, metavar="NAME", help="Such as SHA-384, SHA3-256.")
@_provider_option
@in_option
@click.option("--out", "output", metavar="FILE", help="Write the bare bytes there [default: hexadecimal to stdout].")
@client_options
def digest(client: Client, algorithm: str, provider: str, input_: str, output: str | None) -> None:
    """Compute the digest of a file."""
    with client.stack() as stack, opened_input(input_, stack.max_frame) as data:
        if isinstance(data, LongInput):
            with stack.digest_context(algorithm, provider=provider) as context:
                context.update_from(data)
                made = context.finalize()
        else:
            made = stack.digest(algorithm, data, provider=provider)
    if output is not None:
        write_output(output, made)
    if client.as_json:
        print_json({"algorithm": algorithm, "digest": made.hex(), **({} if output is None else {"out": output})})
    elif output is None:
        print_line(made.hex())


@click.command()
@click.argument("length", type=click.IntRange(0, 1 << 30))
@_provider_option
@out_option
@client_options
def random(client: Client, length: int, provider: str, output: str) -> None:
    """Print LENGTH random bytes from a provider's generator."""
    with client.stack() as stack:
        pieces = [
            stack.random(min(_RANDOM_MAX, length - done), provider=provider) for done in range(0, length, _RANDOM_MAX)
        ]
    data = b"".join(pieces)
    if output != STANDARD or not client.as_json:
        write_output(output, data, secret=True)
    if client.as_json:
        where = {"out": output} if output != STANDARD else {"data": encode_base64(data)}
        print_json({"length": length, **where})
