"""The one connection of a process to a daemon, shared by its stacks and threads.

It is opened by the first call, opened again by the first call after it was lost, and opened anew in a child
process. `Lifetime` says when it is closed. What is sent again on a new connection, and what never is, is decided
in `hsmbridge.client.calls`.
"""

import atexit
import os
import sys
from enum import StrEnum, unique
from pathlib import Path
from threading import Lock, RLock
from time import monotonic
from weakref import WeakValueDictionary

from hsmbridge import __version__
from hsmbridge.client.connection import Connection
from hsmbridge.client.deadline import GRACE
from hsmbridge.client.socket_path import check_socket_path
from hsmbridge.core.errors import ConnectionLost, ProviderError, Status, WireError
from hsmbridge.core.messages import HelloReply
from hsmbridge.wire.codec import decode_reply, encode_request
from hsmbridge.wire.hello import check_hello_reply, hello

OPEN_TIMEOUT = 10.0
"""Seconds for connecting and the hello, where the call itself leaves more."""
_OPEN_ATTEMPTS = 3


@unique
class Lifetime(StrEnum):
    """When a process's connection is closed: with its last stack, or never before the process ends."""

    COUNTED = "counted"
    FIXED = "fixed"


class SharedConnection:
    """The connection to one socket path. Made by `acquire`, given back by `release`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.users = 0
        self.fixed = False
        self.welcome: HelloReply | None = None
        self.current: Connection | None = None
        self._opening = Lock()

    def connection(self, timeout: float | None) -> Connection:
        """The connection of now, opened if need be; while another thread does that, this one waits no longer either.

        Raises WireError (DAEMON_UNREACHABLE, VERSION_NOT_SUPPORTED), ProviderError (OPERATION_TIMED_OUT), or what the
        daemon answers to a hello.
        """
        current = self.current
        if current is not None and current.failure is None:
            return current
        opening = self._opening
        until = None if timeout is None else monotonic() + timeout
        if not opening.acquire(timeout=-1 if timeout is None else timeout + GRACE):
            raise ProviderError(Status.OPERATION_TIMED_OUT)
        try:
            current = self.current
            if current is not None:
                if current.failure is None:
                    return current
                current.close()
                self.current = None
            left = OPEN_TIMEOUT if until is None else min(until - monotonic(), OPEN_TIMEOUT)
            if left <= 0:
                raise ProviderError(Status.OPERATION_TIMED_OUT)
            self.current = self._open(left)
            return self.current
        finally:
            opening.release()

    def close(self) -> None:
        """Close the connection, if any; the next call opens another."""
        with self._opening:
            current, self.current = self.current, None
        if current is not None:
            current.close()

    def after_fork(self) -> None:
        """Start without a connection in a child process; the parent's goes on."""
        current, self.current = self.current, None
        self._opening = Lock()
        if current is not None:
            current.abandon()

    def _open(self, timeout: float) -> Connection:
        attempt = 1
        while True:
            connection = Connection(self.path, connect_timeout=timeout)
            try:
                self.welcome = _greet(connection, timeout)
            except ConnectionLost:
                # The daemon process that took the connection ended; another one, or its successor, takes the next.
                connection.close()
                if attempt == _OPEN_ATTEMPTS:
                    raise WireError(
                        Status.DAEMON_UNREACHABLE,
                        f"The daemon at {self.path} ends connections at once; its log says why.",
                    ) from None
                attempt += 1
                continue
            except BaseException:
                connection.close()
                raise
            connection.set_max_frame(self.welcome.max_frame)
            return connection


def _greet(connection: Connection, timeout: float) -> HelloReply:
    program = Path(sys.argv[0]).name if getattr(sys, "argv", None) else ""
    request = hello(f"hsmbridge {__version__} {program}".strip())
    reply = decode_reply(connection.exchange(encode_request, request, timeout))
    if not isinstance(reply, HelloReply):
        raise WireError(Status.MALFORMED_FRAME, "The daemon did not answer the hello.")
    check_hello_reply(reply)
    return reply


_registry: WeakValueDictionary[str, SharedConnection] = WeakValueDictionary()
_fixed: dict[str, SharedConnection] = {}
_registry_lock = RLock()  # a stack that is collected inside `acquire` releases its connection in the same thread


def acquire(path: Path, lifetime: Lifetime) -> SharedConnection:
    """This process's connection to `path`, one user more. Nothing is opened yet."""
    key = os.path.abspath(check_socket_path(path))  # noqa: PTH100 - a Path keeps "..", one socket must have one key
    with _registry_lock:
        shared = _registry.get(key)
        if shared is None:
            shared = _registry[key] = SharedConnection(Path(key))
        shared.users += 1
        if lifetime is Lifetime.FIXED:
            shared.fixed = True
            _fixed[key] = shared
        return shared


def release(shared: SharedConnection) -> None:
    """One user less; the last one closes a counted connection."""
    with _registry_lock:
        shared.users -= 1
        if shared.users == 0 and not shared.fixed:
            shared.close()


def _after_fork() -> None:
    global _registry_lock  # noqa: PLW0603 - a thread of the parent may have held it, and is not here to let go
    _registry_lock = RLock()
    for shared in list(_registry.values()):
        shared.after_fork()


def _at_exit() -> None:
    for shared in list(_registry.values()):
        shared.close()


os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
