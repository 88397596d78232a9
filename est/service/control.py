"""The control socket of the renewal service: one request and one reply, each a line of JSON, on a unix socket.

{"command": "status"}    {"command": "renew", "name": "web"}    {"command": "chain", "name": "web"}
{"command": "metrics"}

A reply has "ok", or "error" with "status" and "message". Who may ask is decided by the uid that the kernel names
(SO_PEERCRED): the service's own, root's, and those that the configuration allows.
"""

import contextlib
import json
import os
import socket
import stat
import threading
import time
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog

from est import refusals
from est.service.metrics import metrics_text
from est.service.running import Keeper, RenewalService
from hsmbridge.core.errors import HsmBridgeError
from hsmbridge.core.peer import peer_credentials

MAX_LINE = 4096
"""Bytes of a request."""
MAX_REPLY = 1 << 20
_PATIENCE = 5.0
"""Seconds in which a request must come as a whole, and a reply must be taken."""
_PAUSE = 0.5
"""Seconds before listening again where a connection could not be taken."""
_RENEWAL = 90.0
"""Seconds that a client waits for a renewal."""

_log = structlog.get_logger(__name__)


class ControlSocket:
    """Listens from construction on, answers as a context manager."""

    def __init__(self, path: Path, service: RenewalService, allowed: Collection[int] = ()) -> None:
        """Raises RequestError where the place is taken by something that is no socket."""
        self._path = path
        self._service = service
        self._allowed = frozenset({0, os.geteuid(), *allowed})
        self._busy = threading.BoundedSemaphore(16)
        self._socket = _listen(path)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._accept, name="est-control", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        # Wakes accept(); closing alone does not.
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()
        self._path.unlink(missing_ok=True)

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                peer, _ = self._socket.accept()
            except OSError as problem:
                if not self._stopping.is_set():
                    # Without file descriptors accept() fails at once, again and again, until a connection ends.
                    _log.error("control_accept_failed", reason=repr(problem))
                    self._stopping.wait(_PAUSE)
                continue
            uid = peer_credentials(peer).uid
            if uid not in self._allowed:
                # At once and here: whoever may not ask keeps no place from those who may.
                _refuse(peer, uid)
            elif self._busy.acquire(blocking=False):
                threading.Thread(target=self._serve, args=(peer,), daemon=True).start()
            else:
                peer.close()

    def _serve(self, peer: socket.socket) -> None:
        try:
            with peer:
                reply = self._reply(peer)
                peer.settimeout(_PATIENCE)
                peer.sendall(json.dumps(reply).encode() + b"\n")
        except OSError as problem:
            _log.debug("control_connection_ended", reason=repr(problem))
        finally:
            self._busy.release()

    def _reply(self, peer: socket.socket) -> dict[str, object]:
        try:
            return {"ok": self._answer(_read_line(peer, MAX_LINE, _PATIENCE))}
        except HsmBridgeError as problem:
            return _error(problem)

    def _answer(self, line: bytes) -> object:
        try:
            request = json.loads(line)
            command, name = request.get("command"), request.get("name", "")
        except (ValueError, AttributeError, RecursionError):
            raise refusals.malformed("The request is not one JSON object on a line.") from None
        match command:
            case "status":
                return [asdict(one) for one in self._service.standings()]
            case "metrics":
                return metrics_text(self._service.standings())
            case "renew":
                keeper = self._named(name)
                if not keeper.renew_now(_RENEWAL):
                    raise refusals.timed_out("The renewal is still under way; ask for the status later.")
                return asdict(keeper.standing())
            case "chain":
                return self._named(name).chain().decode("ascii")
            case _:
                raise refusals.unwanted("There are the commands status, renew, chain and metrics.")

    def _named(self, name: object) -> Keeper:
        found = self._service.keepers.get(name) if isinstance(name, str) else None
        if found is None:
            raise refusals.absent("The service keeps no certificate of this name.")
        return found


def _refuse(peer: socket.socket, uid: int) -> None:
    problem = refusals.denied(f"uid {uid} may not ask this service; name it in `allow` of [service].")
    with peer, contextlib.suppress(OSError):
        peer.setblocking(False)
        peer.sendall(json.dumps(_error(problem)).encode() + b"\n")


def _error(problem: HsmBridgeError) -> dict[str, object]:
    return {"error": {"status": problem.status.name, "message": problem.message}}


def _listen(path: Path) -> socket.socket:
    try:
        found = path.lstat()
    except FileNotFoundError:
        pass
    else:
        if not stat.S_ISSOCK(found.st_mode):
            raise refusals.unwanted(f"{path} is there and is no socket; name another place.")
        path.unlink()
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.bind(str(path))
        # Everybody may connect; the kernel's word on who it is decides.
        path.chmod(0o666)
        made.listen(16)
    except OSError as problem:
        made.close()
        raise refusals.unwanted(f"{path} cannot be listened on: {problem.strerror or problem}.") from None
    return made


def _read_line(sock: socket.socket, limit: int, patience: float) -> bytes:
    held = bytearray()
    deadline = time.monotonic() + patience
    while not held.endswith(b"\n"):
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the line took too long")
        sock.settimeout(left)
        piece = sock.recv(65536)
        if not piece:
            break
        held += piece
        if len(held) > limit:
            raise refusals.too_large(f"A line is longer than {limit} bytes.")
    return bytes(held)


def ask(path: Path, command: str, name: str = "") -> object:
    """Ask a running service.

    Raises:
        WireError: nobody listens there, or the reply is none.
        HsmBridgeError: what the service answers.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(_RENEWAL + _PATIENCE)
        try:
            sock.connect(str(path))
            # A service that refuses somebody does so before it was asked, and closes.
            with contextlib.suppress(BrokenPipeError):
                sock.sendall(json.dumps({"command": command, "name": name}).encode() + b"\n")
            line = _read_line(sock, MAX_REPLY, _RENEWAL + _PATIENCE)
        except OSError as problem:
            raise refusals.unreachable(f"No service answers at {path}: {problem.strerror or problem}.") from None
    try:
        reply = json.loads(line)
        if "ok" in reply:
            answer: object = reply["ok"]
            return answer
        status, message = str(reply["error"]["status"]), str(reply["error"]["message"])
    except (ValueError, KeyError, TypeError):
        raise refusals.malformed("The service's reply cannot be read.") from None
    raise refusals.named(status, message)
