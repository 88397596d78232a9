"""`agree` and `derive`: keys made from keys, put into a slot."""

import click

from hsmbridge.cli.files import read_small
from hsmbridge.cli.kdf_options import KdfOptions, kdf_options
from hsmbridge.cli.options import Client, client_options, slot_option
from hsmbridge.cli.output import print_json, print_line
from hsmbridge.client import AgreeKeyParams, DeriveKeyParams
from hsmbridge.client.key_formats.pem import public_key_der
from hsmbridge.core.errors import RequestError, Status

_into_option = click.option(
    "--into",
    required=True,
    metavar="NAME",
    help="The slot for the new key: made before with `slot create --empty`; it says type and permissions.",
)


@click.command()
@slot_option
@click.option("--peer-public-key", required=True, metavar="FILE", help="The other side's public key, PEM or DER.")
@_into_option
@kdf_options(required=False)
@client_options
def agree(client: Client, kdf: KdfOptions, slot: str, peer_public_key: str, into: str) -> None:
    """Agree a key with the holder of a public key (ECDH, X25519). Without --kdf it is the raw secret."""
    peer = public_key_der(read_small(peer_public_key))
    with client.stack() as stack:
        target = stack.show_slot(into)
        params = AgreeKeyParams(
            key_type=target.key_type,
            permissions=target.permissions,
            peer_public_key=peer,
            kdf=kdf.parameters(),
        )
        version = stack.agree_key(slot, params, slot=into)
    _tell(client, into, version, "agreed")


@click.command()
@slot_option
@_into_option
@kdf_options(required=True)
@client_options
def derive(client: Client, kdf: KdfOptions, slot: str, into: str) -> None:
    """Derive a key from another."""
    parameters = kdf.parameters()
    if parameters is None:
        raise RequestError(Status.INVALID_ARGUMENT, "Name a key derivation function with --kdf.")
    with client.stack() as stack:
        target = stack.show_slot(into)
        params = DeriveKeyParams(key_type=target.key_type, permissions=target.permissions, kdf=parameters)
        version = stack.derive_key(slot, params, slot=into)
    _tell(client, into, version, "derived")


def _tell(client: Client, into: str, version: int, how: str) -> None:
    if client.as_json:
        print_json({"slot": into, "version": version})
    else:
        print_line(f"{how} key is version {version} of slot {into}")
