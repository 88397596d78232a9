"""`est service` and `est status`: certificates that renew themselves, and how they are."""

import json
import signal
import threading
import time
from contextlib import nullcontext
from pathlib import Path

import click

from est.cli.certificates import PENDING_EXIT
from est.cli.options import FILE, Json, json_option, places_of, show, socket_option
from est.service.configuration import read_service_file
from est.service.control import ControlSocket, ask
from est.service.generations import Generations
from est.service.notify import notify
from est.service.running import RenewalService
from est.service.schedule import Life, renew_at


@click.command()
@click.argument("file", type=FILE)
@socket_option
def service(file: Path, socket: Path | None) -> None:
    """Keep the certificates that FILE lists alive, until SIGTERM or SIGINT."""
    told = read_service_file(file)
    stop = threading.Event()
    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, lambda _number, _frame: _end(stop))
    running = RenewalService(told.kept, places_of(socket))
    control = ControlSocket(told.control, running, told.allow) if told.control else nullcontext()
    with control:
        click.echo(f"Keeping {len(told.kept)} certificate(s) alive.")
        notify("READY=1")
        running.run(stop, told.metrics)


def _end(stop: threading.Event) -> None:
    notify("STOPPING=1")
    stop.set()


@click.command()
@click.argument("path", metavar="SOCKET", type=FILE)
@click.argument("command", type=click.Choice(["status", "renew", "chain", "metrics"]))
@click.argument("name", default="")
def control(path: Path, command: str, name: str) -> int:
    """Ask a running `est service` at its control SOCKET; NAME is the certificate to renew, or whose chain to print.

    `renew` ends with 1 if the renewal failed, and with 75 while the server wants an approval.
    """
    if command in {"renew", "chain"} and not name:
        raise click.UsageError(f"{command} takes the NAME of a certificate; `status` lists them.")
    answer = ask(path, command, name)
    click.echo(answer.rstrip("\n") if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False))
    if command != "renew" or not isinstance(answer, dict):
        return 0
    return 1 if answer.get("reason") else PENDING_EXIT if answer.get("pending") else 0


@click.command()
@click.argument("file", type=FILE)
@socket_option
@json_option
def status(file: Path, socket: Path | None, as_json: bool) -> int:
    """Show the certificates that FILE lists; ends with 1 if one is missing or expired."""
    now, good, document = time.time(), True, dict[str, Json]()
    for one in read_service_file(file).kept:
        identity = Generations(one.folder, places_of(socket)).identity()
        if identity is None:
            good = False
            document[one.watch.name] = "missing"
            continue
        life = Life.of(identity.chain[0])
        good = good and now < life.end
        document[one.watch.name] = {
            "serial": f"{identity.chain[0].serial_number:x}",
            "not_after": life.end,
            "renew_at": renew_at(life, one.watch.name),
            "expired": now >= life.end,
        }
    show(document, as_json=as_json)
    return 0 if good else 1
