"""The record of a CA: what waits for approval has a limit, and an end."""

import pytest

from est.ca import record as module
from est.ca.record import MAX_WAITING, Record
from hsmbridge.core.errors import LimitError


def test_one_requester_has_so_many_requests_waiting_and_others_have_theirs() -> None:
    record = Record(":memory:")
    for number in range(MAX_WAITING):
        assert not record.wait(f"{number}", "CN=a", "user:a")
    with pytest.raises(LimitError, match="wait for approval"):
        record.wait("one more", "CN=a", "user:a")
    assert not record.wait("0", "CN=a", "user:a")
    assert not record.wait("other", "CN=b", "user:b")
    record.approve("0")
    assert record.wait("0", "CN=a", "user:a")
    record.done_waiting("0")
    assert not record.wait("one more", "CN=a", "user:a")


def test_what_nobody_approves_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    record = Record(":memory:")
    for id_ in ("approved", "not"):
        record.wait(id_, "CN=a", "user:a")
        record.keep_request(id_, b"request", "user:a")
    record.approve("approved")
    monkeypatch.setattr(module, "FORGOTTEN", -1.0)
    record.wait("new", "CN=a", "user:a")
    assert {one.id for one in record.waiting()} == {"approved", "new"}
    assert record.kept_request("not") is None
    assert record.kept_request("approved") is not None
