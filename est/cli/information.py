"""`est bootstrap`, `est cacerts`, `est csrattrs`: what a server says before anybody asks for a certificate."""

from pathlib import Path

import click
from cryptography import x509

from est import refusals
from est.cli.options import FILE, Client, Json, client_options, show
from est.client import EstClient
from est.client.bootstrap import bootstrap as first_contact
from est.trust.anchors import write_pem
from est.trust.fingerprint import find, fingerprint
from est.trust.path import name_of
from est.trust.roll_over import CaCertificates

OUT = click.option("--out", type=FILE, required=True, help="PEM file for the trust anchors; replaced in one step.")


@click.command()
@client_options
@click.option("--fingerprint", "wanted", help="SHA-256 or SHA-512 of the root certificate, in hex.")
@OUT
def bootstrap(client: Client, wanted: str | None, out: Path) -> None:
    """Fetch the CA certificates at first contact.

    The root is taken only with its fingerprint, or when you confirm the one that is shown.
    """

    def confirm(root: x509.Certificate) -> bool:
        return click.confirm(f"{name_of(root)}\nSHA-256 {fingerprint(root)}\nIs this the right root?", err=True)

    found = first_contact(client.configuration, root_fingerprint=wanted or "", confirm=confirm)
    _keep(found, out, as_json=client.as_json)


@click.command()
@client_options
@click.option("--fingerprint", "wanted", help="Fingerprint of a root to be confirmed, where only the Web vouches.")
@OUT
def cacerts(client: Client, wanted: str | None, out: Path) -> None:
    """Fetch the CA certificates again, and follow a roll-over of the root."""
    with EstClient(client.configuration) as asking:
        found = asking.cacerts(confirm=lambda root: bool(wanted) and find([root], wanted or "") is not None)
    _keep(found, out, as_json=client.as_json)


def _keep(found: CaCertificates, out: Path, *, as_json: bool) -> None:
    try:
        write_pem(out, (*found.anchors, *found.intermediates))
    except OSError:
        raise refusals.unwanted(f"{out} cannot be written.") from None
    document: dict[str, Json] = {
        "anchors": [f"{name_of(one)} SHA-256 {fingerprint(one)}" for one in found.anchors],
        "intermediates": [name_of(one) for one in found.intermediates],
        "accepted": [name_of(one) for one in found.accepted],
        "unconfirmed": [f"{name_of(one)} SHA-256 {fingerprint(one)}" for one in found.unconfirmed],
        "first_expiry": found.first_expiry().isoformat(),
    }
    show(document, as_json=as_json)


@click.command()
@client_options
def csrattrs(client: Client) -> None:
    """Show what the server wants of a request."""
    with EstClient(client.configuration) as asking:
        demands = asking.csrattrs()
    key = demands.key
    document: dict[str, Json] = {
        "key": f"{key.algorithm} {key.curve or key.bits or ''}".strip() if key else None,
        "digests": list(demands.digests),
        "extensions": [part.oid for part in demands.extensions],
        "optional_extensions": list(demands.optional_extensions),
        "challenge_password": demands.challenge_password,
        "subject": [part.type for one in demands.subject or () for part in one],
        "ignored": list(demands.ignored),
    }
    show(document, as_json=client.as_json)
