"""`est enroll`, `est renew`, `est rekey`, `est serverkeygen`: certificates into files, each replaced in one step."""

import ipaddress
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import click
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from est import refusals
from est.cli.options import FILE, KEY, Client, client_options, first_line, open_identity, provider_option, show
from est.client import Enrolled, EstClient, Pending
from est.cms.enveloped import Opener, SharedKey
from est.cms.receiver import Receiver
from est.csr.linking import Link
from est.csr.request import Wishes
from est.key_places import KEY_TYPES, RECEIVING_TYPES, slot_of
from est.keys import Key, SoftwareKey
from est.trust.anchors import write_pem, write_whole

PENDING_EXIT = 75

_KEY = click.option("--key", type=KEY, required=True, help="The private key: a PEM file, or slot:NAME.")
_CERT = click.option("--cert", "cert_file", type=FILE, required=True, help="PEM file of the certificate chain.")
_SUBJECT = click.option("--subject", default="", metavar="NAME", help="Name as RFC 4514 writes it: CN=web,O=Example.")
_DNS = click.option("--dns", multiple=True, help="DNS name for the certificate; may be repeated.")
_IP = click.option("--ip", multiple=True, help="IP address for the certificate; may be repeated.")
_WAIT = click.option(
    "--wait",
    type=click.FloatRange(min=0),
    default=0.0,
    metavar="SECONDS",
    help="How long to wait for an approval before giving up for now.",
)
_TYPE = click.option("--key-type", type=click.Choice(list(KEY_TYPES)), default="EC-P256", show_default=True)


@click.command()
@client_options
@_KEY
@_CERT
@click.option("--key-type", type=click.Choice([*KEY_TYPES, *RECEIVING_TYPES]), default="EC-P256", show_default=True)
@_SUBJECT
@_DNS
@_IP
@click.option("--client-key", type=KEY, help="Key of another certificate to authenticate with.")
@click.option("--client-cert", type=FILE, help="That certificate chain.")
@provider_option
@_WAIT
def enroll(
    client: Client,
    key: str,
    cert_file: Path,
    key_type: str,
    subject: str,
    dns: tuple[str, ...],
    ip: tuple[str, ...],
    client_key: str | None,
    client_cert: Path | None,
    provider: str,
    wait: float,
) -> int:
    """Get a certificate. A key that is not there is made; ends with 75 while the server wants an approval.

    Called again, it goes on with the request that is pending. A key that does not sign (X25519, X448, ML-KEM, or a slot
    without `sign`) needs --client-key and --client-cert, and is proved to the CA by opening its challenge.
    """
    wishes = _wishes(subject, dns, ip)
    if client_key and client_cert:
        identity = open_identity(client.keys, client_key, client_cert)
        client = replace(client, configuration=replace(client.configuration, identity=identity))
    opened: Key | Receiver
    if client.keys.exists(key):
        opened = client.keys.open_either(key)
    elif key_type in RECEIVING_TYPES:
        opened = client.keys.make_receiver(key, key_type, provider)
    else:
        opened = client.keys.make(key, key_type, provider)
    return _get(client, opened, wishes, cert_file, wait)


def _opened_or_made(client: Client, key: str, key_type: str, provider: str) -> Key:
    if client.keys.exists(key):
        return client.keys.open(key)
    return client.keys.make(key, key_type, provider)


def _wishes(subject: str, dns: tuple[str, ...], ip: tuple[str, ...]) -> Wishes:
    return Wishes.of(_subject(subject) if subject else None, [*map(_dns_name, dns), *map(_address, ip)])


def _subject(text: str) -> x509.Name:
    try:
        return x509.Name.from_rfc4514_string(text)
    except ValueError:
        raise refusals.unwanted(f"{text!r} is no subject; write it like CN=device-1,O=Example.") from None


def _dns_name(text: str) -> x509.DNSName:
    try:
        return x509.DNSName(text)
    except ValueError:
        raise refusals.unwanted(f"{text!r} is no DNS name; write letters beyond ASCII in their xn-- form.") from None


def _address(text: str) -> x509.IPAddress:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        raise refusals.unwanted(f"{text!r} is no IP address.") from None


def _get(client: Client, key: Key | Receiver, wishes: Wishes, cert_file: Path, wait: float) -> int:
    """Enrol, or go on with what is pending; the exit code."""
    record = cert_file.with_name(f"{cert_file.name}.pending")
    until = time.monotonic() + wait
    while True:
        with EstClient(client.configuration) as asking:
            result: Enrolled | Pending
            if record.exists():
                pending = Pending.from_json(record.read_text())
                result = asking.resume(pending, key, wishes) if pending.not_before <= time.time() else pending
            elif isinstance(key, Receiver):
                result = asking.full_cmc(key, wishes, asking.csrattrs())
            else:
                result = asking.enroll(key, wishes)
        if isinstance(result, Enrolled):
            _keep(client, result, cert_file)
            record.unlink(missing_ok=True)
            return 0
        write_whole(record, result.to_json().encode(), 0o600)
        pause = result.not_before - time.time()
        if time.monotonic() + pause > until:
            return _still_pending(client, result)
        click.echo(f"Waiting {max(pause, 0):.0f} s for the approval of the request.", err=True)
        time.sleep(max(pause, 0.2))


def _keep(client: Client, result: Enrolled, cert_file: Path) -> None:
    # The anchor itself is not sent in a handshake.
    write_pem(cert_file, (result.certificate, *result.chain[:-1]))
    certificate = result.certificate
    show(
        {
            "subject": certificate.subject.rfc4514_string(),
            "serial": f"{certificate.serial_number:x}",
            "not_after": certificate.not_valid_after_utc.isoformat(),
            "file": str(cert_file),
        },
        as_json=client.as_json,
    )


@click.command()
@client_options
@_KEY
@_CERT
@_SUBJECT
@_DNS
@_IP
def renew(client: Client, key: str, cert_file: Path, subject: str, dns: tuple[str, ...], ip: tuple[str, ...]) -> int:
    """Renew a certificate with the same key; it authenticates itself.

    With --subject, --dns or --ip other names are asked for; a server changes them only if its profile says so.
    """
    identity = open_identity(client.keys, key, cert_file)
    configuration = replace(client.configuration, identity=identity)
    with EstClient(configuration) as asking:
        change = _wishes(subject, dns, ip) if subject or dns or ip else None
        result = asking.reenroll(identity.key, identity.chain[0], change=change)
    return _renewed(client, result, cert_file)


@click.command()
@client_options
@_KEY
@_CERT
@_TYPE
@click.option("--new-key", type=KEY, required=True, help="The new key: a PEM file or slot:NAME; made if not there.")
@click.option("--new-cert", type=FILE, required=True, help="PEM file for its certificate chain.")
@provider_option
def rekey(client: Client, key: str, cert_file: Path, key_type: str, new_key: str, new_cert: Path, provider: str) -> int:
    """Get a certificate of the same names for a new key. The old key authenticates, and is left alone.

    Of a slot only the active version signs, so the new key is in another slot than the old one.
    """
    if new_key == key:
        raise refusals.unwanted("The new key needs another place than the old one, which is to work until it is there.")
    identity = open_identity(client.keys, key, cert_file)
    made = _opened_or_made(client, new_key, key_type, provider)
    with EstClient(replace(client.configuration, identity=identity)) as asking:
        result = asking.reenroll(made, identity.chain[0])
    return _renewed(client, result, new_cert)


def _renewed(client: Client, result: Enrolled | Pending, cert_file: Path) -> int:
    if isinstance(result, Pending):
        return _still_pending(client, result)
    _keep(client, result, cert_file)
    return 0


@click.command()
@client_options
@_SUBJECT
@_DNS
@_IP
@click.option("--client-key", type=KEY, help="Key to authenticate with; the server encrypts for it.")
@click.option("--client-cert", type=FILE, help="Its certificate chain.")
@click.option("--shared-key-file", type=FILE, help="NAME:HEX of a key that the server encrypts with instead.")
@click.option("--passphrase-file", type=FILE, help="Passphrase that the new key's file is locked with.")
@click.option("--out-key", type=KEY, required=True, help="Where the new key goes: slot:NAME, or an encrypted PEM file.")
@click.option("--out-cert", type=FILE, required=True, help="PEM file for its certificate chain.")
@provider_option
def serverkeygen(
    client: Client,
    subject: str,
    dns: tuple[str, ...],
    ip: tuple[str, ...],
    client_key: str | None,
    client_cert: Path | None,
    shared_key_file: Path | None,
    passphrase_file: Path | None,
    out_key: str,
    out_cert: Path,
    provider: str,
) -> int:
    """Have the server make a key. It travels encrypted, and goes into a slot or into an encrypted file.

    Ends with 75 while the server wants an approval; called again, it goes on with the request that is pending.
    """
    keep = _keeper(client, out_key, passphrase_file, provider)
    signer: Key = SoftwareKey(KEY_TYPES["EC-P256"]())
    configuration, recipient = client.configuration, None
    opener = Opener(shared=(_shared(shared_key_file),)) if shared_key_file else None
    if client_key and client_cert:
        identity = open_identity(client.keys, client_key, client_cert)
        configuration, signer = replace(configuration, identity=identity), identity.key
        if opener is None:
            opener, recipient = client.keys.open_receiver(client_key).opener, identity.chain[0]
    if opener is None:
        raise refusals.unwanted(
            "Give --client-key and --client-cert, or --shared-key-file, for the key to travel under."
        )
    if client_key is None and configuration.link is Link.WHEN_POSSIBLE:
        # The key that signs is gone with this process; an approval is asked for again with the same octets.
        configuration = replace(configuration, link=Link.NONE)
    record = out_cert.with_name(f"{out_cert.name}.pending")
    before = Pending.from_json(record.read_text()) if record.exists() else None
    if before is not None and before.not_before > time.time():
        return _still_pending(client, before)
    with EstClient(configuration) as asking:
        made = asking.server_keygen(signer, _wishes(subject, dns, ip), opener, recipient=recipient, before=before)
    if isinstance(made, Pending):
        if client_key is None and not made.request:
            raise refusals.unwanted(
                "The server wants an approval, and a linked request needs its key again: use --client-key."
            )
        write_whole(record, made.to_json().encode(), 0o600)
        return _still_pending(client, made)
    keep(made.pkcs8)
    _keep(client, made.enrolled, out_cert)
    record.unlink(missing_ok=True)
    return 0


def _still_pending(client: Client, pending: Pending) -> int:
    show({"pending": True, "not_before": pending.not_before}, as_json=client.as_json)
    return PENDING_EXIT


def _keeper(client: Client, out_key: str, passphrase_file: Path | None, provider: str) -> Callable[[bytes], object]:
    """What puts the key where it belongs. All that can be refused is refused now, before the server makes one."""
    if slot_of(out_key):
        if client.keys.exists(out_key):
            raise refusals.unwanted(f"{out_key} is there already; name another slot for the new key.")
        if not provider:
            raise refusals.unwanted(f"{out_key} needs a provider; name it with --provider.")
        return lambda pkcs8: client.keys.take_in(out_key, pkcs8, provider)
    passphrase = first_line(passphrase_file) if passphrase_file else ""
    if not passphrase:
        raise refusals.unwanted("A key's file needs a passphrase (--passphrase-file): it is not written in the clear.")
    return lambda pkcs8: write_whole(Path(out_key), _locked(pkcs8, passphrase), 0o600)


def _locked(pkcs8: bytes, passphrase: str) -> bytes:
    return serialization.load_der_private_key(pkcs8, None).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(passphrase.encode()),
    )


def _shared(path: Path) -> SharedKey:
    name, colon, secret = first_line(path).partition(":")
    try:
        return SharedKey(name.encode(), bytes.fromhex(secret if colon else "?"))
    except ValueError:
        raise refusals.unwanted(f"{path} does not hold NAME:HEX.") from None
