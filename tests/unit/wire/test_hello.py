"""The hello: which version is spoken, and what is refused before anything else is read."""

import pytest

from hsmbridge.core.errors import RequestError, Status, WireError
from hsmbridge.core.messages import HelloReply, HelloRequest, PingRequest
from hsmbridge.wire import codec
from hsmbridge.wire.frames import FrameReader, body_limit
from hsmbridge.wire.hello import CLIENT_NAME_MAX, NEWEST_VERSION, check_hello_reply, hello, negotiate, read_hello


def test_both_sides_of_this_release_agree_on_its_version() -> None:
    assert negotiate(hello("client")) == NEWEST_VERSION


def test_a_client_that_also_speaks_newer_versions_gets_ours() -> None:
    assert negotiate(HelloRequest(1, 9, "client")) == NEWEST_VERSION


@pytest.mark.parametrize(("oldest", "newest"), [(0, 0), (2, 9), (9, 2), (-5, -1), (2, 1)])
def test_no_common_version_is_refused_and_both_ranges_are_named(oldest: int, newest: int) -> None:
    with pytest.raises(WireError, match="the daemon 1; update the older one") as refused:
        negotiate(HelloRequest(oldest, newest, "client"))
    assert refused.value.status is Status.VERSION_NOT_SUPPORTED


def test_another_request_before_the_hello_is_refused() -> None:
    (frame,) = FrameReader(body_limit()).feed(codec.encode_request(1, PingRequest()))
    with pytest.raises(WireError, match="must be the hello") as refused:
        read_hello(frame)
    assert refused.value.status is Status.MALFORMED_FRAME


def test_the_hello_is_read() -> None:
    (frame,) = FrameReader(body_limit()).feed(codec.encode_request(1, hello("prog")))
    assert read_hello(frame) == HelloRequest(1, 1, "prog")


def test_a_client_name_that_is_too_long_is_refused() -> None:
    (frame,) = FrameReader(body_limit()).feed(codec.encode_request(1, HelloRequest(1, 1, "n" * (CLIENT_NAME_MAX + 1))))
    with pytest.raises(RequestError, match="at most"):
        read_hello(frame)


def test_a_version_that_was_not_offered_is_refused_by_the_client() -> None:
    assert check_hello_reply(HelloReply(1, "daemon", "uid:0", 1, 1)) == 1
    with pytest.raises(WireError, match="chose protocol version 7"):
        check_hello_reply(HelloReply(7, "daemon", "uid:0", 1, 1))
