"""Large data, contexts and many messages: the daemon's ways for them against the library call on the same data.

Everything is AES-256-GCM with a software key. "Direct" is the one call that a program makes which holds the key itself:
`AESGCM.encrypt` or `decrypt` of cryptography, on bytes that are there, with a nonce counted up. A line with `into` has
`encrypt_into` or `decrypt_into` on a buffer that is used again, which needs no new memory: no aim is set for those.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count, cycle

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from benchmarks.core import Choice
from benchmarks.measure import Result, compare, repeating
from hsmbridge.client import AeadContext, Allocation, CryptoStack, ImportKeyParams, KeyOperationPermission
from hsmbridge.client.memory import ALIGNMENT
from hsmbridge.lab.lab import Lab
from hsmbridge.lab.options import LabOptions

SUITE = "contexts"
TURNS = 12
GCM = "AES-256-GCM"
TAG = 16
KIB = 1024
MIB = 1024 * KIB
LARGE = 16
"""Messages of 64 KiB in one request."""
MANY = 256
"""Messages of 1 KiB in one request."""

_NAME = "bench"
_KEY = os.urandom(32)


def run(only: str, turns: int) -> Iterator[Result]:
    """Every case whose name contains `only`, with so many turns of each side."""
    choice = Choice(only, turns)
    with Lab.start(LabOptions(tpm=False)) as lab, lab.stack() as stack:
        permissions = KeyOperationPermission.ENCRYPT | KeyOperationPermission.DECRYPT
        stack.create_slot(_NAME, "AES-256", permissions, providers=["software"], empty=True)
        params = ImportKeyParams(key_type="AES-256", permissions=int(permissions), format="raw")
        stack.import_key(params, _KEY, slot=_NAME)
        yield from _encryption(choice, stack)
        yield from _decryption(choice, stack)
        yield from _many(choice, stack)
        yield from _contexts(choice, stack)


def _encryption(choice: Choice, stack: CryptoStack) -> Iterator[Result]:
    for size, name, target in ((MIB, "1 MiB", 0.85), (64 * KIB, "64 KiB", None)):
        case = f"encrypt {name} in shared memory"
        if case in choice:
            with stack.allocate(size) as part:
                ours = repeating(lambda part=part: stack.encrypt_in_place(_NAME, GCM, part, part.length))  # type: ignore[misc]
                yield compare(SUITE, case, ours, repeating(_encrypt(size)), target=target, turns=choice.turns)
                yield compare(
                    SUITE,
                    f"{case}, against into",
                    ours,
                    repeating(_encrypt_into(size)),
                    against_name="into",
                    turns=choice.turns,
                )
        case = f"encrypt {name} of the caller's bytes"
        if case in choice:
            data = os.urandom(size)
            ours = repeating(lambda data=data: stack.encrypt(_NAME, GCM, data))  # type: ignore[misc]
            yield compare(SUITE, case, ours, repeating(_encrypt(size)), turns=choice.turns)
    case = f"encrypt {LARGE} of 64 KiB in shared memory, one request"
    if case in choice:
        with _places(stack, LARGE, 64 * KIB) as (part, places):
            ours = repeating(lambda: stack.encrypt_many_in_place(_NAME, GCM, part, places), LARGE)
            yield compare(SUITE, case, ours, repeating(_encrypt(64 * KIB)), target=0.40, turns=choice.turns)


def _decryption(choice: Choice, stack: CryptoStack) -> Iterator[Result]:
    for size, name, target in ((MIB, "1 MiB", 0.5), (64 * KIB, "64 KiB", None)):
        case = f"decrypt {name} in shared memory"
        if case in choice:
            with stack.allocate(size) as part:
                decrypt = _decrypt_in_place(stack, part)
                ours = repeating(decrypt)
                yield compare(SUITE, case, ours, repeating(_decrypt(size)), target=target, turns=choice.turns)
                yield compare(
                    SUITE,
                    f"{case}, against into",
                    ours,
                    repeating(_decrypt_into(size)),
                    against_name="into",
                    turns=choice.turns,
                )
        case = f"decrypt {name} of the caller's bytes"
        if case in choice:
            sealed = stack.encrypt(_NAME, GCM, os.urandom(size))
            ours = repeating(lambda sealed=sealed: stack.decrypt(_NAME, GCM, sealed))  # type: ignore[misc]
            yield compare(SUITE, case, ours, repeating(_decrypt(size)), turns=choice.turns)


def _many(choice: Choice, stack: CryptoStack) -> Iterator[Result]:
    direct = repeating(_encrypt(KIB))
    case = f"encrypt {MANY} of 1 KiB in shared memory, one request"
    if case in choice:
        with _places(stack, MANY, KIB) as (part, places):
            ours = repeating(lambda: stack.encrypt_many_in_place(_NAME, GCM, part, places), MANY)
            yield compare(SUITE, case, ours, direct, target=0.40, turns=choice.turns)
    case = f"encrypt {MANY} of 1 KiB of the caller's bytes, one request"
    if case in choice:
        messages = [os.urandom(KIB) for _ in range(MANY)]
        ours = repeating(lambda: stack.encrypt_many(_NAME, GCM, messages), MANY)
        yield compare(SUITE, case, ours, direct, turns=choice.turns)


def _contexts(choice: Choice, stack: CryptoStack) -> Iterator[Result]:
    """A context that is used again takes three round trips a message - restart, update, finalize - and not four."""
    case = "context encrypts 1 KiB, reset and used again"
    if case not in choice:
        return
    data = os.urandom(KIB)

    def anew() -> None:
        with stack.aead_context(_NAME, GCM, "encrypt") as context:
            _use(context, data)

    with stack.aead_context(_NAME, GCM, "encrypt") as kept:
        _use(kept, data)

        def again() -> None:
            kept.restart()
            _use(kept, data)

        yield compare(
            SUITE,
            case,
            repeating(again),
            repeating(anew),
            against_name="new_context",
            target=1.15,
            turns=choice.turns,
        )


def _use(context: AeadContext, data: bytes) -> None:
    context.update(data)
    context.finalize()
    context.get_tag()


@contextmanager
def _places(stack: CryptoStack, messages: int, size: int) -> Iterator[tuple[Allocation, list[tuple[int, int]]]]:
    """Room for so many messages, each with its tag, and where each is."""
    step = size + ALIGNMENT
    with stack.allocate(messages * step) as part:
        yield part, [(number * step, size) for number in range(messages)]


def _decrypt_in_place(stack: CryptoStack, part: Allocation) -> Callable[[], object]:
    """Decrypts in place again and again, without putting a ciphertext back: what it leaves is the next to decrypt.

    GCM encrypts and decrypts alike, but for the tag. A plaintext taken for a ciphertext, with a tag that fits, decrypts
    to the ciphertext; the key is known here, so there are both tags.
    """
    nonce, first = os.urandom(12), os.urandom(part.length)
    aes = AESGCM(_KEY)
    sealed = aes.encrypt(nonce, first, None)
    tags = cycle((aes.encrypt(nonce, sealed[:-TAG], None)[-TAG:], sealed[-TAG:]))
    part.view[:] = first
    return lambda: stack.decrypt_in_place(_NAME, GCM, part, part.length, nonce=nonce, tag=next(tags))


def _encrypt(size: int) -> Callable[[], object]:
    aes, data, nonces = AESGCM(_KEY), os.urandom(size), count()
    return lambda: aes.encrypt(next(nonces).to_bytes(12, "big"), data, None)


def _encrypt_into(size: int) -> Callable[[], object]:
    aes, memory, nonces = AESGCM(_KEY), memoryview(bytearray(size + TAG)), count()
    plaintext = memory[:size]
    return lambda: aes.encrypt_into(next(nonces).to_bytes(12, "big"), plaintext, None, memory)


def _decrypt(size: int) -> Callable[[], object]:
    aes, nonce = AESGCM(_KEY), bytes(12)
    sealed = aes.encrypt(nonce, os.urandom(size), None)
    return lambda: aes.decrypt(nonce, sealed, None)


def _decrypt_into(size: int) -> Callable[[], object]:
    aes, nonce, memory = AESGCM(_KEY), bytes(12), memoryview(bytearray(size))
    sealed = aes.encrypt(nonce, os.urandom(size), None)
    return lambda: aes.decrypt_into(nonce, sealed, None, memory)
