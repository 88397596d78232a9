"""The format of encrypted files: bytes in, bytes out. It encrypts nothing itself.

    "HSMBFIL1" | u16 length, name of the slot | u32 key version | file id, 16 bytes | chunk | chunk | ...
    chunk:  nonce, 12 bytes | tag, 16 bytes | ciphertext

Numbers are little-endian. Every chunk but the last holds 61,440 bytes of plaintext, the last at most as many; an
empty file is one empty chunk. The associated data of chunk N is "chunk:N", 0x00, the file id, 0x01 for the last
chunk and 0x00 for the others, then what the user gave, so that chunks cannot be reordered, dropped, cut off, or
taken from another file.
"""

import secrets
import struct
from collections.abc import Sequence
from typing import Final

import msgspec

from hsmbridge.client.results import Ciphertext
from hsmbridge.core.errors import DecryptionFailed, RequestError, Status

MAGIC: Final = b"HSMBFIL1"
CHUNK_SIZE: Final = 61_440
NONCE_SIZE: Final = 12
TAG_SIZE: Final = 16
FILE_ID_SIZE: Final = 16
SLOT_NAME_MAX: Final = 256
HEADER_MAX: Final = 8 + 2 + SLOT_NAME_MAX + 4 + FILE_ID_SIZE
CHUNK_MAX: Final = NONCE_SIZE + TAG_SIZE + CHUNK_SIZE

_LENGTH: Final = struct.Struct("<H")
_VERSION: Final = struct.Struct("<I")
_OVERHEAD: Final = NONCE_SIZE + TAG_SIZE


class FileHeader(msgspec.Struct, frozen=True):
    """What stands in front of the chunks: the qualified name of the slot, the key version, the file's own id."""

    slot: str
    version: int
    file_id: bytes

    def encode(self) -> bytes:
        """The bytes of the header."""
        name = self.slot.encode()
        return MAGIC + _LENGTH.pack(len(name)) + name + _VERSION.pack(self.version) + self.file_id


def new_file_id() -> bytes:
    """A random file id."""
    return secrets.token_bytes(FILE_ID_SIZE)


def split_plaintext(plaintext: bytes) -> list[bytes]:
    """The plaintext of each chunk; at least one."""
    return [plaintext[start : start + CHUNK_SIZE] for start in range(0, len(plaintext), CHUNK_SIZE)] or [b""]


def chunk_aads(file_id: bytes, count: int, aad: bytes = b"") -> list[bytes]:
    """The associated data of each of `count` chunks; `aad` is the user's own."""
    return [chunk_aad(file_id, number, last=number == count - 1, aad=aad) for number in range(count)]


def chunk_aad(file_id: bytes, number: int, *, last: bool, aad: bytes = b"") -> bytes:
    """The associated data of one chunk; the first has number 0."""
    return b"chunk:%d\0%b%c%b" % (number, file_id, last, aad)


def join_file(header: FileHeader, chunks: Sequence[Ciphertext]) -> bytes:
    """The whole file."""
    return b"".join([header.encode(), *map(encode_chunk, chunks)])


def encode_chunk(chunk: Ciphertext) -> bytes:
    """The bytes of one chunk. Raises RequestError (INVALID_ARGUMENT) where the algorithm does not fit the format."""
    if len(chunk.nonce) != NONCE_SIZE or len(chunk.tag) != TAG_SIZE:
        raise RequestError(
            Status.INVALID_ARGUMENT,
            f"A file takes an algorithm with a nonce of {NONCE_SIZE} bytes and a tag of {TAG_SIZE}; use AES-GCM.",
        )
    return chunk.nonce + chunk.tag + chunk.ciphertext


def is_encrypted_file(data: bytes) -> bool:
    """Whether `data` begins as such a file does."""
    return data.startswith(MAGIC)


def split_file(data: bytes) -> tuple[FileHeader, list[Ciphertext]]:
    """Header and chunks of a file; what they say is not authenticated yet.

    Raises:
        RequestError: INVALID_ARGUMENT where it is no such file, or its header is cut.
        DecryptionFailed: its last chunk is cut.
    """
    header, length = read_header(data)
    return header, _chunks(memoryview(data)[length:], header.version)


def read_header(data: bytes) -> tuple[FileHeader, int]:
    """The header that `data` begins with, and its length in bytes. Raises RequestError (INVALID_ARGUMENT)."""
    if not is_encrypted_file(data):
        raise _no_file("it does not begin with HSMBFIL1")
    position = len(MAGIC)
    try:
        (length,) = _LENGTH.unpack_from(data, position)
        position += _LENGTH.size
        name = data[position : position + length]
        position += length
        (version,) = _VERSION.unpack_from(data, position)
    except struct.error:
        raise _no_file("its header is cut off") from None
    position += _VERSION.size
    file_id = data[position : position + FILE_ID_SIZE]
    position += FILE_ID_SIZE
    if position > len(data):
        raise _no_file("its header is cut off")
    if not 0 < length <= SLOT_NAME_MAX or version == 0:
        raise _no_file("its header makes no sense")
    try:
        header = FileHeader(name.decode(), version, file_id)
    except UnicodeDecodeError:
        raise _no_file("its header makes no sense") from None
    return header, position


def _chunks(body: memoryview, version: int) -> list[Ciphertext]:
    whole = _OVERHEAD + CHUNK_SIZE
    # The last chunk is never empty but in an empty file, so a body of whole chunks ends with a whole one.
    starts = range(0, len(body), whole) if body else range(1)
    return [decode_chunk(bytes(body[start : start + whole]), version) for start in starts]


def decode_chunk(chunk: bytes, version: int) -> Ciphertext:
    """The parts of one chunk. Raises DecryptionFailed where it is cut."""
    if len(chunk) < _OVERHEAD:
        raise DecryptionFailed(Status.DECRYPTION_FAILED, "The file is cut off.")
    return Ciphertext(version, chunk[:NONCE_SIZE], chunk[_OVERHEAD:], chunk[NONCE_SIZE:_OVERHEAD])


def _no_file(why: str) -> RequestError:
    return RequestError(Status.INVALID_ARGUMENT, f"This is no file that hsmbridge encrypted: {why}.")
