"""Options that several commands share, and the client that they describe."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

import click

from hsmbridge.client import CryptoStack

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Client:
    """What every command that asks the daemon was told.

    Attributes:
        socket: path of the daemon's socket; None takes the usual one.
        timeout: seconds, None for no limit.
        as_json: print one JSON document.
    """

    socket: str | None
    timeout: float | None
    as_json: bool

    def stack(self) -> CryptoStack:
        """A stack on the daemon; nothing is opened yet."""
        return CryptoStack(self.socket, timeout=self.timeout)


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


def client_options(command: Callable[Concatenate[Client, P], R]) -> Callable[P, R]:
    """Give a command --socket, --timeout and --json, and hand it the Client that they make."""

    @click.option("--socket", metavar="PATH", help="Socket of the daemon [default: $HSMBRIDGE_SOCKET or the usual].")
    @click.option(
        "--timeout",
        type=click.FloatRange(min=0),
        default=30.0,
        show_default=True,
        metavar="SECONDS",
        help="How long a call may take; 0 is for ever.",
    )
    @json_option
    @wraps(command)
    def with_client(*args: P.args, **kwargs: P.kwargs) -> R:
        seconds = kwargs.pop("timeout")
        socket = kwargs.pop("socket")
        client = Client(
            socket=socket if isinstance(socket, str) else None,
            timeout=float(seconds) if isinstance(seconds, int | float) and seconds else None,
            as_json=bool(kwargs.pop("as_json")),
        )
        return command(client, *args, **kwargs)

    return with_client


slot_option = click.option("--slot", required=True, metavar="NAME", help="NAME, or NAMESPACE/NAME of others.")
algorithm_option = click.option(
    "--algorithm", metavar="NAME", help="May be left out where the key type has one obvious choice."
)
in_option = click.option("--in", "input_", default="-", metavar="FILE", help="Input [default: stdin].")
out_option = click.option("--out", "output", default="-", metavar="FILE", help="Output [default: stdout].")
version_option = click.option(
    "--version", "version", type=click.IntRange(min=0), default=0, metavar="N", help="Key version [default: try all]."
)
