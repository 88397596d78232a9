"""The file that says which certificates are kept alive: a table [certificate.NAME] for each.

folder = "/var/lib/est/web"      where the pair is; consumers read folder/current/
server = "ca.example:8443"       label = ""
ca = "/etc/est/anchors.pem"
subject = "CN=web"               dns = ["web.example"]
user = "web"                     password_file = "/etc/est/web.password"
key_type = "EC-P256"
slot = "web"                     provider = "softhsm"       keys in slots web-000001 and on; without, files
rekey = true                     false: one key for all certificates, in the slot of exactly that name
reload = ["systemctl", "reload", "nginx"]
alert = ["/usr/local/bin/tell-somebody"]

A table [service] is about the service itself:

control = "/run/est/control.sock"                    allow = [1000]      uids that may ask there, beside its own
metrics = "/var/lib/prometheus/node-exporter/est.prom"
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from est import refusals
from est.client import ClientConfiguration, EstAddress
from est.csr.request import Wishes
from est.http.authorization import Credentials
from est.key_places import KEY_TYPES
from est.service.next_key import KeyPlan
from est.service.renewer import Watch
from est.trust.anchors import TrustAnchors, read_anchors

_TEXTS = ("folder", "server", "label", "ca", "subject", "user", "password_file", "key_type", "slot", "provider")
_LISTS = ("dns", "reload", "alert")


@dataclass(frozen=True, slots=True)
class Kept:
    """One certificate that is kept alive, and the folder it is in."""

    watch: Watch
    folder: Path


@dataclass(frozen=True, slots=True)
class ServiceFile:
    """What the file says.

    Attributes:
        control: where the control socket is, or None.
        allow: uids that may ask there.
        metrics: the metrics file, or "".
    """

    kept: tuple[Kept, ...]
    control: Path | None = None
    allow: tuple[int, ...] = ()
    metrics: str = ""


def read_service_file(path: Path) -> ServiceFile:
    """What the file says.

    Raises:
        RequestError: it cannot be read, or an entry is missing, unknown or of the wrong type.
    """
    try:
        document = tomllib.loads(path.read_text())
    except (OSError, ValueError):
        raise refusals.unwanted(f"{path} is not a readable TOML file.") from None
    tables, own = document.get("certificate", {}), document.get("service", {})
    if not isinstance(tables, dict) or not tables:
        raise refusals.unwanted(f"{path} has no table [certificate.NAME].")
    kept = tuple(_kept(name, table) for name, table in tables.items())
    if not isinstance(own, dict) or set(own) - {"control", "allow", "metrics"}:
        raise refusals.unwanted("The table [service] has the entries control, allow and metrics.")
    control, allow, metrics = own.get("control", ""), own.get("allow", []), own.get("metrics", "")
    uids = isinstance(allow, list) and all(type(one) is int for one in allow)
    if not (isinstance(control, str) and isinstance(metrics, str) and uids):
        raise refusals.unwanted("An entry of [service] has the wrong type: control and metrics are paths, allow uids.")
    return ServiceFile(kept, Path(control) if control else None, tuple(allow), metrics)


def _kept(name: str, table: object) -> Kept:
    texts: dict[str, str] = dict.fromkeys(_TEXTS, "")
    lists: dict[str, tuple[str, ...]] = dict.fromkeys(_LISTS, ())
    rekey = True
    if not isinstance(table, dict):
        raise refusals.unwanted(f"certificate.{name} is not a table.")
    for key, value in table.items():
        if key in texts and isinstance(value, str):
            texts[key] = value
        elif key in lists and isinstance(value, list) and all(isinstance(one, str) for one in value):
            lists[key] = tuple(value)
        elif key == "rekey" and isinstance(value, bool):
            rekey = value
        else:
            raise refusals.unwanted(f"certificate.{name} has an entry {key!r} that is unknown or of the wrong type.")
    missing = [one for one in ("folder", "server", "ca") if not texts[one]]
    if missing:
        raise refusals.unwanted(f"certificate.{name} lacks {missing[0]!r}.")
    key_type = texts["key_type"] or "EC-P256"
    if key_type not in KEY_TYPES:
        raise refusals.unwanted(f"certificate.{name} has no key_type of {', '.join(KEY_TYPES)}.")
    if bool(texts["slot"]) != bool(texts["provider"]):
        raise refusals.unwanted(f"certificate.{name} has one of slot and provider; it takes both.")
    plan = KeyPlan(key_type, texts["slot"], texts["provider"], rekey)
    anchors, intermediates = read_anchors(Path(texts["ca"]))
    configuration = ClientConfiguration(
        EstAddress.parse(texts["server"], texts["label"]),
        TrustAnchors(anchors, intermediates),
        credentials=_credentials(texts),
    )
    watch = Watch(
        name, configuration, _wishes(name, texts, lists), plan, lists["reload"], lists["alert"], Path(texts["ca"])
    )
    return Kept(watch, Path(texts["folder"]))


def _credentials(texts: Mapping[str, str]) -> Credentials | None:
    if not texts["password_file"]:
        return None
    try:
        lines = Path(texts["password_file"]).read_text().splitlines()
    except (OSError, ValueError):
        raise refusals.unwanted("A password_file cannot be read.") from None
    return Credentials(texts["user"], lines[0] if lines else "")


def _wishes(name: str, texts: Mapping[str, str], lists: Mapping[str, tuple[str, ...]]) -> Wishes:
    try:
        subject = x509.Name.from_rfc4514_string(texts["subject"]) if texts["subject"] else None
        return Wishes.of(subject, [x509.DNSName(one) for one in lists["dns"]])
    except ValueError:
        raise refusals.unwanted(f"A name of certificate.{name} cannot be read.") from None
