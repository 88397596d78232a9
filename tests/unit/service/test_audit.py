"""What the audit log keeps by default: every change, every refusal, and no mere use."""

import pytest
from structlog.testing import capture_logs

from hsmbridge.core.errors import Status
from hsmbridge.core.operations import OPERATION_FOR
from hsmbridge.service.audit import AuditRecord, LogAudit

# Each operation of the table stands in one of the two: a new row is put here by somebody who has thought about it.
USES = frozenset(
    {
        "hello", "ping", "status", "providers", "doctor", "resolve", "release", "slot-list", "slot-show", "sign",
        "sign-many", "verify", "mac", "mac-verify", "encrypt", "decrypt", "encapsulate", "decapsulate", "digest",
        "random", "context-encrypt", "context-decrypt", "context-sign", "context-verify", "context-digest",
        "context-init", "context-update", "context-finalize", "context-read", "context-reset", "context-close",
        "cert-load", "cert-show", "cert-list", "cert-verify", "trust-show", "trust-list", "crl-show", "crl-list",
        "share-memory", "shared-digest", "shared-mac", "shared-encrypt", "shared-encrypt-many", "shared-decrypt",
        "pin-list", "token-show", "token-login",
    }
)  # fmt: skip
CHANGES = frozenset(
    {
        "slot-create", "slot-rotate", "slot-revoke", "slot-destroy", "slot-grant", "slot-ungrant", "slot-adopt",
        "slot-export", "slot-attest", "slot-attributes", "generate", "derive", "agree", "import", "wrap", "unwrap",
        "persist", "cert-access", "cert-bind", "cert-import", "cert-remove", "crl-import", "trust-add",
        "trust-create", "trust-remove", "pin-reset", "token-initialize", "token-pin",
    }
)  # fmt: skip
NEVER_DISPATCHED = frozenset({"hello"})
NAMES = sorted(row.name for row in OPERATION_FOR.values())


def test_every_operation_is_either_a_use_or_a_change() -> None:
    assert not USES & CHANGES
    assert set(NAMES) <= USES | CHANGES


@pytest.mark.parametrize("name", NAMES)
def test_changes_are_kept_and_uses_only_on_demand(name: str) -> None:
    by_default, all_of_them = LogAudit(uses=False), LogAudit(uses=True)
    if name not in NEVER_DISPATCHED:
        assert by_default.wants(name, Status.OK) is (name in CHANGES)
    assert all_of_them.wants(name, Status.OK)


@pytest.mark.parametrize("name", NAMES)
def test_refusals_and_failures_are_always_kept(name: str) -> None:
    audit = LogAudit(uses=False)
    assert all(audit.wants(name, status) for status in Status if status is not Status.OK)


def test_a_record_says_who_did_what_to_which_version_and_how_it_ended() -> None:
    with capture_logs() as logs:
        record = AuditRecord("uid:7", "sign", "uid-7/web", 3, "RSA-PSS-SHA256", Status.KEY_STATE_FORBIDS)
        LogAudit(uses=False).close(record)
    (entry,) = logs
    assert entry == {
        "event": "operation",
        "log_level": "info",
        "principal": "uid:7",
        "operation": "sign",
        "subject": "uid-7/web",
        "version": 3,
        "algorithm": "RSA-PSS-SHA256",
        "status": "KEY_STATE_FORBIDS",
    }
