"""`cert`: certificates in the daemon, stored, bound to key slots, verified."""

from datetime import UTC, datetime

import click

from hsmbridge.cli.certificate_access import access_commands
from hsmbridge.cli.certificate_output import certificate_document, print_certificate
from hsmbridge.cli.files import read_input, write_output
from hsmbridge.cli.options import Client, client_options, in_option, out_option
from hsmbridge.cli.output import print_json, print_line, print_list, print_removed, timestamp
from hsmbridge.client import CertificatePurpose, ResourceKind, RevocationCheck
from hsmbridge.client.key_formats.certificates import certificate_pem
from hsmbridge.core.certificates import CERTIFICATE_MAX, CHAIN_MAX
from hsmbridge.core.errors import RequestError, Status

CHAIN_FILE_MAX = 2 * CHAIN_MAX * CERTIFICATE_MAX
"""Bytes of a file with a chain; PEM takes a third more than DER, and text may stand between."""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cert() -> None:
    """Store certificates, bind them to key slots, and verify them against trust stores."""


@cert.command(name="import")
@click.argument("name")
@in_option
@click.option("--slot", default="", metavar="NAME", help="Bind it to this key slot, which must hold its key.")
@click.option("--replace", is_flag=True, help="Put it in the place of the one that is there.")
@client_options
def import_(client: Client, name: str, input_: str, slot: str, replace: bool) -> None:
    """Store a certificate with its chain (PEM or DER) as NAME."""
    content = read_input(input_, CHAIN_FILE_MAX)
    with client.stack() as stack:
        print_certificate(client, stack.import_certificate(name, content, slot=slot, replace=replace))


@cert.command()
@click.argument("name")
@client_options
def show(client: Client, name: str) -> None:
    """Show a certificate: what it says, which key slot it is bound to, who may see it."""
    with client.stack() as stack:
        print_certificate(client, stack.show_certificate(name))


@cert.command(name="list")
@click.option("--namespace", default="", metavar="NAME", help="Only those of one namespace.")
@client_options
def list_(client: Client, namespace: str) -> None:
    """List the certificates that you may see."""
    with client.stack() as stack:
        found = stack.list_certificates(namespace)
    print_list(
        found,
        as_json=client.as_json,
        document=certificate_document,
        headings=("NAME", "SUBJECT", "VALID UNTIL", "KEY SLOT"),
        row=lambda one: (one.name, one.chain[0].subject, timestamp(one.chain[0].not_after), one.slot),
    )


@cert.command()
@click.argument("name")
@click.option("--format", "format_", type=click.Choice(["pem", "der"]), default="pem", show_default=True)
@click.option("--chain", is_flag=True, help="With those that lead from it towards its anchor (PEM only).")
@out_option
@client_options
def export(client: Client, name: str, format_: str, chain: bool, output: str) -> None:
    """Write a certificate to a file."""
    if chain and format_ == "der":
        raise RequestError(Status.INVALID_ARGUMENT, "A chain is written as PEM; leave out --format der.")
    with client.stack() as stack:
        found = [facts.certificate for facts in stack.show_certificate(name).chain]
    wanted = found if chain else found[:1]
    if client.as_json:
        print_json({"name": name, "certificates": [certificate_pem(der) for der in wanted]})
    else:
        write_output(output, wanted[0] if format_ == "der" else certificate_pem(*wanted).encode())


@cert.command()
@click.argument("name")
@click.argument("slot", required=False)
@click.option("--none", "unbind", is_flag=True, help="Bind it to no slot any more.")
@client_options
def bind(client: Client, name: str, slot: str | None, unbind: bool) -> None:
    """Bind a certificate to the key SLOT that holds its key."""
    if bool(slot) is unbind:
        raise RequestError(Status.INVALID_ARGUMENT, "Name the key slot, or say --none.")
    with client.stack() as stack:
        print_certificate(client, stack.bind_certificate(name, slot or ""))


@cert.command()
@click.argument("name")
@client_options
def remove(client: Client, name: str) -> None:
    """Remove a certificate; the key that it is for stays."""
    with client.stack() as stack:
        stack.remove_certificate(name)
    print_removed("certificate", name, as_json=client.as_json)


@cert.command()
@click.argument("name", required=False)
@click.option("--in", "input_", metavar="FILE", help="Verify this file instead of a stored certificate.")
@click.option("--trust", required=True, metavar="NAME", help="The trust store whose anchors count.")
@click.option("--purpose", type=click.Choice([one.value for one in CertificatePurpose]), required=True)
@click.option("--for", "subject", default="", metavar="HOST", help="The server's DNS name or IP address.")
@click.option("--at", "time", metavar="TIME", help="Such as 2030-01-31T12:00:00Z [default: now].")
@click.option("--intermediates", metavar="FILE", help="More certificates that may lead to an anchor.")
@click.option("--crl", "crls", multiple=True, metavar="NAME", help="A CRL that must not name it; may be repeated.")
@click.option("--leaf-only", is_flag=True, help="The CRLs need not speak of its authorities.")
@client_options
def verify(
    client: Client,
    name: str | None,
    input_: str | None,
    trust: str,
    purpose: str,
    subject: str,
    time: str | None,
    intermediates: str | None,
    crls: tuple[str, ...],
    leaf_only: bool,
) -> None:
    """Verify a certificate, NAME or a file, against a trust store."""
    if bool(name) is (input_ is not None):
        raise RequestError(Status.INVALID_ARGUMENT, "Name a stored certificate, or give a file with --in.")
    more = b"" if intermediates is None else read_input(intermediates, CHAIN_FILE_MAX)
    with client.stack() as stack:
        certificate = name or stack.load_certificate(read_input(input_ or "-", CHAIN_FILE_MAX))
        chain = stack.verify_certificate(
            certificate,
            trust,
            purpose=purpose,
            subject=subject,
            time=_time(time),
            intermediates=more,
            crls=crls,
            revocation=RevocationCheck.LEAF if leaf_only else RevocationCheck.CHAIN,
        )
    if client.as_json:
        print_json({"trusted": True, "chain": [certificate_pem(der) for der in chain]})
    else:
        print_line(f"trusted, by a chain of {len(chain)}")


for _command in access_commands(ResourceKind.CERT_SLOT):
    cert.add_command(_command)


def _time(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise RequestError(
            Status.INVALID_ARGUMENT, f"{text[:40]!r} is no time; write it like 2030-01-31T12:00:00Z."
        ) from None
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)
