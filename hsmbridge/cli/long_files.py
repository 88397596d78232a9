"""Encryption of input that is longer than one call takes: files in chunks, and bare bytes through contexts."""

from typing import BinaryIO

from hsmbridge.cli.long_data import LongInput
from hsmbridge.client import AeadContext, Ciphertext, CryptoStack
from hsmbridge.client import file_format as ff
from hsmbridge.core.algorithms import Algorithm, Kind
from hsmbridge.core.errors import DecryptionFailed, KeyUseError, LimitError, RequestError, Status

CHUNKS_AT_ONCE = 64
"""Chunks of one round trip: not quite 4 MiB."""


def encrypt_chunks(stack: CryptoStack, name: str, row: Algorithm, source: LongInput, sink: BinaryIO, aad: bytes) -> int:
    """Encrypt a file in chunks; the key version that did it.

    Raises KeyUseError (KEY_STATE_FORBIDS) where the slot was rotated meanwhile.
    """
    file_id = ff.new_file_id()
    version = number = 0
    ahead = source.read_exactly(ff.CHUNK_SIZE)
    last = False
    while not last:
        pieces: list[bytes] = []
        aads = []
        while len(pieces) < CHUNKS_AT_ONCE and not last:
            piece, ahead = ahead, source.read_exactly(ff.CHUNK_SIZE)
            last = not ahead
            pieces.append(piece)
            aads.append(ff.chunk_aad(file_id, number + len(pieces) - 1, last=last, aad=aad))
        chunks = stack.encrypt_many(name, row.name, pieces, aads=aads)
        if not version:
            version = chunks[0].version
            sink.write(ff.FileHeader(name, version, file_id).encode())
        if any(chunk.version != version for chunk in chunks):
            raise KeyUseError(
                Status.KEY_STATE_FORBIDS, "The slot was rotated while the file was being encrypted; do it again."
            )
        sink.writelines(map(ff.encode_chunk, chunks))
        number += len(chunks)
    return version


def header_of(source: LongInput) -> ff.FileHeader:
    """The header of an encrypted file, which is read past. Raises RequestError (INVALID_ARGUMENT)."""
    begin = source.read_exactly(ff.HEADER_MAX)
    header, length = ff.read_header(begin)
    source.put_back(begin[length:])
    return header


def decrypt_chunks(
    stack: CryptoStack,
    slot: str,
    row: Algorithm,
    header: ff.FileHeader,
    source: LongInput,
    sink: BinaryIO,
    aad: bytes,
) -> None:
    """Decrypt what follows the header. Raises DecryptionFailed."""
    number = 0
    ahead = source.read_exactly(ff.CHUNK_MAX)
    last = False
    while not last:
        chunks: list[Ciphertext] = []
        aads = []
        while len(chunks) < CHUNKS_AT_ONCE and not last:
            chunk, ahead = ahead, source.read_exactly(ff.CHUNK_MAX)
            last = not ahead
            chunks.append(ff.decode_chunk(chunk, header.version))
            aads.append(ff.chunk_aad(header.file_id, number + len(chunks) - 1, last=last, aad=aad))
        sink.writelines(stack.decrypt_many(slot, row.name, chunks, aads=aads))
        number += len(chunks)


def encrypt_bare(stack: CryptoStack, slot: str, row: Algorithm, source: LongInput, sink: BinaryIO, aad: bytes) -> int:
    """Nonce, ciphertext and tag through a context; the key version that did it."""
    _check_streams(row)
    if row.kind is Kind.AEAD:
        with stack.aead_context(slot, row.name, "encrypt", aad=aad) as sealing:
            sink.write(sealing.nonce)
            sealing.update_from(source, sink)
            sealing.finalize_to(sink)
            sink.write(sealing.get_tag())
            return sealing.key_version
    with stack.cipher_context(slot, row.name, "encrypt") as context:
        sink.write(context.nonce)
        context.update_from(source, sink)
        context.finalize_to(sink)
        return context.key_version


def decrypt_bare(
    stack: CryptoStack, slot: str, row: Algorithm, source: LongInput, sink: BinaryIO, aad: bytes, version: int
) -> None:
    """The plaintext of nonce, ciphertext and tag. Raises DecryptionFailed."""
    _check_streams(row)
    nonce = source.read_exactly(row.nonce_size)
    if len(nonce) < row.nonce_size:
        raise DecryptionFailed(Status.DECRYPTION_FAILED)
    if row.kind is Kind.AEAD:
        with stack.aead_context(slot, row.name, "decrypt", nonce=nonce, aad=aad, version=version) as opening:
            opening.set_tag(_feed_all_but_the_tag(opening, row, source))
            opening.finalize_to(sink)
        return
    with stack.cipher_context(slot, row.name, "decrypt", nonce=nonce, version=version) as context:
        context.update_from(source, sink)
        context.finalize_to(sink)


def _feed_all_but_the_tag(opening: AeadContext, row: Algorithm, source: LongInput) -> bytes:
    held = b""
    while data := source.read(1 << 20):
        held += data
        cut = max(0, len(held) - row.tag_size)
        opening.update(held[:cut])
        held = held[cut:]
    if len(held) < row.tag_size:
        raise DecryptionFailed(Status.DECRYPTION_FAILED)
    return held


def _check_streams(row: Algorithm) -> None:
    if row.kind is Kind.PUBLIC_KEY_ENCRYPTION:
        raise LimitError(
            Status.DATA_TOO_LARGE, f"{row.name} takes a short message; encrypt a key with it, and the data with that."
        )


def check_version(header: ff.FileHeader, version: int) -> None:
    """Raises RequestError (INVALID_ARGUMENT) where another key version is asked for than the file's."""
    if version and version != header.version:
        raise RequestError(
            Status.INVALID_ARGUMENT, f"The file was encrypted by key version {header.version}, not {version}."
        )
