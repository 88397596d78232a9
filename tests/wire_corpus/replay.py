"""Sends the requests of a corpus to another daemon: the same frames, but for what the first daemon had chosen.

Ids, nonces, signatures and the like stand in later requests. Where a reply has other ones than the recorded reply, the
following requests get those; nothing else of a recorded frame is touched.
"""

from collections.abc import Iterator
from pathlib import Path

import msgspec

from hsmbridge.wire.frames import Frame, FrameReader, body_limit, encode_frame
from tests.raw_connection import RawConnection
from tests.wire_corpus import Exchange

_SHORTEST = 5
"""Bytes, as they are encoded: what is shorter is a count or a flag, and would be found where it was not meant."""


def frame_of(data: str, *, reply: bool) -> Frame:
    """A recorded frame."""
    (frame,) = FrameReader(body_limit(), replies=reply).feed(bytes.fromhex(data))
    return frame


def replay(exchanges: list[Exchange], socket: Path) -> Iterator[tuple[Exchange, Frame]]:
    """Each exchange with the reply that the daemon at a socket gives now."""
    chosen: dict[bytes, bytes] = {}
    with RawConnection(socket) as connection:
        for exchange in exchanges:
            asked = frame_of(exchange.request, reply=False)
            body = bytes(asked.body)
            for before, now in chosen.items():
                body = body.replace(before, now)
            _, reply = connection.exchange(encode_frame(asked.opcode, asked.request_id, asked.flags, asked.word, body))
            yield exchange, reply
            recorded = frame_of(exchange.reply, reply=True)
            if not recorded.word and not reply.word:
                chosen.update(_other(_plain(recorded.body), _plain(reply.body)))


def _plain(body: bytes | memoryview) -> object:
    return msgspec.msgpack.decode(body)


def _other(before: object, now: object) -> Iterator[tuple[bytes, bytes]]:
    """Values that stand in the same place and differ, as they are encoded."""
    match before, now:
        case list(), list():
            for one, other in zip(before, now, strict=False):
                yield from _other(one, other)
        case (int(), int()) | (bytes(), bytes()):
            encoded = msgspec.msgpack.encode(before)
            if before != now and len(encoded) >= _SHORTEST:
                yield encoded, msgspec.msgpack.encode(now)
        case _:
            return
