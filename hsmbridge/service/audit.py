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

    def wants(self, operation: str, status: Status) -> bool:
        """Whether a record of such an end is kept, so that none is made in vain."""
        ...

    def close(self, record: AuditRecord) -> None:
        """An operation ended."""
        ...


class LogAudit:
    """Writes changes and refusals to the log, and uses of keys where that is asked for."""

    _USES = frozenset(
        {"sign", "sign-many", "verify", "mac", "mac-verify", "encrypt", "decrypt", "encapsulate", "decapsulate",
         "digest", "random", "context-encrypt", "context-decrypt", "context-sign", "context-verify", "context-digest",
         "context-init", "context-update", "context-finalize", "context-read", "context-reset", "context-close",
         "share-memory", "shared-digest", "shared-mac", "shared-encrypt", "shared-encrypt-many", "shared-decrypt",
         "cert-load", "cert-show", "cert-list", "cert-verify", "trust-show", "trust-list", "crl-show", "crl-list",
         "ping", "resolve", "release", "status", "providers", "doctor", "slot-list", "slot-show",
         "pin-list", "token-show", "token-login"}
    )  # fmt: skip

    def __init__(self, *, uses: bool) -> None:
        """Args: whether uses of keys are written too."""
        self._log = structlog.get_logger("hsmbridge.audit")
        self._write_uses = uses

    def wants(self, operation: str, status: Status) -> bool:
        return self._write_uses or status is not Status.OK or operation not in self._USES

    def close(self, record: AuditRecord) -> None:
        self._log.info(
            "operation",
            principal=record.principal,
            operation=record.operation,
            subject=record.subject,
            version=record.version,
            algorithm=record.algorithm,
            status=record.status.name,
        )
