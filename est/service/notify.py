"""Telling systemd how the service is (sd_notify(3)): one datagram to the socket that $NOTIFY_SOCKET names."""

import os
import socket

import structlog

_log = structlog.get_logger(__name__)


def notify(state: str) -> None:
    """Tell `state`, such as READY=1; without a service manager that listens nothing happens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    # "@" stands for the NUL octet that begins the name of an abstract socket.
    name = f"\0{address[1:]}" if address.startswith("@") else address
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.sendto(state.encode(), name)
    except OSError as problem:
        _log.warning("service_manager_not_told", state=state, reason=problem.strerror)
