"""Streams in pieces: how they are cut is a part of the input."""


def pieces(data: bytes) -> list[bytes]:
    """A stream cut as its first eight bytes say: each is the length of a piece, 0 a long one; and so round again."""
    cuts, stream = data[:8], data[8:]
    found: list[bytes] = []
    while stream:
        size = cuts[len(found) % len(cuts)] or 1024
        found.append(stream[:size])
        stream = stream[size:]
    return found


def uncut(stream: bytes) -> bytes:
    """An input that brings a stream in one piece after another."""
    return b"\0\1\2\3\5\0\0\x20" + stream
