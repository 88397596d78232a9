"""`trust` and `crl`: trust stores and certificate revocation lists in the daemon."""

import click

from hsmbridge.cli.certificate_access import access_commands
from hsmbridge.cli.certificate_output import crl_document, print_crl, print_trust_store, trust_document
from hsmbridge.cli.files import decode_hex, read_input, write_output
from hsmbridge.cli.options import Client, client_options, in_option, out_option
from hsmbridge.cli.output import print_json, print_list, print_removed, timestamp
from hsmbridge.client import CrlInfo, ResourceKind
from hsmbridge.client.key_formats.certificates import crl_pem
from hsmbridge.core.certificates import ANCHORS_BYTES_MAX, CRL_MAX

_HELP = {"help_option_names": ["-h", "--help"]}


@click.group(context_settings=_HELP)
def trust() -> None:
    """Make and fill trust stores: named sets of anchors that certificates are verified against."""


@trust.command()
@click.argument("name")
@click.option("--in", "input_", metavar="FILE", help="The first anchors [default: none yet].")
@client_options
def create(client: Client, name: str, input_: str | None) -> None:
    """Make a trust store called NAME."""
    anchors = b"" if input_ is None else read_input(input_, 2 * ANCHORS_BYTES_MAX)
    with client.stack() as stack:
        print_trust_store(client, stack.create_trust_store(name, anchors))


@trust.command()
@click.argument("name")
@in_option
@client_options
def add(client: Client, name: str, input_: str) -> None:
    """Add anchors (PEM or DER) to a trust store."""
    anchors = read_input(input_, 2 * ANCHORS_BYTES_MAX)
    with client.stack() as stack:
        print_trust_store(client, stack.add_anchors(name, anchors))


@trust.command()
@click.argument("name")
@client_options
def show(client: Client, name: str) -> None:
    """Show a trust store and its anchors."""
    with client.stack() as stack:
        print_trust_store(client, stack.show_trust_store(name))


@trust.command(name="list")
@click.option("--namespace", default="", metavar="NAME", help="Only those of one namespace.")
@client_options
def list_(client: Client, namespace: str) -> None:
    """List the trust stores that you may see."""
    with client.stack() as stack:
        found = stack.list_trust_stores(namespace)
    print_list(
        found,
        as_json=client.as_json,
        document=trust_document,
        headings=("NAME", "ANCHORS", "CHANGED"),
        row=lambda one: (one.name, f"{len(one.anchors)}", timestamp(one.changed)),
    )


@trust.command()
@click.argument("name")
@click.option(
    "--anchor",
    "anchors",
    multiple=True,
    metavar="SHA256",
    help="Only this anchor, by the SHA-256 of its certificate; may be repeated [default: the whole store].",
)
@client_options
def remove(client: Client, name: str, anchors: tuple[str, ...]) -> None:
    """Remove a trust store, or anchors from it."""
    fingerprints = [decode_hex("--anchor", anchor) for anchor in anchors]
    with client.stack() as stack:
        if fingerprints:
            print_trust_store(client, stack.remove_anchors(name, fingerprints))
            return
        stack.remove_trust_store(name)
    print_removed("trust store", name, as_json=client.as_json)


def _crl_row(found: CrlInfo) -> tuple[str, ...]:
    return found.name, found.issuer, timestamp(found.next_update) if found.next_update else "", f"{found.revoked}"


@click.group(context_settings=_HELP)
def crl() -> None:
    """Keep certificate revocation lists, for `cert verify --crl`."""


@crl.command(name="import")
@click.argument("name")
@in_option
@client_options
def import_(client: Client, name: str, input_: str) -> None:
    """Store a CRL (PEM or DER) as NAME, or put it in the place of an older one of the same issuer."""
    content = read_input(input_, 2 * CRL_MAX)
    with client.stack() as stack:
        print_crl(client, stack.import_crl(name, content))


@crl.command(name="show")
@click.argument("name")
@client_options
def show_crl(client: Client, name: str) -> None:
    """Show a CRL."""
    with client.stack() as stack:
        print_crl(client, stack.show_crl(name))


@crl.command(name="list")
@click.option("--namespace", default="", metavar="NAME", help="Only those of one namespace.")
@client_options
def list_crls(client: Client, namespace: str) -> None:
    """List the CRLs that you may see."""
    with client.stack() as stack:
        found = stack.list_crls(namespace)
    print_list(
        found,
        as_json=client.as_json,
        document=crl_document,
        headings=("NAME", "ISSUER", "NEXT UPDATE", "REVOKED"),
        row=_crl_row,
    )


@crl.command(name="export")
@click.argument("name")
@click.option("--format", "format_", type=click.Choice(["pem", "der"]), default="pem", show_default=True)
@out_option
@client_options
def export_crl(client: Client, name: str, format_: str, output: str) -> None:
    """Write a CRL to a file."""
    with client.stack() as stack:
        found = stack.show_crl(name)
    if client.as_json:
        print_json(crl_document(found))
    else:
        write_output(output, found.crl if format_ == "der" else crl_pem(found.crl).encode())


@crl.command(name="remove")
@click.argument("name")
@client_options
def remove_crl(client: Client, name: str) -> None:
    """Remove a CRL."""
    with client.stack() as stack:
        stack.remove_crl(name)
    print_removed("CRL", name, as_json=client.as_json)


for _group, _kind in ((trust, ResourceKind.VERIFICATION_TRUST_STORE), (crl, ResourceKind.CRL)):
    for _command in access_commands(_kind):
        _group.add_command(_command)
