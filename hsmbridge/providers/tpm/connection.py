"""One ESAPI context over one TCTI, from its opening until the TPM is reset, goes away, or we leave.

A TPM without a resource manager keeps transient objects and sessions of clients that died, so they are flushed at
the start. A reset forgets them and every saved context; TPM2_ReadClock tells of it (part 1 section 36).
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tpm2_pytss import ESAPI, TPM2_CAP, TPM2_CC, TPM2_PT, TPM2_RC, TPM2_ST, TPM2_SU, TSS2_Exception
from tpm2_pytss.TCTILdr import TCTILdr

from hsmbridge.core.errors import ProviderError, RequestError, Status
from hsmbridge.providers.tpm.errors import base_code, origin, translate
from hsmbridge.providers.tpm.settings import TpmSettings

FIRST_FIXED_PROPERTY = 0x100
"""PT_FIXED: where the properties begin that a TPM does not change."""

_TRANSIENT_FIRST = 0x80000000
_LOADED_SESSION_FIRST = 0x02000000
_ACTIVE_SESSION_FIRST = 0x03000000
_INPUT_BUFFER_LEAST = 1024
_DIGEST_LEAST = 20
_FLUSH_CONTEXT = int(TPM2_ST.NO_SESSIONS).to_bytes(2) + (14).to_bytes(4) + int(TPM2_CC.FlushContext).to_bytes(4)
_PAGE = 127
"""As many properties of a kind as one answer can hold (TPM2_MAX_CAP_*)."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How many bytes one command takes: of data to a MAC, digest or cipher, and of random bytes in an answer."""

    input_buffer: int
    digest: int


class Connection:
    """An ESAPI context that answers. Not thread-safe, as ESAPI is not."""

    def __init__(self, settings: TpmSettings, *, flush: bool = True) -> None:
        """Connect, and flush where that is for us to do.

        Raises ProviderError (TOKEN_NOT_PRESENT), RequestError (INVALID_CONFIGURATION).
        """
        self._settings = settings
        self.esapi = _open(settings)
        try:
            self._resets = self._started()
            self.limits = self._limits()
            if flush:
                self.flush_all()
        except TSS2_Exception as failure:
            self.abandon()
            raise translate(failure) from failure

    def alive(self) -> bool:
        """Whether the TPM answers and was not reset since this connection was made."""
        try:
            return self._reset_counts() == self._resets
        except TSS2_Exception:
            return False

    def properties(self, first: int, count: int = _PAGE) -> dict[int, int]:
        """TPM_PT values by number, from `first` on within its group."""
        return dict(self._capabilities(TPM2_CAP.TPM_PROPERTIES, first, count))

    def algorithms(self) -> frozenset[int]:
        """The TPM_ALG_IDs that it implements."""
        return frozenset(number for number, _ in self._capabilities(TPM2_CAP.ALGS, 0, _PAGE))

    def curves(self) -> frozenset[int]:
        """The TPM_ECC_CURVEs that it implements."""
        return frozenset(number for number, _ in self._capabilities(TPM2_CAP.ECC_CURVES, 0, _PAGE))

    def commands(self) -> frozenset[int]:
        """The TPM_CCs that it implements."""
        return frozenset(number & 0xFFFF for number, _ in self._capabilities(TPM2_CAP.COMMANDS, 0, 2 * _PAGE))

    def handles(self, first: int) -> list[int]:
        """The handles in use from `first` to the end of its range."""
        return [number for number, _ in self._capabilities(TPM2_CAP.HANDLES, first, _PAGE)]

    def close(self) -> None:
        """Leave the TPM in order.

        TPM2_Shutdown goes to simulators only: what stops one is no kernel, and an unorderly stop may count against the
        lockout. The kernel sends it to a chip when the machine goes down; sent earlier it would mean nothing.
        """
        if self._settings.simulated:
            with suppress(TSS2_Exception):
                self.esapi.shutdown(TPM2_SU.CLEAR)
        self.abandon()

    def abandon(self) -> None:
        """Free the context without a word to the TPM."""
        self.esapi.close()

    def _limits(self) -> Limits:
        properties = self.properties(FIRST_FIXED_PROPERTY)
        return Limits(
            properties.get(TPM2_PT.INPUT_BUFFER, _INPUT_BUFFER_LEAST), properties.get(TPM2_PT.MAX_DIGEST, _DIGEST_LEAST)
        )

    def _started(self) -> tuple[int, int]:
        try:
            return self._reset_counts()
        except TSS2_Exception as failure:
            if base_code(failure) != TPM2_RC.INITIALIZE:
                raise
        # Firmware starts a chip; a simulator may have been left to its first client.
        self.esapi.startup(TPM2_SU.CLEAR)
        return self._reset_counts()

    def _reset_counts(self) -> tuple[int, int]:
        time = self.esapi.read_clock()
        clock = time.clockInfo
        return int(clock.resetCount), int(clock.restartCount)

    def flush_all(self) -> None:
        """Empty all object and session slots, unless a resource manager does. Raises TSS2_Exception."""
        if self._settings.managed:
            return
        # ESAPI flushes what it knows, and gets to know an object by reading its public area, which a sequence lacks.
        # So the command goes out by itself (part 3 section 28.4); a handle that is gone by now is answered, and fine.
        for first in (_TRANSIENT_FIRST, _LOADED_SESSION_FIRST, _ACTIVE_SESSION_FIRST):
            for handle in self.handles(first):
                self.esapi.tcti.transmit(_FLUSH_CONTEXT + handle.to_bytes(4))
                self.esapi.tcti.receive()

    def _capabilities(self, kind: int, first: int, count: int) -> Iterator[tuple[int, int]]:
        more = True
        while more:
            # Each struct is bound before its child is read: tpm2-pytss frees a parent that nothing holds.
            more, capability = self.esapi.get_capability(kind, first, count)
            union = capability.data
            match kind:
                case TPM2_CAP.TPM_PROPERTIES:
                    listed = union.tpmProperties
                    page = [(int(entry.property), int(entry.value)) for entry in listed]
                case TPM2_CAP.ALGS:
                    listed = union.algorithms
                    page = [(int(entry.alg), 0) for entry in listed]
                case TPM2_CAP.ECC_CURVES:
                    listed = union.eccCurves
                    page = [(int(entry), 0) for entry in listed]
                case TPM2_CAP.COMMANDS:
                    listed = union.command
                    page = [(int(entry), 0) for entry in listed]
                case _:
                    listed = union.handles
                    page = [(int(entry), 0) for entry in listed]
            yield from page
            if not page:
                return
            first = (page[-1][0] & 0xFFFF if kind == TPM2_CAP.COMMANDS else page[-1][0]) + 1


def _open(settings: TpmSettings) -> ESAPI:
    # The stack logs to stderr by itself, paths included; what matters of it reaches our log through `origin`.
    os.environ.setdefault("TSS2_LOG", "all+none")
    if not TCTILdr.is_available(settings.driver):
        raise RequestError(
            Status.INVALID_CONFIGURATION,
            f"The TPM software stack lacks its module for {settings.driver!r}; install libtss2-tcti-{settings.driver}.",
        )
    _check_device(settings)
    try:
        return ESAPI(settings.tcti)
    except TSS2_Exception as failure:
        raise ProviderError(
            Status.TOKEN_NOT_PRESENT,
            "The TPM cannot be reached; see that it is there and running, that tcti in the configuration names it,"
            " and that this user may open it.",
            origin=f"{settings.tcti}: {origin(failure)}",
        ) from failure


def _check_device(settings: TpmSettings) -> None:
    # The module writes its first command into whatever file it is given.
    device = Path(settings.device_path)
    if settings.device_path and device.exists() and not device.is_char_device():
        raise RequestError(
            Status.INVALID_CONFIGURATION,
            "tcti names a file that is no device; a TPM is one like /dev/tpmrm0.",
            origin=settings.tcti,
        )
