"""The format of encrypted files: what is written is read, and nothing else is."""

import secrets

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from hsmbridge.client import Ciphertext
from hsmbridge.client.file_format import (
    CHUNK_SIZE,
    FileHeader,
    chunk_aads,
    join_file,
    new_file_id,
    split_file,
    split_plaintext,
)
from hsmbridge.errors import DecryptionFailed, HsmBridgeError, RequestError, Status

KEY = AESGCM(b"k" * 32)


def encrypt(plaintext: bytes, *, slot: str = "uid-0/web", aad: bytes = b"") -> bytes:
    header = FileHeader(slot, 3, new_file_id())
    pieces = split_plaintext(plaintext)
    chunks = []
    for piece, associated in zip(pieces, chunk_aads(header.file_id, len(pieces), aad), strict=True):
        nonce = secrets.token_bytes(12)
        sealed = KEY.encrypt(nonce, piece, associated)
        chunks.append(Ciphertext(3, nonce, sealed[:-16], sealed[-16:]))
    return join_file(header, chunks)


def decrypt(file: bytes, aad: bytes = b"") -> bytes:
    header, chunks = split_file(file)
    associated = chunk_aads(header.file_id, len(chunks), aad)
    pairs = zip(chunks, associated, strict=True)
    return b"".join(KEY.decrypt(chunk.nonce, chunk.ciphertext + chunk.tag, data) for chunk, data in pairs)


def test_the_bytes_are_those_of_the_specification() -> None:
    header = FileHeader("web", 7, bytes(range(16)))
    file = join_file(header, [Ciphertext(7, b"n" * 12, b"cipher", b"t" * 16)])
    assert file == (
        b"HSMBFIL1" + b"\x03\x00" + b"web" + b"\x07\x00\x00\x00" + bytes(range(16)) + b"n" * 12 + b"t" * 16 + b"cipher"
    )
    assert chunk_aads(bytes(16), 2, b"mine") == [
        b"chunk:0\x00" + bytes(16) + b"\x00mine",
        b"chunk:1\x00" + bytes(16) + b"\x01mine",
    ]


@pytest.mark.parametrize("size", [0, 1, CHUNK_SIZE - 1, CHUNK_SIZE, CHUNK_SIZE + 1, 3 * CHUNK_SIZE, 200_000])
def test_files_of_every_size_come_back(size: int) -> None:
    plaintext = secrets.token_bytes(size)
    assert decrypt(encrypt(plaintext, aad=b"mine"), b"mine") == plaintext


def test_an_empty_file_is_one_empty_chunk() -> None:
    assert len(split_file(encrypt(b""))[1]) == 1


def test_the_header_names_slot_and_version() -> None:
    header, _ = split_file(encrypt(b"x", slot="büro/schlüssel"))
    assert (header.slot, header.version) == ("büro/schlüssel", 3)


@pytest.mark.parametrize("change", ["reorder", "drop last", "drop first", "other file", "other aad", "flip"])
def test_what_was_changed_does_not_decrypt(change: str) -> None:
    plaintext = secrets.token_bytes(3 * CHUNK_SIZE)
    file = encrypt(plaintext)
    whole = 28 + CHUNK_SIZE
    start = len(file) - 3 * whole
    first, second, third = (file[start + number * whole : start + (number + 1) * whole] for number in range(3))
    other = encrypt(plaintext)
    changed = {
        "reorder": file[:start] + second + first + third,
        "drop last": file[:start] + first + second,
        "drop first": file[:start] + second + third,
        "other file": file[:start] + first + second + other[-whole:],
        "other aad": file,
        "flip": file[:-1] + bytes([file[-1] ^ 1]),
    }[change]
    with pytest.raises(InvalidTag):
        decrypt(changed, b"not mine" if change == "other aad" else b"")


@given(st.integers(min_value=0, max_value=200))
def test_a_file_cut_anywhere_is_refused(length: int) -> None:
    file = encrypt(b"x" * 150)
    with pytest.raises((HsmBridgeError, InvalidTag)):
        decrypt(file[: min(length, len(file) - 1)])


def test_a_chunk_shorter_than_its_tag_is_cut() -> None:
    with pytest.raises(DecryptionFailed, match="cut off"):
        split_file(encrypt(b"")[:-1])


@given(st.binary())
def test_no_bytes_break_the_reader(data: bytes) -> None:
    for candidate in (data, b"HSMBFIL1" + data):
        try:
            header, chunks = split_file(candidate)
        except HsmBridgeError as problem:
            assert problem.status in {Status.INVALID_ARGUMENT, Status.DECRYPTION_FAILED}  # noqa: PT017 - either is fine
        else:
            assert join_file(header, chunks) == candidate


@given(st.binary(max_size=300), st.text(min_size=1, max_size=20), st.binary(max_size=20))
def test_what_is_written_is_read(plaintext: bytes, slot: str, aad: bytes) -> None:
    assert decrypt(encrypt(plaintext, slot=slot, aad=aad), aad) == plaintext


def test_an_algorithm_with_other_sizes_makes_no_file() -> None:
    with pytest.raises(RequestError, match="AES-GCM"):
        join_file(FileHeader("web", 1, bytes(16)), [Ciphertext(1, b"n" * 16, b"x", b"")])
