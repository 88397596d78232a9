"""What every process that holds a PIN or a key does first, so that neither leaves it by a core file or a debugger."""

import ctypes
import os
import resource

import structlog

_PR_SET_DUMPABLE = 4

_log = structlog.get_logger(__name__)


def harden_process() -> None:
    """No core files, no ptrace and no /proc/PID/mem for other processes of the same user (prctl(2)).

    A kernel or sandbox that refuses is told to the log: the process serves on.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        _log.warning("the process could not be made undumpable", reason=os.strerror(ctypes.get_errno()))
