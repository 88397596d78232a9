"""The audit hook: every operation that was asked for, with who asked, what for and how it ended.

One record closes each operation, refused ones included. It holds names and numbers, never data, keys or
messages. Where records go is a sink; the default writes them to the log.
"""

from dataclasses import dataclass
from typing import Protocol

import structlog

from hsmbridge.core.errors import Status


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """How one operation ended. `subject` is a slot's name or ""; `version` 0 where no key version was used."""

    principal: str
    operation: str
    subject: str
    version: int
    algorithm: str
    status: Status


class AuditSink(Protocol):
    """Takes records; must be quick and must not raise."""

    def close(self, record: AuditRecord) -> None:
        """An operation ended."""
        ...


class LogAudit:
    """Writes changes and refusals to the log at level info, uses of keys at level debug."""

    _USES = frozenset(
        {"sign", "verify", "mac", "mac-verify", "encrypt", "decrypt", "encapsulate", "decapsulate", "digest", "random",
         "ping", "resolve", "release", "status", "providers", "doctor", "slot-list", "slot-show"}
    )  # fmt: skip

    def __init__(self, *, uses: bool) -> None:
        """Args: whether uses of keys are written too (at level debug)."""
        self._log = structlog.get_logger("hsmbridge.audit")
        self._write_uses = uses

    def close(self, record: AuditRecord) -> None:
        if record.status is Status.OK and record.operation in self._USES:
            if self._write_uses:
                self._write(self._log.debug, record)
        else:
            self._write(self._log.info, record)

    @staticmethod
    def _write(log: "structlog.typing.WrappedLogger", record: AuditRecord) -> None:
        log(
            "operation",
            principal=record.principal,
            operation=record.operation,
            subject=record.subject,
            version=record.version,
            algorithm=record.algorithm,
            status=record.status.name,
        )
