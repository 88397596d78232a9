"""`est ca`: make a CA, issue by hand, approve, revoke, and sign a CRL."""

from pathlib import Path

import click
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from est import refusals
from est.ca.site import CaSite, create_site, open_site, slot_names
from est.cli.options import FILE, json_option, places_of, provider_option, show, socket_option
from est.cli.serving import FOLDER
from est.cms.certs_only import UNREADABLE
from est.csr.request import is_unsigned
from est.key_places import KEY_TYPES
from est.keys import Key, SoftwareKey
from est.trust.anchors import write_pem, write_whole
from est.trust.fingerprint import fingerprint


@click.group()
def ca() -> None:
    """A CA for labs and small sites."""


@ca.command()
@click.argument("folder", type=FOLDER)
@click.option("--name", default="Lab", show_default=True, help="Name of the CA.")
@click.option("--host", default="localhost", show_default=True, help="DNS name of its server.")
@click.option("--port", type=click.IntRange(1, 65535), default=8443, show_default=True)
@click.option("--slots", default="", metavar="PREFIX", help="Keep the keys in slots PREFIX-root, -issuing and -server.")
@click.option("--key-type", type=click.Choice(list(KEY_TYPES)), default="EC-P256", show_default=True)
@provider_option
@socket_option
@json_option
def init(
    folder: Path,
    name: str,
    host: str,
    port: int,
    slots: str,
    key_type: str,
    provider: str,
    socket: Path | None,
    as_json: bool,
) -> None:
    """Make a CA in FOLDER: a root, an issuing CA and a server certificate."""
    places = places_of(socket)
    named = slot_names(slots) if slots else {}

    def make(stem: str) -> Key:
        if stem in named:
            return places.make(named[stem], key_type, provider)
        return SoftwareKey(KEY_TYPES[key_type]())

    root = create_site(folder, name, host, port, make, slots)
    show({"folder": str(folder), "root_sha256": fingerprint(root)}, as_json=as_json)


@ca.command()
@click.argument("folder", type=FOLDER)
@click.option("--csr", "csr_file", type=FILE, required=True, help="Request, PEM or DER.")
@click.option("--out", type=FILE, required=True, help="PEM file for the certificate.")
@click.option("--profile", default="", help="Label of the profile [default: the one without a label].")
@socket_option
@json_option
def issue(folder: Path, csr_file: Path, out: Path, profile: str, as_json: bool, socket: Path | None) -> None:
    """Issue a certificate for a request that you checked."""
    site = open_site(folder, places_of(socket))
    try:
        chosen = site.profiles.get(profile)
        if chosen is None:
            raise refusals.absent(f"ca.toml has no profile {profile!r}.")
        certificate = site.authority.issue(_request(csr_file), chosen, "ca issue")
        write_pem(out, (certificate, *site.authority.issuer.chain[:-1]))
        show({"serial": f"{certificate.serial_number:x}", "file": str(out)}, as_json=as_json)
    finally:
        site.authority.record.close()


def _request(path: Path) -> x509.CertificateSigningRequest:
    try:
        raw = path.read_bytes()
        csr = x509.load_pem_x509_csr(raw) if b"-----BEGIN" in raw else x509.load_der_x509_csr(raw)
        good = not is_unsigned(csr) and csr.is_signature_valid
        for part in (csr.subject, csr.extensions):
            del part
    except (OSError, *UNREADABLE):
        raise refusals.unwanted(f"{path} is not a readable request.") from None
    if not good:
        raise refusals.unwanted("The request is not signed by its own key.")
    return csr


@ca.command()
@click.argument("folder", type=FOLDER)
@click.argument("serial")
@click.option("--reason", default="unspecified", show_default=True, help="As RFC 5280 names it, such as keyCompromise.")
@socket_option
def revoke(folder: Path, serial: str, reason: str, socket: Path | None) -> None:
    """Revoke the certificate with a serial number in hex."""
    site = open_site(folder, places_of(socket))
    try:
        site.authority.revoke(serial, reason)
    finally:
        site.authority.record.close()


@ca.command()
@click.argument("folder", type=FOLDER)
@click.option("--out", type=FILE, required=True, help="PEM file for the CRL.")
@socket_option
def crl(folder: Path, out: Path, socket: Path | None) -> None:
    """Sign a CRL of what is revoked now."""
    site = open_site(folder, places_of(socket))
    try:
        write_whole(out, site.authority.crl().public_bytes(serialization.Encoding.PEM), 0o644)
    finally:
        site.authority.record.close()


@ca.command("list")
@click.argument("folder", type=FOLDER)
@socket_option
@json_option
def list_(folder: Path, as_json: bool, socket: Path | None) -> None:
    """List certificates, and requests that wait for approval."""
    site = open_site(folder, places_of(socket))
    try:
        _show_all(site, as_json=as_json)
    finally:
        site.authority.record.close()


def _show_all(site: CaSite, *, as_json: bool) -> None:
    record = site.authority.record
    state = {True: "revoked", False: "issued"}
    issued = [f"{one.serial} {state[one.revoked_at is not None]} {one.subject}" for one in record.certificates()]
    waiting = [f"{one.id} {one.subject}" for one in record.waiting() if not one.approved]
    show({"certificates": [*issued], "waiting": [*waiting]}, as_json=as_json)


@ca.command()
@click.argument("folder", type=FOLDER)
@click.argument("request")
@socket_option
def approve(folder: Path, request: str, socket: Path | None) -> None:
    """Let a waiting request pass, by the id that `list` shows."""
    site = open_site(folder, places_of(socket))
    try:
        site.authority.record.approve(request)
    finally:
        site.authority.record.close()
