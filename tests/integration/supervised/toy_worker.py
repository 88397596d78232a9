"""A worker that says what it was given. One JSON line a request, one a reply, on the socket that it inherits.

    {"ask": "who"}                                     what it inherited and knows
    {"ask": "await", "provider": P, "available": B}   "who", once the state of P is so ("not_pid", "status", "because")
    {"ask": "end", "status": N}                        exits at once

The specification "deaf" makes it deaf to SIGTERM.
"""

import json
import os
import selectors
import signal
import socket
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from hsmbridge.core.errors import HsmBridgeError
from hsmbridge.providers.host.messages import ProviderStates
from hsmbridge.storage.changes import SharedCounters
from hsmbridge.supervisor import Inheritance, inherit

Request = dict[str, object]


class ToyWorker:
    def __init__(self, inherited: Inheritance) -> None:
        self.inherited = inherited
        self.states = ProviderStates()
        self.packets = 0
        self.counters = SharedCounters.attach(inherited.counters_fd)
        self.waiting: list[tuple[socket.socket, Request]] = []
        self.selector = selectors.DefaultSelector()

    def run(self) -> None:
        if self.inherited.spec != b"deaf":
            signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
        else:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self.inherited.listener.setblocking(False)
        self.selector.register(self.inherited.listener, selectors.EVENT_READ)
        self.selector.register(self.inherited.control, selectors.EVENT_READ)
        while True:
            for key, _ in self.selector.select():
                if key.fileobj is self.inherited.control:
                    self.hear()
                elif key.fileobj is self.inherited.listener:
                    self.accept()
                elif isinstance(key.fileobj, socket.socket):
                    self.read(key.fileobj)

    def hear(self) -> None:
        states = self.inherited.receive_states()
        if states is None:
            os._exit(0)
        self.states = states
        self.packets += 1
        self.counters.add(self.inherited.index, 1)
        self.look()

    def accept(self) -> None:
        try:
            connection, _ = self.inherited.listener.accept()
        except BlockingIOError:
            return
        self.selector.register(connection, selectors.EVENT_READ)

    def read(self, connection: socket.socket) -> None:
        line = connection.recv(65536)
        if not line:
            self.selector.unregister(connection)
            connection.close()
            return
        request = json.loads(line)
        if request["ask"] == "end":
            os._exit(request["status"])
        self.waiting.append((connection, request))
        self.look()

    def look(self) -> None:
        for entry in tuple(self.waiting):
            connection, request = entry
            if self.holds(request):
                self.waiting.remove(entry)
                connection.sendall(json.dumps(self.who()).encode() + b"\n")

    def holds(self, request: Request) -> bool:
        if request["ask"] == "who":
            return True
        for state in self.states.providers:
            if state.name == request["provider"]:
                wanted = request.get("status")
                return (
                    state.available == request["available"]
                    and state.pid != request.get("not_pid", -1)
                    and wanted in {None, state.status}
                    and str(request.get("because", "")) in state.message
                )
        return False

    def who(self) -> dict[str, object]:
        return {
            "pid": os.getpid(),
            "index": self.inherited.index,
            "spec": self.inherited.spec.decode(),
            "pins": {
                name: {"problem": pin.message} if isinstance(pin, HsmBridgeError) else {"pin": pin.reveal()}
                for name, pin in self.inherited.pins.items()
            },
            "processors": sorted(self.inherited.processors),
            "rows": self.counters.rows,
            "packets": self.packets,
            "states": {
                state.name: {
                    "available": state.available,
                    "status": state.status,
                    "message": state.message,
                    "pid": state.pid,
                    "socket": state.socket,
                    "incarnation": state.incarnation.hex(),
                }
                for state in self.states.providers
            },
        }


if __name__ == "__main__":
    ToyWorker(inherit()).run()
