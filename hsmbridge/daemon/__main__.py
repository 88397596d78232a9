"""`python -m hsmbridge.daemon`: what the supervisor runs for each worker. argv holds only numbers."""

import argparse
import asyncio
import logging
import socket
import sys

import structlog
import uvloop

from hsmbridge.core.errors import HsmBridgeError
from hsmbridge.daemon.spec import read_worker_spec
from hsmbridge.daemon.worker import Inherited, Worker
from hsmbridge.providers.host.hardening import harden_process
from hsmbridge.providers.host.log import log_to_stderr
from hsmbridge.storage.changes import SharedCounters

EXIT_CANNOT_START = 3
"""The worker could not open its store; starting it again at once would not help."""


def main() -> int:
    """Run one worker to its end. Answers its exit status."""
    parser = argparse.ArgumentParser(prog="hsmbridge.daemon")
    for name in ("index", "listen-fd", "control-fd", "counters-fd", "spec-fd"):
        parser.add_argument(f"--{name}", type=int, required=True)
    arguments = parser.parse_args()
    harden_process()
    spec = read_worker_spec(arguments.spec_fd)
    log_to_stderr("worker", level=logging.getLevelNamesMapping()[spec.log_level.upper()], index=arguments.index)
    inherited = Inherited(
        index=arguments.index,
        listening=socket.socket(fileno=arguments.listen_fd),
        control=socket.socket(fileno=arguments.control_fd),
        counters=SharedCounters.attach(arguments.counters_fd),
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            worker = Worker(runner.get_loop(), spec, inherited)
        except HsmBridgeError as failure:
            structlog.get_logger(__name__).error(
                "the worker cannot start", status=failure.status.name, problem=failure.message, origin=failure.origin
            )
            return EXIT_CANNOT_START
        runner.run(worker.run())
    return 0


if __name__ == "__main__":
    sys.exit(main())
