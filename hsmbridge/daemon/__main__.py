"""`python -m hsmbridge.daemon`: what the supervisor runs for each worker. argv holds only numbers."""

import asyncio
import gc
import logging
import sys

import structlog
import uvloop

from hsmbridge.core.errors import HsmBridgeError
from hsmbridge.daemon.descriptors import descriptors_needed, take_descriptors
from hsmbridge.daemon.spec import decode_worker_spec
from hsmbridge.daemon.worker import Worker
from hsmbridge.providers.host.hardening import harden_process
from hsmbridge.providers.host.log import log_to_stderr
from hsmbridge.providers.host.placement import stay_on
from hsmbridge.supervisor.inheritance import inherit

EXIT_CANNOT_START = 3
"""The worker could not open its store; starting it again at once would not help."""


def main() -> int:
    """Run one worker to its end. Answers its exit status."""
    harden_process()
    inheritance = inherit()
    spec = decode_worker_spec(inheritance.spec)
    log_to_stderr("worker", level=logging.getLevelNamesMapping()[spec.log_level.upper()], index=inheritance.index)
    stay_on(inheritance.processors)  # after the imports: `wire.attention` counts those of the whole service
    take_descriptors(descriptors_needed(spec))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            worker = Worker(runner.get_loop(), spec, inheritance)
        except HsmBridgeError as failure:
            structlog.get_logger(__name__).error(
                "the worker cannot start", status=failure.status.name, problem=failure.message, origin=failure.origin
            )
            return EXIT_CANNOT_START
        # What is there now stays; the collector need not look at it again and again.
        gc.collect()
        gc.freeze()
        runner.run(worker.run())
    return 0


if __name__ == "__main__":
    sys.exit(main())
