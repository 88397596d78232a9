"""File descriptors: a worker takes as many as its connections may need, or says that it has too few.

Many systems give a process 1024 until it asks for more (the soft limit). That is less than the connections that the
configuration allows, and then one user with as many as one user may have would keep all others out.
"""

import resource

import structlog

from hsmbridge.daemon.spec import WorkerSpec

NATIVE, P11KIT, SSH_AGENT = 3, 2, 1
"""Descriptors of a connection: those that are written to from other threads have a duplicate, and a native one's shared
memory has one, which Python keeps with the mapping."""

_OWN = 256
"""The store, provider hosts, the loop, libraries."""

_log = structlog.get_logger(__name__)


def descriptors_needed(spec: WorkerSpec) -> int:
    """How many a worker has open at most."""
    each = NATIVE + (P11KIT if spec.p11kit is not None else 0) + (SSH_AGENT if spec.ssh_agent is not None else 0)
    return spec.max_connections * each + _OWN


def take_descriptors(needed: int) -> None:
    """Raise this process's limit so far, or as far as the hard limit lets it; that it is too low is told to the log."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    if most < needed:
        _log.warning(
            "fewer file descriptors than max_connections may need; raise LimitNOFILE or lower max_connections",
            needed=needed,
            allowed=most,
        )
