"""Data that comes in pieces gives what it gives at once, wherever it is divided; on every back end, for every row."""

import secrets
from collections.abc import Sequence

import pytest

from hsmbridge.core import calls
from hsmbridge.core.algorithms import Algorithm, KeyOperation, Kind, Scheme, algorithm
from hsmbridge.core.calls import Encrypted, StreamEnd
from hsmbridge.core.errors import ProviderError, RequestError, SignatureInvalid, Status
from hsmbridge.core.params import DEFAULT_SIGNATURE
from tests.conformance.independent import macs
from tests.conformance.pinned import PINNED, Case, cases, each
from tests.conformance.rig import Rig
from tests.conformance.samples import flipped, nonce

BOTH = (KeyOperation.ENCRYPT, KeyOperation.DECRYPT)
AAD = b"associated data"

LENGTH = 100_003
"""Bytes: past what a TPM takes in a command or keeps in a sequence, and no multiple of any block."""

DIVISIONS = {
    "one piece": (LENGTH,),
    "byte by byte, then the rest": (1,) * 33 + (LENGTH - 33,),
    "around a block": (15, 16, 17, 31, 33, LENGTH - 112),
    "around a kilobyte": (1023, 1025, 1024, LENGTH - 3072),
    "around 64 KiB": (65_535, 1, LENGTH - 65_536),
}
divided = pytest.mark.parametrize("sizes", list(DIVISIONS.values()), ids=list(DIVISIONS))
short = pytest.mark.parametrize("length", [0, 1, 16, 1024])

AT_ONCE = frozenset({("softokn", Scheme.GCM), ("softokn", Scheme.CBC), ("kryoptic", Scheme.CBC)})
"""NSS softokn takes AES-GCM at once only; neither it nor kryoptic decrypts what was padded in pieces."""

STREAMED = frozenset(
    {Scheme.GCM, Scheme.CBC, Scheme.CTR, Scheme.CFB, Scheme.RSASSA_PKCS1, Scheme.RSASSA_PSS, Scheme.ECDSA}
)
"""What every back end streams that has it at all; the rest is collected by the daemon, which has tests of its own."""


def pieces(data: bytes, sizes: Sequence[int]) -> list[bytes]:
    cut, position = [], 0
    for size in sizes:
        cut.append(data[position : position + size])
        position += size
    assert position >= len(data)
    return cut


def opened(
    rig: Rig, row: Algorithm, operation: KeyOperation, handle: int = 0, iv: bytes = b"", aad: bytes = b""
) -> int | None:
    """A new stream; None where the provider takes this only at once."""
    stream = secrets.randbits(63)
    call = calls.StreamOpenCall(stream, handle, row.name, operation, iv, aad, DEFAULT_SIGNATURE)
    try:
        rig.perform(call)
    except RequestError as refusal:
        if refusal.status is not Status.NOT_SUPPORTED:
            raise
        return None
    return stream


def run(rig: Rig, stream: int, data: Sequence[bytes], proof: bytes = b"") -> tuple[bytes, bytes]:
    """Output and tag; the last piece goes with the end."""
    output = b"".join([rig.ask(calls.StreamUpdateCall(stream, piece), bytes) for piece in data[:-1] if piece])
    end = rig.ask(calls.StreamFinishCall(stream, data[-1] if data else b"", proof), StreamEnd)
    assert len(rig.provider.streams) == 0, "an ended stream is gone"
    return output + end.output, end.tag


_DIGESTS = [
    (pinned.backend, name)
    for pinned in PINNED.values()
    for name in pinned.operations
    if pinned.offers(algorithm(name), KeyOperation.DIGEST)
]


@pytest.mark.parametrize(("backend", "name"), _DIGESTS)
@divided
def test_a_digest_in_pieces_is_hashlibs(rig: Rig, backend: str, name: str, sizes: tuple[int, ...]) -> None:
    row, data = algorithm(name), secrets.token_bytes(LENGTH)
    stream = opened(rig, row, KeyOperation.DIGEST)
    assert stream is not None
    assert run(rig, stream, pieces(data, sizes))[0] == macs.digest(row, data)


@each(cases(Kind.AEAD, Kind.CIPHER, needs=BOTH, first=True))
@divided
def test_what_is_encrypted_in_pieces_decrypts_at_once(rig: Rig, case: Case, sizes: tuple[int, ...]) -> None:
    key, data = rig.key(case), secrets.token_bytes(LENGTH)
    iv, aad = nonce(case.algorithm.nonce_size), AAD if case.algorithm.kind is Kind.AEAD else b""
    stream = opened(rig, case.algorithm, KeyOperation.ENCRYPT, rig.load(key), iv, aad)
    if stream is None:
        assert case.algorithm.scheme not in STREAMED or (case.backend, case.algorithm.scheme) in AT_ONCE
        return
    ciphertext, tag = run(rig, stream, pieces(data, sizes))
    whole = rig.encrypt(case, key, iv, data, aad)
    assert (ciphertext, tag) == (whole.ciphertext, whole.tag)
    assert rig.decrypt(case, key, Encrypted(iv, ciphertext, tag), aad) == data


@each(cases(Kind.AEAD, Kind.CIPHER, needs=BOTH, first=True))
@short
def test_little_is_encrypted_in_pieces_as_at_once(rig: Rig, case: Case, length: int) -> None:
    key, data = rig.key(case), secrets.token_bytes(length)
    iv = nonce(case.algorithm.nonce_size)
    stream = opened(rig, case.algorithm, KeyOperation.ENCRYPT, rig.load(key), iv)
    if stream is not None:
        whole = rig.encrypt(case, key, iv, data)
        assert run(rig, stream, [data]) == (whole.ciphertext, whole.tag)


@each(cases(Kind.CIPHER, needs=BOTH, first=True))
@divided
def test_what_is_decrypted_in_pieces_was_encrypted_at_once(rig: Rig, case: Case, sizes: tuple[int, ...]) -> None:
    key, data = rig.key(case), secrets.token_bytes(LENGTH)
    iv = nonce(case.algorithm.nonce_size)
    sealed = rig.encrypt(case, key, iv, data)
    stream = opened(rig, case.algorithm, KeyOperation.DECRYPT, rig.load(key), iv)
    if stream is None:
        assert (case.backend, case.algorithm.scheme) in AT_ONCE
        return
    whole = (*sizes, len(sealed.ciphertext) - LENGTH)
    assert run(rig, stream, pieces(sealed.ciphertext, whole))[0] == data


@each(cases(Kind.AEAD, needs=BOTH, first=True))
def test_no_back_end_streams_the_decryption_of_an_aead(rig: Rig, case: Case) -> None:
    handle = rig.load(rig.key(case))
    assert opened(rig, case.algorithm, KeyOperation.DECRYPT, handle, nonce(case.algorithm.nonce_size)) is None


@each(cases(Kind.SIGNATURE, Kind.MAC, needs=(KeyOperation.SIGN, KeyOperation.VERIFY), first=True))
@divided
def test_what_is_signed_in_pieces_verifies_and_the_other_way(rig: Rig, case: Case, sizes: tuple[int, ...]) -> None:
    key, data = rig.key(case), secrets.token_bytes(LENGTH)
    handle = rig.load(key)
    signing = opened(rig, case.algorithm, KeyOperation.SIGN, handle)
    if signing is None:
        assert case.algorithm.scheme not in STREAMED
        return
    signature, tag = run(rig, signing, pieces(data, sizes))
    assert tag == b""
    rig.verify(case, key, data, signature)
    verifying = opened(rig, case.algorithm, KeyOperation.VERIFY, handle)
    assert verifying is not None
    assert run(rig, verifying, pieces(data, sizes), rig.sign(case, key, data)) == (b"", b"")
    wrong = opened(rig, case.algorithm, KeyOperation.VERIFY, handle)
    assert wrong is not None
    with pytest.raises(SignatureInvalid):
        run(rig, wrong, pieces(data, sizes), flipped(signature))
    assert len(rig.provider.streams) == 0, "a failed stream is gone"


@each(cases(Kind.MAC, needs=(KeyOperation.SIGN,), first=True))
@short
def test_little_is_authenticated_in_pieces_as_at_once(rig: Rig, case: Case, length: int) -> None:
    key, data = rig.key(case), secrets.token_bytes(length)
    stream = opened(rig, case.algorithm, KeyOperation.SIGN, rig.load(key))
    assert stream is not None, "every back end streams its MACs"
    assert run(rig, stream, [data]) == (rig.sign(case, key, data), b"")


@each(cases(Kind.MAC, needs=(KeyOperation.SIGN,), first=True))
def test_streams_do_not_disturb_each_other_and_close_without_a_trace(rig: Rig, case: Case) -> None:
    key, data = rig.key(case), secrets.token_bytes(LENGTH)
    expected, handle = rig.sign(case, key, data), rig.load(key)
    streams = [opened(rig, case.algorithm, KeyOperation.SIGN, handle) for _ in range(10)]
    assert all(stream is not None for stream in streams)
    for piece in pieces(data, (40_000, 40_000, LENGTH)):
        for stream in streams:
            rig.perform(calls.StreamUpdateCall(stream or 0, piece))
    for stream in streams[:5]:
        assert rig.ask(calls.StreamFinishCall(stream or 0), StreamEnd).output == expected
    for stream in streams[5:]:
        rig.perform(calls.StreamCloseCall(stream or 0))
        rig.perform(calls.StreamCloseCall(stream or 0))
        with pytest.raises(ProviderError) as refusal:
            rig.perform(calls.StreamUpdateCall(stream or 0, b"more"))
        assert refusal.value.status is Status.HANDLE_UNKNOWN
    assert len(rig.provider.streams) == 0
    assert rig.sign(case, key, data) == expected


def test_a_stream_that_was_given_up_before_it_was_open_does_not_stay(rigs: object) -> None:
    assert callable(rigs)
    rig: Rig = rigs("software")
    stream = secrets.randbits(63)
    rig.perform(calls.StreamCloseCall(stream))
    rig.perform(calls.StreamOpenCall(stream, 0, "SHA-256", KeyOperation.DIGEST))
    assert len(rig.provider.streams) == 0
