"""`est serve`: a CA in a folder as a server, until it is told to stop."""

import signal
import threading
from pathlib import Path

import click

from est.ca.site import open_site
from est.cli.options import places_of, socket_option
from est.server.running import listener_for

FOLDER = click.Path(path_type=Path, file_okay=False)


@click.command()
@click.argument("folder", type=FOLDER)
@click.option("--host", default="", help="Address to listen on [default: that of ca.toml].")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on [default: that of ca.toml].")
@socket_option
def serve(folder: Path, host: str, port: int | None, socket: Path | None) -> None:
    """Serve the CA in FOLDER over EST until SIGTERM or SIGINT."""
    stop = threading.Event()
    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, lambda _number, _frame: stop.set())
    site = open_site(folder, places_of(socket))
    try:
        with listener_for(site, host, port) as listener:
            click.echo(f"EST on port {listener.port}")
            stop.wait()
    finally:
        site.authority.record.close()
