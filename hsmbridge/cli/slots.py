"""`slot`: make, list, show, rotate, revoke and destroy slots, and say who may use them."""

import pwd
import sys

import click

from hsmbridge.cli.files import write_output
from hsmbridge.cli.options import Client, client_options
from hsmbridge.cli.output import Json, print_json, print_line, print_pairs, print_table, timestamp
from hsmbridge.cli.pem import public_key_pem
from hsmbridge.client import CryptoStack, KeyOperationPermission, NoncePolicy, Role, SlotInfo, VersionInfo
from hsmbridge.core.errors import RequestError, ResourceError, Status
from hsmbridge.core.lifecycle import KeyVersionState
from hsmbridge.core.permissions import permission_names, permissions_from_bits, permissions_from_names


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def slot() -> None:
    """Make, list, show, rotate, revoke and destroy slots, and say who may use them."""


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
@click.option("--empty", is_flag=True, help="Make no key; one is put in later (agree, derive, encapsulate).")
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
    allowed = permissions_from_names(_listed(permissions))
    with client.stack() as stack:
        made = stack.create_slot(
            name,
            key_type,
            allowed,
            providers=_listed(",".join(providers)) or _only_provider(stack),
            algorithms=_listed(algorithms),
            nonce_policy=NoncePolicy(nonce_policy),
            fallback=fallback,
            sign_and_decrypt=sign_and_decrypt,
            derive_to_software=derive_to_software,
            imported_wrapping_key=imported_wrapping_key,
            empty=empty,
        )
    _print_slot(client, made)


@slot.command(name="list")
@click.option("--namespace", default="", metavar="NAME", help="Only those of one namespace.")
@client_options
def list_(client: Client, namespace: str) -> None:
    """List the slots that you may see."""
    with client.stack() as stack:
        found = stack.list_slots(namespace)
    if client.as_json:
        print_json([slot_document(one) for one in found])
        return
    print_table(("NAME", "KEY TYPE", "PERMISSIONS", "VERSIONS", "WHERE"), [_row(one) for one in found])


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
        _print_slot(client, found)
        return
    spki = _public_key(found, version)
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
        _print_slot(client, stack.rotate(name))


@slot.command()
@click.argument("name")
@click.option("--version", type=click.IntRange(min=1), metavar="N", help="Which one [default: the active].")
@client_options
def revoke(client: Client, name: str, version: int | None) -> None:
    """End the use of a key version; its record and material stay."""
    with client.stack() as stack:
        _print_slot(client, stack.revoke(name, version or 0))


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
            allowed = permissions_from_names(_listed(permissions))
        else:
            allowed = permissions_from_bits(stack.show_slot(name).permissions)
        _print_slot(client, stack.grant(name, _principal(principal), allowed, role=Role(role)))


@slot.command()
@click.argument("name")
@click.argument("principal")
@client_options
def ungrant(client: Client, name: str, principal: str) -> None:
    """Take PRINCIPAL off the slot's access list."""
    with client.stack() as stack:
        _print_slot(client, stack.ungrant(name, _principal(principal)))


def slot_document(info: SlotInfo) -> dict[str, Json]:
    """A slot as JSON documents carry it."""
    return {
        "name": info.name,
        "key_type": info.key_type,
        "providers": list(info.providers),
        "permissions": _names(info.permissions),
        "algorithms": list(info.algorithms),
        "nonce_policy": info.nonce_policy.value,
        "fallback": info.fallback,
        "sign_and_decrypt": info.sign_and_decrypt,
        "derive_to_software": info.derive_to_software,
        "imported_wrapping_key": info.imported_wrapping_key,
        "generation": info.generation,
        "created": timestamp(info.created),
        "versions": [
            {
                "number": version.number,
                "state": version.state,
                "provider": version.provider,
                "protection": version.protection,
                "permissions": _names(version.permissions),
                "public_key": public_key_pem(version.public_key) if version.public_key else None,
                "created": timestamp(version.created),
                "uri": version.uri,
                "unavailable": version.unavailable,
                "fell_back_from": version.fell_back_from,
            }
            for version in info.versions
        ],
        "access": [
            {"principal": entry.principal, "role": entry.role.value, "permissions": _names(entry.permissions)}
            for entry in info.access
        ],
    }


def _print_slot(client: Client, info: SlotInfo) -> None:
    if client.as_json:
        print_json(slot_document(info))
        return
    flags = ("fallback", "sign_and_decrypt", "derive_to_software", "imported_wrapping_key")
    document = slot_document(info)
    print_pairs(
        [
            ("name", info.name),
            ("key type", info.key_type),
            ("providers", ", ".join(info.providers)),
            ("permissions", ", ".join(_names_of(info.permissions))),
            ("algorithms", ", ".join(info.algorithms) or "all that fit the key type"),
            ("nonces", info.nonce_policy.value),
            ("also", ", ".join(flag for flag in flags if document[flag])),
            ("created", timestamp(info.created)),
        ]
    )
    if info.versions:
        print_table(
            ("VERSION", "STATE", "WHERE", "PROVIDER", "CREATED", "NOTE"),
            [_version_row(version) for version in info.versions],
        )
    for version in info.versions:
        if version.uri:
            print_line(f"version {version.number}: {version.uri}")
    print_table(
        ("WHO", "ROLE", "MAY"),
        [(entry.principal, entry.role.value, ", ".join(_names_of(entry.permissions))) for entry in info.access],
    )


def _version_row(version: VersionInfo) -> tuple[str, ...]:
    notes = [version.unavailable, version.fell_back_from and f"fell back from {version.fell_back_from}"]
    return (
        f"{version.number}",
        version.state,
        version.protection,
        version.provider,
        timestamp(version.created),
        "; ".join(note for note in notes if note),
    )


def _row(info: SlotInfo) -> tuple[str, ...]:
    active = [version for version in info.versions if version.state == KeyVersionState.ACTIVE]
    where = f"{active[0].protection} ({active[0].provider})" if active else "no active key"
    if active and active[0].unavailable:
        where += ", unavailable"
    return (info.name, info.key_type, ", ".join(_names_of(info.permissions)), f"{len(info.versions)}", where)


def _public_key(info: SlotInfo, number: int | None) -> bytes:
    for version in info.versions:
        wanted = version.state == KeyVersionState.ACTIVE if number is None else version.number == number
        if wanted:
            if not version.public_key:
                raise RequestError(
                    Status.KEY_TYPE_MISMATCH, f"Keys of type {info.key_type} are secret keys and have no public half."
                )
            return version.public_key
    which = "no active key" if number is None else f"no version {number}"
    raise ResourceError(Status.RESOURCE_NOT_FOUND, f"Slot {info.name} has {which}.")


def _only_provider(stack: CryptoStack) -> list[str]:
    names = [provider.name for provider in stack.providers()]
    if len(names) == 1:
        return names
    raise RequestError(Status.INVALID_ARGUMENT, f"Say where with --provider: {', '.join(names)}.")


def _principal(text: str) -> str:
    if ":" in text:
        return text
    try:
        return f"uid:{pwd.getpwnam(text).pw_uid}"
    except KeyError:
        raise RequestError(Status.INVALID_ARGUMENT, f"There is no user {text!r} here; write uid:N.") from None


def _listed(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]


def _names_of(permissions: int) -> tuple[str, ...]:
    return permission_names(KeyOperationPermission(permissions))


def _names(permissions: int) -> list[Json]:
    return list(_names_of(permissions))
