"""Messages of all the sizes that matter, and small changes to bytes."""

import secrets

import pytest

SIZES = {"empty": 0, "1 byte": 1, "64 KiB": 64 * 1024, "past 1 MiB": 1024 * 1024 + 17}
MESSAGES = {name: bytes(range(251)) * (size // 251) + bytes(size % 251) for name, size in SIZES.items()}

each_message = pytest.mark.parametrize("message", list(MESSAGES.values()), ids=list(MESSAGES))


def flipped(data: bytes, position: int = -1) -> bytes:
    """`data` with one bit changed."""
    changed = bytearray(data)
    changed[position] ^= 1
    return bytes(changed)


def nonce(size: int) -> bytes:
    return secrets.token_bytes(size)
