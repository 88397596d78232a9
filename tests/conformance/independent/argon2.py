"""Argon2id by the text of RFC 9106 over hashlib's BLAKE2b: slow, for a few blocks of memory."""

import hashlib
from functools import cache

_VERSION = 0x13
_TYPE = 2
_WORDS = 128
_MASK = (1 << 64) - 1
_LOW = (1 << 32) - 1

_Block = list[int]


@cache
def argon2id(
    password: bytes, salt: bytes, iterations: int, lanes: int, memory: int, length: int,
    secret: bytes = b"", associated: bytes = b"",
) -> bytes:  # fmt: skip
    """Section 3.2; `memory` in KiB."""
    numbers = (lanes, length, memory, iterations, _VERSION, _TYPE)
    given = b"".join(map(_le32, numbers)) + b"".join(
        _le32(len(one)) + one for one in (password, salt, secret, associated)
    )
    start = hashlib.blake2b(given).digest()
    columns = memory // (4 * lanes) * 4
    blocks = [
        [
            _words(_long_hash(start + _le32(column) + _le32(lane), 1024)) if column < 2 else []
            for column in range(columns)
        ]
        for lane in range(lanes)
    ]
    for number in range(iterations):
        for part in range(4):
            for lane in range(lanes):
                _fill(blocks, number, part, lane, lanes * columns, iterations)
    final = [0] * _WORDS
    for row in blocks:
        final = _xor(final, row[-1])
    return _long_hash(b"".join(word.to_bytes(8, "little") for word in final), length)


def _fill(blocks: list[list[_Block]], number: int, part: int, lane: int, total: int, iterations: int) -> None:
    """One segment of one lane: sections 3.3 and 3.4."""
    lanes, columns = len(blocks), len(blocks[0])
    segment = columns // 4
    addressed = number == 0 and part < 2
    addresses: _Block = []
    for index in range(segment):
        if addressed and index % _WORDS == 0:
            counted = [number, lane, part, total, iterations, _TYPE, index // _WORDS + 1]
            zero = [0] * _WORDS
            addresses = _compress(zero, _compress(zero, counted + [0] * (_WORDS - len(counted))))
        if number == 0 and part == 0 and index < 2:
            continue
        column = part * segment + index
        previous = blocks[lane][column - 1]
        random = addresses[index % _WORDS] if addressed else previous[0]
        other = lane if number == 0 and part == 0 else (random >> 32) % lanes
        before = part * segment if number == 0 else columns - segment
        size = before + index - 1 if other == lane else before - (index == 0)
        x = (random & _LOW) ** 2 >> 32
        relative = size - 1 - (size * x >> 32)
        first = 0 if number == 0 else (part + 1) * segment
        made = _compress(previous, blocks[other][(first + relative) % columns])
        blocks[lane][column] = _xor(made, blocks[lane][column]) if number else made


def _compress(x: _Block, y: _Block) -> _Block:
    """G of section 3.5."""
    r = _xor(x, y)
    q = list(r)
    for row in range(8):
        _permute(q, [16 * row + word for word in range(16)])
    for column in range(8):
        _permute(q, [16 * row + 2 * column + word for row in range(8) for word in range(2)])
    return _xor(q, r)


def _permute(v: _Block, at: list[int]) -> None:
    """P of section 3.6."""
    for a, b, c, d in (
        (0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
        (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14),
    ):  # fmt: skip
        _mix(v, at[a], at[b], at[c], at[d])


def _mix(v: _Block, a: int, b: int, c: int, d: int) -> None:
    for first, second in ((32, 24), (16, 63)):
        v[a] = v[a] + v[b] + 2 * (v[a] & _LOW) * (v[b] & _LOW) & _MASK
        v[d] = _rotated(v[d] ^ v[a], first)
        v[c] = v[c] + v[d] + 2 * (v[c] & _LOW) * (v[d] & _LOW) & _MASK
        v[b] = _rotated(v[b] ^ v[c], second)


def _rotated(word: int, by: int) -> int:
    return (word >> by | word << 64 - by) & _MASK


def _long_hash(data: bytes, length: int) -> bytes:
    """H' of section 3.3."""
    if length <= 64:
        return hashlib.blake2b(_le32(length) + data, digest_size=length).digest()
    made, block = b"", hashlib.blake2b(_le32(length) + data).digest()
    while length - len(made) > 64:
        made += block[:32]
        left = length - len(made)
        block = hashlib.blake2b(block, digest_size=min(left, 64)).digest()
    return made + block


def _words(block: bytes) -> _Block:
    return [int.from_bytes(block[at : at + 8], "little") for at in range(0, len(block), 8)]


def _xor(one: _Block, other: _Block) -> _Block:
    return [a ^ b for a, b in zip(one, other, strict=True)]


def _le32(number: int) -> bytes:
    return number.to_bytes(4, "little")
