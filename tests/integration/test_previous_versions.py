"""A daemon of today answers the frames of every protocol version that it serves as daemons of that time did."""

import pytest

from hsmbridge.lab.lab import Lab
from hsmbridge.wire.codec import decode_batch_reply, decode_error, decode_reply
from hsmbridge.wire.frames import BATCH, Frame
from hsmbridge.wire.hello import NEWEST_VERSION, OLDEST_VERSION
from tests.wire_corpus import read
from tests.wire_corpus.replay import frame_of, replay


def check(reply: Frame) -> str:
    """Read the reply as the client does: what it says where it is a refusal."""
    if reply.word:
        return decode_error(reply).message
    if reply.flags & BATCH:
        decode_batch_reply(reply)
    else:
        decode_reply(reply)
    return ""


@pytest.mark.parametrize("version", range(OLDEST_VERSION, NEWEST_VERSION + 1))
def test_recorded_requests_are_answered_as_they_were(hsmbridge_lab: Lab, version: int) -> None:
    for exchange, reply in replay(read(version).exchanges, hsmbridge_lab.socket):
        recorded = frame_of(exchange.reply, reply=True)
        said = check(reply)
        assert reply.word == recorded.word, f"{exchange.name}: {said}"
        assert (reply.opcode, reply.request_id, reply.flags) == (recorded.opcode, recorded.request_id, recorded.flags)
