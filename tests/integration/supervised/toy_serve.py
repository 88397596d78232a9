"""`hsmbridge serve` without a configuration language: the settings are a file of JSON, read again at a reload."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

import msgspec

from hsmbridge.core.errors import HsmBridgeError, RequestError, Status
from hsmbridge.providers.host.log import log_to_stderr
from hsmbridge.supervisor import Supervisor, SupervisorSettings


def load() -> SupervisorSettings:
    """The settings as the file has them now."""
    try:
        return msgspec.json.decode(
            Path(sys.argv[1]).read_bytes(),
            type=SupervisorSettings,
            dec_hook=lambda kind, value: Path(str(value)) if kind is Path else value,
        )
    except msgspec.MsgspecError as problem:
        raise RequestError(Status.INVALID_CONFIGURATION, str(problem)) from None


if __name__ == "__main__":
    log_to_stderr("supervisor")
    try:
        supervisor = Supervisor(load(), load)
        supervisor.start()
    except HsmBridgeError as problem:
        sys.exit(f"{problem.status.name}: {problem.message}")
    supervisor.run()
