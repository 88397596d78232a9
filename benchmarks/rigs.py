"""The providers of a run: what the daemon is configured with, and the library under each, with keys of its own."""

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from benchmarks.direct_esapi import Tpm
from benchmarks.direct_liboqs import Liboqs
from benchmarks.direct_software import Software
from benchmarks.direct_token import Token
from benchmarks.workload import Direct
from hsmbridge.client import CryptoStack
from hsmbridge.config.sections import ProviderSection
from hsmbridge.core.pkcs11_uri import Pkcs11Uri, format_uri
from hsmbridge.lab.lab import Lab
from hsmbridge.lab.rigs import SoftHsmToken, Swtpm

_ROOT = Path(__file__).resolve().parent.parent
_LIBOQS = _ROOT / ".liboqs"
_KRYOPTIC = _ROOT / ".kryoptic" / "libkryoptic_pkcs11.so"
_SOFTOKN = Path("/usr/lib/x86_64-linux-gnu/libsoftokn3.so")
_LABEL = "benchmark"


@dataclass(frozen=True, slots=True)
class Rig:
    """One provider of the daemon, and the library under it.

    Attributes:
        name: of the provider.
        section: what the configuration of the lab does not have already, as lines.
        direct: opens the library, with keys of its own; `close` of the stack closes it.
        missing: why it cannot be measured here, or "".
    """

    name: str
    section: tuple[str, ...] = ()
    direct: Callable[[ExitStack], Direct] = lambda _: Software()
    missing: str = ""


@contextmanager
def running(wanted: Callable[[str], bool]) -> Iterator[tuple[CryptoStack, list[Rig]]]:
    """A daemon with every provider that is wanted and there is, and their rigs."""
    with tempfile.TemporaryDirectory(prefix="hb", dir="/tmp") as folder, Lab.start() as lab:
        rigs = [rig for rig in _rigs(Path(folder)) if wanted(rig.name)]
        sections = ["\n".join((f"[providers.{rig.name}]", *rig.section)) for rig in rigs if rig.section]
        if sections:
            with lab.config.open("a") as config:
                config.write("\n" + "\n\n".join(sections) + "\n")
            lab.restart_daemon()
        lab.wait_until_available([rig.name for rig in rigs if not rig.missing])
        with lab.stack(timeout=60) as stack:
            yield stack, rigs


def _rigs(folder: Path) -> Iterator[Rig]:
    yield Rig("software")
    yield _oqs()
    yield Rig("softhsm", direct=lambda _: _softhsm(folder / "softhsm"))
    yield _softokn(folder / "softokn")
    yield _kryoptic(folder / "kryoptic")
    yield Rig("tpm", direct=lambda closing: _tpm(folder / "tpm", closing))


def _oqs() -> Rig:
    if not _LIBOQS.is_dir():
        return Rig("oqs", missing="liboqs is not built: ./dev liboqs")
    return Rig("oqs", (f'uri = "oqs:{_LIBOQS}"',), lambda _: Liboqs(_LIBOQS))


def _softhsm(folder: Path) -> Direct:
    rig = SoftHsmToken.make(folder, _LABEL)
    os.environ.update(rig.environment)
    return Token(str(rig.module), rig.label, rig.pin_file.read_text())


def _softokn(folder: Path) -> Rig:
    if "module_arguments" not in {field.name for field in msgspec.structs.fields(ProviderSection)}:
        return Rig("softokn", missing="the configuration has no module_arguments")
    theirs, ours = (folder / name for name in ("daemon", "direct"))
    for place in (theirs, ours):
        _run(_ROOT / "softhsm-config" / "provision-softokn", place, _LABEL)
    arguments = (theirs / "module-arguments").read_text()
    section = (
        f'uri = "{_uri(_SOFTOKN)}"',
        f"module_arguments = {msgspec.json.encode(arguments).decode()}",
        f'pin_file = "{theirs / "pin"}"',
    )
    direct = (ours / "module-arguments").read_text()
    return Rig("softokn", section, lambda _: Token(str(_SOFTOKN), _LABEL, (ours / "pin").read_text(), direct))


def _kryoptic(folder: Path) -> Rig:
    if not _KRYOPTIC.exists():
        return Rig("kryoptic", missing="kryoptic is not built: ./dev kryoptic")
    theirs, ours = (folder / name for name in ("daemon", "direct"))
    provision = _ROOT / "softhsm-config" / "provision"
    for place in (theirs, ours):
        _run(provision, "--kind", "kryoptic", "--module", _KRYOPTIC, place, _LABEL)
    section = (
        f'uri = "{_uri(_KRYOPTIC)}"',
        f'environment.KRYOPTIC_CONF = "{theirs / "kryoptic.conf"}"',
        f'pin_file = "{theirs / "pin"}"',
    )

    def direct(_: ExitStack) -> Direct:
        os.environ["KRYOPTIC_CONF"] = str(ours / "kryoptic.conf")
        return Token(str(_KRYOPTIC), _LABEL, (ours / "pin").read_text())

    return Rig("kryoptic", section, direct)


def _tpm(folder: Path, closing: ExitStack) -> Direct:
    rig = Swtpm.make(folder)
    closing.callback(rig.stop)
    tpm = Tpm(rig.tcti)
    closing.callback(tpm.close)
    return tpm


def _uri(module: Path) -> str:
    return format_uri(Pkcs11Uri(token=_LABEL, module_path=str(module)))


def _run(*command: Path | str) -> None:
    subprocess.run([str(word) for word in command], check=True, capture_output=True, timeout=60)
