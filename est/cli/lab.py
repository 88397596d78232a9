"""`est lab`: a CA with root, intermediate and a running server, to try things and to test.

    eval "$(est lab up)"
    est enroll "$EST_SERVER" --ca "$EST_CA" --user device --password-file "$EST_PASSWORD_FILE" ...
    eval "$(est lab down)"

What a shell evaluates goes to stdout and everything else to stderr. The environment holds paths, and no password.
"""

import json
import os
import secrets
import select
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import click
from cryptography import x509

from est import refusals
from est.ca.site import create_site, slot_names
from est.cli.options import json_option, places_of, provider_option, show, socket_option
from est.cli.serving import FOLDER
from est.key_places import KEY_TYPES, KeyPlaces
from est.keys import Key, SoftwareKey
from est.trust.anchors import write_pem, write_whole
from hsmbridge.core.errors import HsmBridgeError

LAB_VARIABLE = "EST_LAB"
USER = "device"
START_TIMEOUT = 30.0
"""Seconds that the server may take to be there."""
_RECORD = "est-lab.json"
_GRACE = 10.0

_which = click.argument("directory", required=False, type=FOLDER)


@click.group()
def lab() -> None:
    """A CA and its server, to try things and to test."""


@lab.command()
@click.option("--dir", "directory", type=FOLDER, help="Where; a folder that is empty or not there yet.")
@click.option("--slots", default="", metavar="PREFIX", help="Keep the keys in slots PREFIX-root, -issuing and -server.")
@provider_option
@socket_option
@json_option
def up(directory: Path | None, slots: str, provider: str, socket: Path | None, as_json: bool) -> None:
    """Start a lab and print its environment: eval "$(est lab up)"."""
    if directory is None:
        place = Path(tempfile.mkdtemp(prefix="est-lab-"))
    else:
        place = directory.absolute()
        if place.exists() and any(place.iterdir()):
            raise refusals.unwanted(f"{place} is not empty; choose another folder for the lab.")
        place.mkdir(parents=True, exist_ok=True)
    place.chmod(0o700)
    places = places_of(socket)
    # Whatever fails from here on, `down` finds what is there.
    record: dict[str, str | int] = {"slots": slots, "socket": str(socket or ""), "pid": 0, "port": 0}
    _write(place, record)
    try:
        _make(place, places, slots, provider)
        record["pid"], record["port"] = _serve(place, socket)
        _write(place, record)
    except BaseException:
        _remove(place)
        raise
    _tell(place, as_json=as_json)
    click.echo(f'lab: CA in {place}, user {USER}; end it with: eval "$(est lab down)"', err=True)


def _make(place: Path, places: KeyPlaces, slots: str, provider: str) -> None:
    named = slot_names(slots) if slots else {}

    def make(stem: str) -> Key:
        if stem in named:
            return places.make(named[stem], "EC-P256", provider)
        return SoftwareKey(KEY_TYPES["EC-P256"]())

    root = create_site(place / "ca", "Lab", "localhost", 8443, make, slots)
    password = secrets.token_urlsafe(18)
    write_whole(place / "ca/users", f"{USER}:{password}\n".encode(), 0o600)
    write_whole(place / "password", f"{password}\n".encode(), 0o600)
    write_pem(
        place / "anchors.pem", (root, *x509.load_pem_x509_certificates((place / "ca/issuing.pem").read_bytes())[:1])
    )


def _serve(place: Path, socket: Path | None) -> tuple[int, int]:
    """Start the server; its process and port."""
    command = [sys.executable, "-m", "est.cli", "serve", str(place / "ca"), "--host", "127.0.0.1", "--port", "0"]
    command += ["--socket", str(socket)] if socket else []
    with (place / "log").open("ab") as log:
        running = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, start_new_session=True
        )
    assert running.stdout is not None  # noqa: S101 - it was asked for
    with running.stdout as said:
        ready, _, _ = select.select([said], [], [], START_TIMEOUT)
        words = said.readline().split() if ready else []
    if not words:
        running.kill()
        running.wait()
        raise refusals.unreachable(f"The server of the lab did not start: {_last_line(place / 'log')}")
    return running.pid, int(words[-1])


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    return lines[-1] if lines else "it said nothing."


@lab.command()
@_which
@json_option
def env(directory: Path | None, as_json: bool) -> None:
    """Print the environment of a lab (default $EST_LAB), for another shell to evaluate."""
    _tell(_chosen(directory), as_json=as_json)


@lab.command()
@_which
def down(directory: Path | None) -> None:
    """End a lab (default $EST_LAB) and remove its folder and slots: eval "$(est lab down)"."""
    place = _chosen(directory)
    variables = " ".join(_environment(place))
    _remove(place)
    if os.environ.get(LAB_VARIABLE) == str(place):
        click.echo(f"unset {variables}")
    click.echo(f"lab in {place}: removed", err=True)


def _chosen(directory: Path | None) -> Path:
    named = directory or Path(os.environ.get(LAB_VARIABLE, ""))
    if named == Path() or not (named / _RECORD).exists():
        raise refusals.absent(f"There is no lab of est here; give its folder, or set ${LAB_VARIABLE}.")
    return named.absolute()


def _write(place: Path, record: dict[str, str | int]) -> None:
    write_whole(place / _RECORD, json.dumps(record).encode(), 0o600)


def _read(place: Path) -> tuple[str, str, int, int]:
    """Prefix of the slots, socket, process and port."""
    try:
        held = json.loads((place / _RECORD).read_bytes())
        return str(held["slots"]), str(held["socket"]), int(held["pid"]), int(held["port"])
    except (ValueError, KeyError, TypeError):
        raise refusals.unwanted(f"{place / _RECORD} cannot be read; end the server and remove the folder.") from None


def _environment(place: Path) -> dict[str, str]:
    return {
        LAB_VARIABLE: str(place),
        "EST_SERVER": f"localhost:{_read(place)[3]}",
        "EST_CA": str(place / "anchors.pem"),
        "EST_PASSWORD_FILE": str(place / "password"),
    }


def _tell(place: Path, *, as_json: bool) -> None:
    if as_json:
        show({"directory": str(place), "environment": dict(_environment(place))}, as_json=True)
        return
    for name, value in _environment(place).items():
        click.echo(f"export {name}={shlex.quote(value)}")


def _remove(place: Path) -> None:
    slots, socket, pid, _ = _read(place)
    if pid:
        _end(pid, place)
    if slots:
        places = places_of(Path(socket) if socket else None)
        for reference in slot_names(slots).values():
            try:
                places.remove(reference)
            except HsmBridgeError as problem:
                click.echo(f"lab: {reference} remains: {problem.message}", err=True)
    shutil.rmtree(place)


def _end(pid: int, place: Path) -> None:
    """End the server, if the process of that number is it still."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        # The descriptor is of the process that is looked at here, whatever its number is given to later.
        if str(place / "ca").encode() not in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
            return
        for one in (signal.SIGTERM, signal.SIGKILL):
            signal.pidfd_send_signal(process, one)
            if select.select([process], [], [], _GRACE)[0]:
                return
    except (FileNotFoundError, ProcessLookupError):
        return
    finally:
        os.close(process)
