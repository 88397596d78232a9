"""`slot`: make, list, show, rotate, revoke and destroy slots, say who may use them, and move keys in and out."""

import sys

import click

from hsmbridge.cli.files import write_output
from hsmbridge.cli.options import Client, client_options
from hsmbridge.cli.output import print_json, print_line, print_list
from hsmbridge.cli.principals import principal_of
from hsmbridge.cli.slot_keys import adopt, attest, export, import_
from hsmbridge.cli.slot_output import listed, only_provider, print_slot, public_key_of, slot_document, slot_row
from hsmbridge.client import NoncePolicy, Role
from hsmbridge.client.key_formats.pem import public_key_pem
from hsmbridge.core.permissions import permissions_from_bits, permissions_from_names


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def slot() -> None:
    """Make, list, show, rotate, revoke and destroy slots, say who may use them, and move keys in and out."""


for _command in (import_, export, adopt, attest):
    slot.add_command(_command)


@slot.command()
@click.argument("name")
@click.option("--provider", "providers", multiple=True, metavar="NAME", help="In order of preference; may be repeated.")
@click.option("--key-type", required=True, metavar="TYPE", help="Such as EC-P256, RSA-3072, AES-256, ML-DSA-65.")
@click.option("--permissions", required=True, metavar="LIST", help="Such as sign,verify: all that its keys may do.")
@click.option("--algorithms", default="", metavar="LIST", help="The only algorithms allowed [default: all that fit].")
@click.option(
    "--nonce-policy",
    type=click.Choice([policy.value for policy in NoncePolicy]),
    default=NoncePolicy.SERVICE.value,
    show_default=True,
    help="Who chooses nonces.",
)
@click.option("--fallback", is_flag=True, help="Take a later provider of the list where an earlier one is away.")
@click.option("--sign-and-decrypt", is_flag=True, help="Let one RSA key do both.")
@click.option("--derive-to-software", is_flag=True, help="Let secrets agreed with this key go into the daemon.")
@click.option("--imported-wrapping-key", is_flag=True, help="Let an imported key wrap and unwrap.")
@click.option("--empty", is_flag=True, help="Make no key; one is put in later (agree, derive, import, unwrap).")
@client_options
def create(
    client: Client,
    name: str,
    providers: tuple[str, ...],
    key_type: str,
    permissions: str,
    algorithms: str,
    nonce_policy: str,
    fallback: bool,
    sign_and_decrypt: bool,
    derive_to_software: bool,
    imported_wrapping_key: bool,
    empty: bool,
) -> None:
    """Make a slot called NAME, with a new key in it."""
    allowed = permissions_from_names(listed(permissions))
    with client.stack() as stack:
        made = stack.create_slot(
            name,
            key_type,
            allowed,
            providers=listed(",".join(providers)) or only_provider(stack),
            algorithms=listed(algorithms),
            nonce_policy=NoncePolicy(nonce_policy),
            fallback=fallback,
            sign_and_decrypt=sign_and_decrypt,
            derive_to_software=derive_to_software,
            imported_wrapping_key=imported_wrapping_key,
            empty=empty,
        )
    print_slot(client, made)


@slot.command(name="list")
@click.option("--namespace", default="", metavar="NAME", help="Only those of one namespace.")
@client_options
def list_(client: Client, namespace: str) -> None:
    """List the slots that you may see."""
    with client.stack() as stack:
        found = stack.list_slots(namespace)
    headings = ("NAME", "KEY TYPE", "PERMISSIONS", "VERSIONS", "WHERE")
    print_list(found, as_json=client.as_json, document=slot_document, headings=headings, row=slot_row)


@slot.command()
@click.argument("name")
@click.option("--public-key", type=click.Choice(["pem", "der"]), help="Print the public key (SPKI) and nothing else.")
@click.option("--version", type=click.IntRange(min=1), metavar="N", help="Of this version [default: the active one].")
@click.option("--out", "output", default="-", metavar="FILE", help="Where the public key goes [default: stdout].")
@client_options
def show(client: Client, name: str, public_key: str | None, version: int | None, output: str) -> None:
    """Show a slot: where its keys really live, their versions and states, and who may use it."""
    with client.stack() as stack:
        found = stack.show_slot(name, probe=True)
    if public_key is None:
        print_slot(client, found)
        return
    spki = public_key_of(found, version)
    if client.as_json:
        print_json({"name": found.name, "public_key": public_key_pem(spki)})
    else:
        write_output(output, public_key_pem(spki).encode() if public_key == "pem" else spki)


@slot.command()
@click.argument("name")
@client_options
def rotate(client: Client, name: str) -> None:
    """Make a new key version and let it be the active one."""
    with client.stack() as stack:
        print_slot(client, stack.rotate(name))


@slot.command()
@click.argument("name")
@click.option("--version", type=click.IntRange(min=1), metavar="N", help="Which one [default: the active].")
@client_options
def revoke(client: Client, name: str, version: int | None) -> None:
    """End the use of a key version; its record and material stay."""
    with client.stack() as stack:
        print_slot(client, stack.revoke(name, version or 0))


@slot.command()
@click.argument("name")
@click.option("--version", type=click.IntRange(min=1), metavar="N", help="Only this one [default: all].")
@click.option("--yes", is_flag=True, help="Do not ask.")
@client_options
def destroy(client: Client, name: str, version: int | None, yes: bool) -> None:
    """Destroy a key version, or the slot and all of them. There is no way back."""
    what = f"version {version} of slot {name}" if version else f"slot {name} and all its keys"
    if not yes and sys.stdin.isatty():
        click.confirm(f"Destroy {what} for ever?", abort=True, err=True)
    with client.stack() as stack:
        stack.destroy(name, version or 0)
    if client.as_json:
        print_json({"name": name, "version": version, "destroyed": True})
    else:
        print_line(f"destroyed {what}")


@slot.command()
@click.argument("name")
@click.argument("principal")
@click.option("--permissions", default="", metavar="LIST", help="Within those of the slot [default: all of them].")
@click.option(
    "--role",
    type=click.Choice([role.value for role in Role]),
    default=Role.USE.value,
    show_default=True,
    help="Who administers may also revoke, destroy, grant and ungrant.",
)
@client_options
def grant(client: Client, name: str, principal: str, permissions: str, role: str) -> None:
    """Let PRINCIPAL (uid:N, or the name of a user) use the slot."""
    with client.stack() as stack:
        if permissions:
            allowed = permissions_from_names(listed(permissions))
        else:
            allowed = permissions_from_bits(stack.show_slot(name).permissions)
        print_slot(client, stack.grant(name, principal_of(principal), allowed, role=Role(role)))


@slot.command()
@click.argument("name")
@click.argument("principal")
@client_options
def ungrant(client: Client, name: str, principal: str) -> None:
    """Take PRINCIPAL off the slot's access list."""
    with client.stack() as stack:
        print_slot(client, stack.ungrant(name, principal_of(principal)))
