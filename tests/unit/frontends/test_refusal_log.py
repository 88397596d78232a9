"""Refused connections in the log: one line, then numbers."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace

import pytest
import structlog
from structlog.testing import capture_logs

from hsmbridge.core.errors import Status
from hsmbridge.frontends import refusal_log as module
from hsmbridge.frontends.refusal_log import RefusalLog
from tests.unit.frontends.native_rig import LIMITS, Front, Peer, front

HAMMERED = 200


@pytest.fixture
def full() -> Iterator[Front]:
    """A front end that takes one connection of a principal, and has it."""
    with front(replace(LIMITS, max_connections_per_principal=1)) as made, Peer(made):
        yield made


def hammer(full: Front, times: int) -> None:
    for _ in range(times):
        with Peer(full, greet=False) as peer:
            assert peer.refusal().status is Status.TOO_MANY_CONNECTIONS


def test_a_client_that_hammers_has_one_line_and_a_number(full: Front) -> None:
    with capture_logs() as logs:
        hammer(full, HAMMERED)
        (line,) = logs
        assert (line["event"], line["status"]) == ("connection refused", "TOO_MANY_CONNECTIONS")
        full.front_end.flush_log()
    assert [(one["event"], one.get("times")) for one in logs] == [
        ("connection refused", None),
        ("connection refused", HAMMERED - 1),
    ]
    assert logs[1]["principal"] == logs[0]["principal"]


def test_the_number_comes_by_itself_and_the_next_one_after_a_rest_has_a_line_again(
    full: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SUMMARY_INTERVAL", 0.05)
    with capture_logs() as logs:
        hammer(full, 3)
        while sum(one.get("times", 1) for one in logs) < 3 or full.front_end._refusals._kinds:
            full.settle()
        before = len(logs)
        hammer(full, 1)
    assert len(logs) == before + 1
    assert "times" not in logs[-1]


def test_others_and_other_reasons_have_lines_of_their_own() -> None:
    async def tell() -> None:
        told = RefusalLog()
        for principal, status in (("uid:1", "A"), ("uid:1", "B"), ("uid:2", "A"), ("uid:1", "A")):
            told.tell(structlog.get_logger().info, "connection refused", status, principal=principal, status=status)

    with capture_logs() as logs:
        asyncio.run(tell())
    assert [(one["principal"], one["status"]) for one in logs] == [("uid:1", "A"), ("uid:1", "B"), ("uid:2", "A")]
