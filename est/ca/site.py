"""A CA in a folder: made by `create_site`, opened by `open_site`. Keys are in slots, or PEM files of mode 0600 in it.

ca.toml         host, port, wrap, and a table [profile.LABEL] for each CA that is offered; "default" has no label;
                a table [keys] names the keys that are in slots
root.pem/.key   issuing.pem/.key   server.pem/.key   record.sqlite
users           NAME:PASSWORD, one a line (mode 0600)
clients.pem     CAs beside our own whose certificates authenticate clients (if it exists)
shared-keys     NAME:HEX, one a line: keys under which server-made keys are sent (if it exists, mode 0600)
"""

import os
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from est import refusals
from est.ca.authority import Authority, Issuer, new_intermediate, new_root
from est.ca.profile import Profile
from est.ca.record import Record
from est.cms.enveloped import SharedKey
from est.csr.demands import Demands
from est.csr.request import Wishes, plan, sign_request
from est.key_places import SLOT, KeyPlaces, slot_of
from est.keys import Key, SoftwareKey
from est.trust.anchors import write_pem, write_whole
from est.trust.path import is_ca

_STEMS = ("root", "issuing", "server")

_CONFIGURATION = """\
# A CA of est; see `est serve --help`.
host = "{host}"
port = {port}
wrap = 64
digest = true
{keys}
[profile.default]
lifetime = 7776000
usages = ["clientAuth", "serverAuth"]
"""


@dataclass(frozen=True, slots=True)
class CaSite:
    """An opened CA.

    Attributes:
        profiles: by label; "" is the one without a label.
        server_chain: the certificate for TLS and what leads to the root.
    """

    authority: Authority
    root: x509.Certificate
    profiles: dict[str, Profile]
    users: dict[str, str]
    client_anchors: tuple[x509.Certificate, ...]
    shared_keys: tuple[SharedKey, ...]
    server_key: Key
    server_chain: tuple[x509.Certificate, ...]
    host: str
    port: int
    wrap: int
    digest: bool = True
    """Offer Digest before Basic; a client that reads one challenge only may need this off."""


def new_software_key() -> SoftwareKey:
    """A key on P-256."""
    return SoftwareKey(ec.generate_private_key(ec.SECP256R1()))


def slot_names(prefix: str) -> dict[str, str]:
    """What the keys of a CA are called where they are in slots."""
    return {stem: f"{SLOT}{prefix}-{stem}" for stem in _STEMS}


def create_site(
    folder: Path, name: str, host: str, port: int, make_key: Callable[[str], Key] | None = None, slots: str = ""
) -> x509.Certificate:
    """Make a CA: a root, an issuing CA below it, and a certificate for its server. The root certificate.

    Args:
        make_key: makes the keys for "root", "issuing" and "server"; None: software keys.
        slots: the prefix of the slots that `make_key` made them in, or "" for files.

    Raises:
        RequestError: the folder is there and not empty.
    """
    if folder.exists() and any(folder.iterdir()):
        raise refusals.unwanted(f"{folder} is not empty; choose another folder for the CA.")
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    make = make_key or (lambda _: new_software_key())
    root = new_root(make("root"), f"{name} Root")
    issuing = new_intermediate(root, make("issuing"), f"{name} Issuing CA")
    record = Record(folder / "record.sqlite")
    try:
        server_key = make("server")
        wishes = Wishes.of(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)]), [x509.DNSName(host)])
        csr = sign_request(plan(wishes, Demands(), server_key.signer.public_key()), server_key)
        profile = Profile("server", lifetime=825 * 86400, usages=("serverAuth",))
        server = Authority(issuing, record).issue(x509.load_der_x509_csr(csr), profile, "ca init")
    finally:
        record.close()
    for stem, issuer in (
        ("root", root),
        ("issuing", issuing),
        ("server", Issuer(server_key, (server, *issuing.chain))),
    ):
        if isinstance(issuer.key, SoftwareKey):
            write_whole(folder / f"{stem}.key", issuer.key.to_pem(), 0o600)
        write_pem(folder / f"{stem}.pem", issuer.chain)
    write_whole(folder / "users", b"", 0o600)
    named = slot_names(slots) if slots else {}
    keys = "".join(f'{stem} = "{reference}"\n' for stem, reference in named.items())
    text = _CONFIGURATION.format(host=host, port=port, keys=f"\n[keys]\n{keys}" if keys else "")
    write_whole(folder / "ca.toml", text.encode(), 0o644)
    return root.certificate


def open_site(folder: Path, places: KeyPlaces | None = None) -> CaSite:
    """Open a CA; `places` opens those of its keys that are in slots.

    Raises:
        RequestError: a file is missing, or says what cannot be.
    """
    try:
        settings = tomllib.loads((folder / "ca.toml").read_text())
        root = x509.load_pem_x509_certificates((folder / "root.pem").read_bytes())[-1]
        opened = _Keys(folder, settings.get("keys", {}), places or KeyPlaces())
        issuing = Issuer(opened.key("issuing"), _certificates(folder / "issuing.pem"))
        server = Issuer(opened.key("server"), _certificates(folder / "server.pem"))
        users = dict(_pairs(folder / "users"))
        shared = tuple(
            SharedKey(name.encode(), bytes.fromhex(secret)) for name, secret in _pairs(folder / "shared-keys")
        )
    except FileNotFoundError as problem:
        raise refusals.unwanted(f"{folder} is not a CA: {Path(str(problem.filename)).name} is missing.") from None
    except (OSError, ValueError) as problem:
        raise refusals.unwanted(f"A file of the CA in {folder} cannot be read.") from problem
    tables = settings.get("profile", {})
    host, port, wrap = settings.get("host", "localhost"), settings.get("port", 8443), settings.get("wrap", 64)
    if not (isinstance(tables, dict) and isinstance(host, str) and isinstance(port, int) and isinstance(wrap, int)):
        raise refusals.unwanted("ca.toml has an entry of the wrong type: host, port, wrap, or profile.")
    profiles = {"" if label == "default" else label: Profile.from_table(label, one) for label, one in tables.items()}
    more = folder / "clients.pem"
    return CaSite(
        authority=Authority(issuing, Record(folder / "record.sqlite")),
        root=root,
        profiles=profiles or {"": Profile()},
        users=users,
        client_anchors=tuple(one for one in _certificates(more) if is_ca(one)) if more.exists() else (),
        shared_keys=shared,
        server_key=server.key,
        server_chain=server.chain,
        host=host,
        port=port,
        wrap=wrap,
        digest=settings.get("digest", True) is True,
    )


class _Keys:
    """The keys of a CA: in the slots that ca.toml names, and otherwise in files beside it."""

    def __init__(self, folder: Path, table: object, places: KeyPlaces) -> None:
        if not isinstance(table, dict) or not all(isinstance(one, str) and slot_of(one) for one in table.values()):
            raise refusals.unwanted("The table [keys] of ca.toml names slots, as slot:NAME.")
        self._folder = folder
        self._references: dict[str, str] = table
        self._places = places

    def key(self, stem: str) -> Key:
        reference = self._references.get(stem, "")
        if reference:
            return self._places.open(reference)
        return SoftwareKey.from_pem(_secret(self._folder / f"{stem}.key"))


def _secret(path: Path) -> bytes:
    if path.stat().st_mode & 0o077 and path.stat().st_uid == os.getuid():
        raise refusals.denied(f"{path.name} can be read by others; make it mode 0600.")
    return path.read_bytes()


def _certificates(path: Path) -> tuple[x509.Certificate, ...]:
    return tuple(x509.load_pem_x509_certificates(path.read_bytes()))


def _pairs(path: Path) -> list[tuple[str, str]]:
    if not path.exists():
        return []
    found = []
    for line in _secret(path).decode().splitlines():
        name, colon, secret = line.partition(":")
        if colon:
            found.append((name, secret))
    return found


__all__ = ["CaSite", "create_site", "new_software_key", "open_site", "slot_names"]
