"""What one frame may ask for is bounded by more than its length."""

import time

import pytest

from hsmbridge.core import messages as m
from hsmbridge.core.errors import RequestError, Status
from hsmbridge.core.identifiers import CryptoResourceId, ResourceKind
from hsmbridge.wire.codec import decode_request, encode_request
from hsmbridge.wire.frames import FrameReader


@pytest.mark.parametrize("length", [1024, 1025, 3_000_000])
def test_a_list_that_is_too_long_is_refused_before_anything_is_made_of_it(length: int) -> None:
    request = m.SignManyRequest(CryptoResourceId(1, ResourceKind.KEY_SLOT), "ECDSA-P256-SHA256", (b"m",) * length)
    (frame,) = FrameReader(1 << 26).feed(encode_request(1, request))
    if length <= 1024:
        assert decode_request(frame)[1] == request
        return
    began = time.process_time()
    with pytest.raises(RequestError) as refused:
        decode_request(frame)
    assert refused.value.status is Status.INVALID_ARGUMENT
    assert "1024" in refused.value.message
    assert time.process_time() - began < 0.05
