"""Metrics in the text format of Prometheus, for a textfile collector or over the control socket."""

from collections.abc import Callable, Iterable
from pathlib import Path

import structlog

from est.service.standing import Standing
from est.trust.anchors import write_whole

_log = structlog.get_logger(__name__)

_METRICS: tuple[tuple[str, str, str, Callable[[Standing], float]], ...] = (
    ("est_certificate_not_after_seconds", "gauge", "End of the certificate in use.", lambda one: one.not_after),
    ("est_certificate_due_seconds", "gauge", "When the next step is due.", lambda one: one.due),
    ("est_renewals_total", "counter", "Certificates that were put in place.", lambda one: one.renewals),
    ("est_renewal_failures_total", "counter", "Attempts that failed.", lambda one: one.failures),
    (
        "est_renewal_failures_in_a_row",
        "gauge",
        "Failures since the last success.",
        lambda one: one.failures_in_a_row,
    ),
    ("est_request_pending", "gauge", "1 while a request waits for an approval.", lambda one: one.pending),
)


def metrics_text(standings: Iterable[Standing]) -> str:
    """All metrics of all certificates."""
    listed = tuple(standings)
    lines = []
    for name, kind, help_, value in _METRICS:
        lines += [f"# HELP {name} {help_}", f"# TYPE {name} {kind}"]
        lines += [f'{name}{{certificate="{_escaped(one.name)}"}} {float(value(one)):.15g}' for one in listed]
    return "\n".join(lines) + "\n"


def write_metrics(file: str, standings: Iterable[Standing]) -> None:
    """Replace the metrics file in one step; nothing where `file` is "". A failure is told, not raised."""
    if not file:
        return
    try:
        write_whole(Path(file), metrics_text(standings).encode(), 0o644)
    except OSError as problem:
        _log.warning("metrics_not_written", file=file, reason=problem.strerror)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
