"""Options that commands of the client share, and the configuration that they describe."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import click
from cryptography import x509

from est import refusals
from est.client.address import EstAddress
from est.client.configuration import ClientConfiguration
from est.csr.linking import Link
from est.http.authorization import Credentials
from est.key_places import KeyPlaces, check_reference
from est.tls.connection import ClientIdentity
from est.trust.anchors import TrustAnchors, read_anchors

P = ParamSpec("P")
R = TypeVar("R")

Json = str | int | float | bool | None | list["Json"] | dict[str, "Json"]

FILE = click.Path(path_type=Path, dir_okay=False)


class _KeyName(click.ParamType[str]):
    name = "KEY"

    def convert(self, value: str, _param: click.Parameter | None, _context: click.Context | None) -> str:
        return check_reference(value)


KEY = _KeyName()
"""A key by name: the path of a PEM file, or slot:NAME."""

socket_option = click.option(
    "--socket",
    type=FILE,
    help="Socket of the hsmbridge daemon, for keys in slots [default: $HSMBRIDGE_SOCKET, or the usual place].",
)
provider_option = click.option("--provider", default="", help="Provider of the daemon at which a slot's key is made.")


def places_of(socket: Path | None) -> KeyPlaces:
    """Where keys are, until the command ends."""
    places = KeyPlaces(socket)
    click.get_current_context().call_on_close(places.close)
    return places


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


@dataclass(frozen=True, slots=True)
class Client:
    """What a command that asks a server was told."""

    configuration: ClientConfiguration
    keys: KeyPlaces
    as_json: bool


def client_options(command: Callable[Concatenate[Client, P], R]) -> Callable[..., R]:
    """Give a command SERVER and the options of a client, and hand it the Client that they make."""

    @click.argument("server")
    @click.option("--label", default="", help="Label of the CA on the server.")
    @click.option("--ca", "ca_file", type=FILE, help="PEM file of the Explicit trust anchors.")
    @click.option("--web-ca", default="", metavar="FILE", help='Implicit trust anchors: a PEM file, or "system".')
    @click.option("--allow-cmc-ra", is_flag=True, help="Take a server with id-kp-cmcRA under another host name.")
    @click.option("--user", default="", help="User name for HTTP authentication.")
    @click.option("--password-file", type=FILE, help="File with the password (first line).")
    @click.option("--token-file", type=FILE, help="File with a bearer token (first line).")
    @click.option(
        "--link",
        type=click.Choice([one.value for one in Link]),
        default="when-possible",
        show_default=True,
        help="How the request is linked to the TLS connection.",
    )
    @click.option("--timeout", type=click.FloatRange(min=0.1), default=60.0, show_default=True, metavar="SECONDS")
    @click.option("--follow", multiple=True, metavar="ORIGIN", help="Follow redirects to https://HOST:PORT.")
    @click.option("--lenient", is_flag=True, help="Read answers that are DER or PEM in place of base64.")
    @socket_option
    @json_option
    @wraps(command)
    def with_client(
        server: str,
        label: str,
        ca_file: Path | None,
        web_ca: str,
        allow_cmc_ra: bool,
        user: str,
        password_file: Path | None,
        token_file: Path | None,
        link: str,
        timeout: float,
        follow: tuple[str, ...],
        lenient: bool,
        socket: Path | None,
        as_json: bool,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R:
        explicit, intermediates = read_anchors(ca_file) if ca_file and ca_file.exists() else ((), ())
        if ca_file and not explicit and not web_ca:
            raise refusals.untrusted(f"There are no trust anchors in {ca_file}; `est bootstrap` fetches them.")
        configuration = ClientConfiguration(
            EstAddress.parse(server, label),
            TrustAnchors(explicit, intermediates, web_ca, allow_cmc_ra),
            credentials=_credentials(user, password_file, token_file),
            link=Link(link),
            timeout=timeout,
            allow_redirect=lambda origin: origin in {one.rstrip("/") for one in follow},
            lenient=lenient,
        )
        return command(Client(configuration, places_of(socket), as_json), *args, **kwargs)

    return with_client


def _credentials(user: str, password_file: Path | None, token_file: Path | None) -> Credentials | None:
    if token_file is not None:
        return Credentials(token=first_line(token_file))
    if password_file is not None:
        return Credentials(user, first_line(password_file))
    return None


def first_line(path: Path) -> str:
    """The first line of a file with a secret."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, ValueError):
        raise refusals.unwanted(f"{path} cannot be read.") from None
    return lines[0] if lines else ""


def open_identity(keys: KeyPlaces, key: str, certificate: Path) -> ClientIdentity:
    """A key with its certificate chain.

    Raises:
        RequestError: a file is missing, or the certificate is of another key.
    """
    try:
        chain = tuple(x509.load_pem_x509_certificates(certificate.read_bytes()))
    except (OSError, ValueError):
        raise refusals.unwanted(f"{certificate} is not a readable file of PEM certificates.") from None
    opened = keys.open(key)
    if opened.signer.public_key() != chain[0].public_key():
        raise refusals.unwanted(f"The first certificate in {certificate} is not of the key {key}.")
    return ClientIdentity(opened, chain)


def show(document: dict[str, Json], *, as_json: bool) -> None:
    """Print what was found: one JSON document, or a line for each entry."""
    if as_json:
        click.echo(json.dumps(document, ensure_ascii=False))
        return
    for name, value in document.items():
        values = value if isinstance(value, list) else [value]
        for one in values:
            text = one if isinstance(one, str) else json.dumps(one)
            click.echo(f"{name}: {''.join(c if c.isprintable() else ' ' for c in text)}")
