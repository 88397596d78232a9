"""The life of a host process: read what it is, lock, open, report, serve, close.

It ends by itself when it is told to (SIGTERM, or STOP on a control connection) and when no supervisor has come back
for `drain_timeout` seconds. A failed start is reported and ends it: whether and when it is tried again, with a PIN
above all, is the supervisor's decision.
"""

import argparse
import fcntl
import logging
import os
import signal
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

import msgspec
import structlog

from hsmbridge.core.errors import HsmBridgeError, ProviderError, Status, error
from hsmbridge.core.identifiers import new_incident_id
from hsmbridge.core.secrets import Pin
from hsmbridge.providers.base import Provider
from hsmbridge.providers.host.hardening import harden_process
from hsmbridge.providers.host.log import log_to_stderr
from hsmbridge.providers.host.placement import stay_on
from hsmbridge.providers.host.server import HostServer, listen
from hsmbridge.providers.host.spec import HostReport, HostSpec, read_spec
from hsmbridge.providers.registry import ProviderSpec, open_provider

Opener = Callable[[ProviderSpec, Pin | None], Provider]

_log = structlog.get_logger(__name__)


def main(arguments: Sequence[str] | None = None, opener: Opener = open_provider) -> int:
    """Run a host; the exit status is 0 after a good life, 1 after a failed start, 3 where a call was left hanging.

    Args:
        arguments: `--spec-fd N --status-fd N`.
        opener: makes the provider; another one lets tests wrap a real provider with faults.
    """
    parser = argparse.ArgumentParser(prog="hsmbridge.providers.host", description="Serve one provider.")
    parser.add_argument("--spec-fd", type=int, required=True, help="where the specification is read from")
    parser.add_argument("--status-fd", type=int, required=True, help="where the report is written to")
    chosen = parser.parse_args(arguments)
    harden_process()
    _close_inherited(keep=(chosen.spec_fd, chosen.status_fd))
    try:
        spec, pin = read_spec(chosen.spec_fd)
        log_to_stderr("host", provider=spec.name)
        stay_on(spec.processors)
        server, provider = _start(spec, pin, opener)
    except HsmBridgeError as problem:
        _report(chosen.status_fd, _failed(problem))
        return 1
    except Exception:  # noqa: BLE001 - the outermost boundary of the start: a fault of the provider's code or library
        incident = new_incident_id()
        _log.exception("the provider could not be opened", incident=incident)
        failure = ProviderError(Status.PROVIDER_FAILED, "The provider could not be opened.", incident=incident)
        _report(chosen.status_fd, HostReport(failure.status, failure.message, incident))
        return 1
    del pin
    _heed_signals(server)
    _report(chosen.status_fd, HostReport(Status.OK, incarnation=server.incarnation))
    _log.info("serving", pid=os.getpid())
    if not server.serve():
        return 3
    provider.close()
    _log.info("closed")
    return 0


def run(arguments: Sequence[str] | None = None, opener: Opener = open_provider) -> None:
    """`main` and the end of the process, without the exit handlers of vendor modules: some of them crash."""
    status = main(arguments, opener)
    logging.shutdown()
    os._exit(status)


def _start(spec: HostSpec, pin: Pin | None, opener: Opener) -> tuple[HostServer, Provider]:
    _lock(spec)
    os.environ.update(spec.provider.environment)
    provider = opener(spec.provider, pin)
    try:
        # Asked once before anybody waits for it: what a token can do is probed, and that takes its time.
        provider.describe()
        listener = _listen(spec)
    except BaseException:
        provider.close()
        raise
    return HostServer(spec, provider, listener), provider


def _listen(spec: HostSpec) -> socket.socket:
    try:
        return listen(spec.socket_path)
    except OSError as problem:
        raise error(
            Status.INVALID_CONFIGURATION,
            f"The socket of provider {spec.name} cannot be made: {problem.strerror}. Check runtime_dir.",
            origin=str(spec.socket_path),
        ) from problem


def _lock(spec: HostSpec) -> None:
    """Take the lock for the life of the process; nothing may hold the same token twice."""
    try:
        fd = os.open(spec.lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as problem:
        raise error(
            Status.INVALID_CONFIGURATION,
            f"The lock of provider {spec.name} cannot be made: {problem.strerror}. Check runtime_dir.",
            origin=str(spec.lock_path),
        ) from problem
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ProviderError(
            Status.PROVIDER_UNAVAILABLE, f"Provider {spec.name} is still held by another process; waiting for its end."
        ) from None


def _heed_signals(server: HostServer) -> None:
    def stop(_: int, __: FrameType | None) -> None:
        server.stop()

    signal.signal(signal.SIGTERM, stop)
    # These go to a whole terminal or session; what they mean for the hosts is the supervisor's decision.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.set_wakeup_fd(server.wakeup_fd, warn_on_full_buffer=False)


def _close_inherited(keep: Sequence[int]) -> None:
    for entry in Path("/proc/self/fd").iterdir():
        fd = int(entry.name)
        if fd > 2 and fd not in keep:
            with suppress(OSError):
                os.close(fd)


def _failed(problem: HsmBridgeError) -> HostReport:
    incident = problem.incident or new_incident_id()
    _log.error(
        "the provider could not be opened",
        status=problem.status.name,
        reason=problem.message,
        origin=problem.origin,
        incident=incident,
    )
    return HostReport(problem.status, problem.message, incident)


def _report(fd: int, report: HostReport) -> None:
    # A supervisor that is gone by now leaves nobody to tell, and no reason not to serve the daemon's processes.
    with suppress(OSError), os.fdopen(fd, "wb") as status:
        status.write(msgspec.msgpack.encode(report))
