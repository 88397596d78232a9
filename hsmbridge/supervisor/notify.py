"""Telling systemd how the service is doing: the sd_notify protocol (systemd.exec, NOTIFY_SOCKET), nothing more."""

import os
import socket
from typing import Final

import structlog

VARIABLE: Final = "NOTIFY_SOCKET"

_log = structlog.get_logger(__name__)


def notify(*assignments: str) -> None:
    """Send assignments such as "READY=1"; without systemd nothing happens, and a failure is only logged."""
    address = os.environ.get(VARIABLE, "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as service_manager:
            service_manager.sendto("\n".join(assignments).encode(), address)
    except OSError as problem:
        _log.warning("the service manager could not be notified", reason=problem.strerror)
