"""What a worker inherits from its supervisor: file descriptors, and behind one of them all that it is told.

The command line carries numbers only. PINs are there for the providers that run inside the worker; those of the
hosts never come here.
"""

import argparse
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from hsmbridge.core.errors import HsmBridgeError, RequestError, Status, error_from_wire
from hsmbridge.core.secrets import Pin
from hsmbridge.providers.host.messages import STATES_PACKET_MAX, ProviderStates
from hsmbridge.providers.host.spec import memory_file
from hsmbridge.wire.codec import decode_body

_NUMBERS: Final = ("listen", "counters", "control", "spec")


class _PinOf(msgspec.Struct, frozen=True, array_like=True):
    provider: str
    pin: str | None
    status: int = 0
    message: str = ""


class _WorkerSpec(msgspec.Struct, frozen=True, array_like=True):
    spec: bytes
    pins: list[_PinOf]


@dataclass(frozen=True, slots=True)
class Inheritance:
    """A worker's start.

    Attributes:
        index: which worker this is, from 0; its row of the counters.
        listener: accept clients here; shared by all workers.
        counters_fd: for `SharedCounters.attach`.
        control: packets of `ProviderStates` come here; its end says that the supervisor is gone.
        spec: what the settings' `worker_spec` said.
        front_ends: by name, where further front ends accept clients; shared by all workers.
        processors: the only ones that this worker runs on; none is all.
        pins: of providers with isolation = thread, or the reason why one could not be read.
    """

    index: int
    listener: socket.socket
    counters_fd: int
    control: socket.socket
    spec: bytes
    pins: Mapping[str, Pin | HsmBridgeError]
    processors: frozenset[int] = frozenset()
    front_ends: Mapping[str, socket.socket] = field(default_factory=dict)

    def receive_states(self) -> ProviderStates | None:
        """The next packet of states, or None where the supervisor is gone. Blocks as `control` does."""
        packet = self.control.recv(STATES_PACKET_MAX)
        return decode_body(ProviderStates, packet) if packet else None


def inherit(arguments: Sequence[str] | None = None) -> Inheritance:
    """What the command line of a worker leads to. Raises RequestError (INVALID_CONFIGURATION)."""
    parser = argparse.ArgumentParser(prog="hsmbridge.daemon", description="One worker; started by `hsmbridge serve`.")
    for name in _NUMBERS:
        parser.add_argument(f"--{name}-fd", type=int, required=True)
    parser.add_argument("--index", type=int, required=True)
    parser.add_argument("--processor", action="append", default=[], type=int)
    parser.add_argument("--front-end", action="append", default=[], metavar="NAME:FD", type=_named_descriptor)
    chosen = parser.parse_args(arguments)
    with os.fdopen(chosen.spec_fd, "rb") as file:
        content = file.read()
    try:
        told = msgspec.msgpack.decode(content, type=_WorkerSpec)
    except msgspec.MsgspecError:
        raise RequestError(Status.INVALID_CONFIGURATION, "The worker's specification cannot be read.") from None
    front_ends: dict[str, int] = dict(chosen.front_end)
    for fd in (chosen.listen_fd, chosen.counters_fd, chosen.control_fd, *front_ends.values()):
        os.set_inheritable(fd, False)
    return Inheritance(
        index=chosen.index,
        listener=socket.socket(fileno=chosen.listen_fd),
        counters_fd=chosen.counters_fd,
        control=socket.socket(fileno=chosen.control_fd),
        spec=told.spec,
        pins={entry.provider: _pin_or_reason(entry) for entry in told.pins},
        processors=frozenset(chosen.processor),
        front_ends={name: socket.socket(fileno=fd) for name, fd in front_ends.items()},
    )


def _named_descriptor(text: str) -> tuple[str, int]:
    name, _, number = text.partition(":")
    return name, int(number)


def worker_arguments(index: int, fds: Mapping[str, int], processors: Sequence[int] = ()) -> list[str]:
    """The command line of a worker; `fds` by the names listen, counters, control and spec, others are front ends."""
    numbers = [argument for name in _NUMBERS for argument in (f"--{name}-fd", str(fds[name]))]
    others = [argument for name in fds if name not in _NUMBERS for argument in ("--front-end", f"{name}:{fds[name]}")]
    places = [argument for number in processors for argument in ("--processor", str(number))]
    return [*numbers, *others, *places, "--index", str(index)]


def write_worker_spec(spec: bytes, pins: Mapping[str, Pin | HsmBridgeError]) -> int:
    """A file descriptor for a new worker to read `spec` and `pins` from."""
    entries = [
        _PinOf(name, None, pin.status, pin.message) if isinstance(pin, HsmBridgeError) else _PinOf(name, pin.reveal())
        for name, pin in pins.items()
    ]
    return memory_file("hsmbridge-worker", msgspec.msgpack.encode(_WorkerSpec(spec, entries)))


def _pin_or_reason(entry: _PinOf) -> Pin | HsmBridgeError:
    return error_from_wire(entry.status, entry.message) if entry.pin is None else Pin(entry.pin)
