"""`python -m hsmbridge.daemon.check`: whether the workers will be able to open their store.

Run once before the first worker starts, in a process of its own, so that `hsmbridge serve` can refuse with a reason
and the supervisor never holds the master key. It makes or migrates the store, too.
"""

import argparse
import os
import subprocess
import sys

import msgspec

from hsmbridge.core.errors import HsmBridgeError, Status, StoreError, error_from_wire
from hsmbridge.daemon.spec import decode_worker_spec
from hsmbridge.providers.host.hardening import harden_process
from hsmbridge.providers.host.spec import memory_file


class _Refusal(msgspec.Struct, frozen=True):
    status: int
    message: str


def check_store(spec: bytes) -> None:
    """Open the store that a worker's specification names, and close it again. Raises StoreError."""
    fd = memory_file("hsmbridge-check", spec)
    try:
        checked = subprocess.run(
            [sys.executable, "-P", "-m", "hsmbridge.daemon.check", "--spec-fd", str(fd)],
            stdout=subprocess.PIPE,
            pass_fds=(fd,),
            check=False,
        )
    finally:
        os.close(fd)
    if checked.returncode == 0:
        return
    try:
        refusal = msgspec.json.decode(checked.stdout, type=_Refusal)
    except msgspec.MsgspecError:
        raise StoreError(Status.STORE_UNAVAILABLE, origin=f"the check ended with {checked.returncode}") from None
    raise error_from_wire(refusal.status, refusal.message)


def main() -> int:
    """Check, and answer 0 or 1 with the refusal on standard output."""
    from hsmbridge.daemon.store_opening import open_store_of

    parser = argparse.ArgumentParser(prog="hsmbridge.daemon.check")
    parser.add_argument("--spec-fd", type=int, required=True)
    harden_process()
    with os.fdopen(parser.parse_args().spec_fd, "rb") as file:
        spec = decode_worker_spec(file.read())
    try:
        open_store_of(spec.store).close()
    except HsmBridgeError as refusal:
        sys.stdout.buffer.write(msgspec.json.encode(_Refusal(refusal.status, refusal.message)))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
