"""What can be chosen of a lab."""

from enum import StrEnum, unique

import msgspec

from hsmbridge.core.errors import RequestError, Status
from hsmbridge.providers.registry import Isolation


@unique
class LabFrontEnd(StrEnum):
    """What a lab's daemon may listen on beside its native socket; the section of the configuration is called so."""

    P11KIT = "p11kit"
    SSH_AGENT = "ssh_agent"


class LabOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a lab is to be.

    Attributes:
        workers: daemon processes.
        isolation: of the providers softhsm and tpm; with THREAD, a TPM allows one worker only.
        tpm: whether there is one.
        spread: give daemon and providers processors of their own.
        threads: calls that the daemon may have under way on the SoftHSM token.
        frontends: for whom else it listens; with what is configured by default.
    """

    workers: int = 1
    isolation: Isolation = Isolation.PROCESS
    tpm: bool = True
    spread: bool = False
    threads: int = 4
    frontends: tuple[LabFrontEnd, ...] = ()

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise RequestError(Status.INVALID_ARGUMENT, "A lab needs at least one worker.")
        if self.tpm and self.isolation is Isolation.THREAD and self.workers > 1:
            raise RequestError(
                Status.INVALID_ARGUMENT,
                "A TPM has one owner: with isolation thread take one worker, or leave the TPM out.",
            )
