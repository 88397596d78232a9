"""On which processors a process of the service stays."""

import os
from collections.abc import Collection

import structlog

_log = structlog.get_logger(__name__)


def stay_on(processors: Collection[int]) -> None:
    """Run on these processors from now on, by the kernel's numbers; none is wherever the scheduler likes.

    Where none of them may be used any more, because somebody has taken them from the service since it started, that is
    told to the log: the process serves on.
    """
    if not processors:
        return
    try:
        os.sched_setaffinity(0, processors)
    except OSError as refused:
        _log.warning(
            "the process runs on any processor: those that it was meant for are not the service's now",
            processors=sorted(processors),
            reason=refused.strerror,
        )
