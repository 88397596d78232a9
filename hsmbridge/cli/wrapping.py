"""`wrap` and `unwrap`: a key encrypted under another, inside their provider.

A file of an AEAD is nonce, ciphertext and tag one after the other, as `encrypt --raw` writes; of the others it is what
the algorithm yields.
"""

import click

from hsmbridge.cli.defaults import default_algorithm
from hsmbridge.cli.files import STANDARD, encode_base64, read_small, write_output
from hsmbridge.cli.options import Client, algorithm_option, client_options, in_option, out_option, slot_option
from hsmbridge.cli.output import print_json, print_line
from hsmbridge.cli.slot_output import names_of
from hsmbridge.client import CryptoStack, KeyOperationPermission, SlotInfo, UnwrapKeyParams, WrapKeyParams
from hsmbridge.core.algorithms import Algorithm, Kind, algorithm
from hsmbridge.core.key_types import key_type

P = KeyOperationPermission

_aad_option = click.option("--aad-file", metavar="FILE", help="Associated data, for an AEAD.")


@click.command()
@slot_option
@algorithm_option
@click.option("--wrapped", required=True, metavar="NAME", help="The slot whose active key is wrapped; needs export.")
@_aad_option
@out_option
@client_options
def wrap(client: Client, slot: str, algorithm: str | None, wrapped: str, aad_file: str | None, output: str) -> None:
    """Encrypt the key of a slot under the key of another; both stay where they are."""
    aad = b"" if aad_file is None else read_small(aad_file)
    with client.stack() as stack:
        row = _chosen(stack, slot, algorithm)
        made = stack.wrap_key(slot, wrapped, WrapKeyParams(algorithm=row.name, aad=aad))
    data = made.iv + made
    if client.as_json:
        shown = {"material": encode_base64(data)} if output == STANDARD else {"out": output}
        if output != STANDARD:
            write_output(output, data)
        print_json({"slot": slot, "version": made.version, "algorithm": row.name, "wrapped": wrapped, **shown})
    else:
        write_output(output, data)


@click.command()
@slot_option
@algorithm_option
@in_option
@click.option(
    "--into",
    required=True,
    metavar="NAME",
    help="The slot for the key: made before with `slot create --empty`; it says type and permissions.",
)
@_aad_option
@client_options
def unwrap(client: Client, slot: str, algorithm: str | None, input_: str, into: str, aad_file: str | None) -> None:
    """Decrypt a wrapped key into a slot. It never gets export; wrap and unwrap only where the slot says so."""
    data = read_small(input_)
    aad = b"" if aad_file is None else read_small(aad_file)
    with client.stack() as stack:
        row = _chosen(stack, slot, algorithm)
        target = stack.show_slot(into)
        allowed = permissions_for(target) & ~P.EXPORT
        params = UnwrapKeyParams(
            algorithm=row.name,
            iv=data[: row.nonce_size],
            aad=aad,
            format="raw" if key_type(target.key_type).symmetric else "pkcs8",
            key_type=target.key_type,
            permissions=int(allowed),
        )
        version = stack.unwrap_key(slot, params, data[row.nonce_size :], slot=into)
    tell_made(client, into, version, "unwrapped", target, allowed)


def permissions_for(slot: SlotInfo) -> P:
    """What a key from outside may have of a slot's permissions."""
    allowed = P(slot.permissions)
    return allowed if slot.imported_wrapping_key else allowed & ~(P.WRAP | P.UNWRAP)


def tell_made(client: Client, into: str, version: int, how: str, slot: SlotInfo, allowed: P) -> None:
    """Say which version a key became, and which permissions of the slot it did not get."""
    withheld = names_of(slot.permissions & ~int(allowed))
    if client.as_json:
        print_json({"slot": into, "version": version, "key_type": slot.key_type, "withheld": list(withheld)})
        return
    print_line(f"{how} key is version {version} of slot {into}")
    if withheld:
        print_line(f"it may not {', '.join(withheld)}, which the slot allows other keys")


def _chosen(stack: CryptoStack, slot: str, name: str | None) -> Algorithm:
    return default_algorithm(stack.show_slot(slot), (Kind.KEY_WRAP,)) if name is None else algorithm(name)
