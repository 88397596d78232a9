"""`encrypt` and `decrypt`.

With an AEAD a file gets the header and chunks of `hsmbridge.client.file_format`. Everything else, and an AEAD with
--raw, is bare bytes: nonce, ciphertext, tag, one after the other, as far as the algorithm has them; for public-key
encryption just what `openssl pkeyutl` reads and writes.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import click

from hsmbridge.cli.defaults import default_algorithm
from hsmbridge.cli.files import STANDARD, encode_base64, read_small, write_output
from hsmbridge.cli.long_data import LongInput, opened_input, pending_output
from hsmbridge.cli.long_files import (
    check_version,
    decrypt_bare,
    decrypt_chunks,
    encrypt_bare,
    encrypt_chunks,
    header_of,
)
from hsmbridge.cli.options import (
    Client,
    algorithm_option,
    client_options,
    in_option,
    out_option,
    slot_option,
    version_option,
)
from hsmbridge.cli.output import Json, print_json
from hsmbridge.client import Ciphertext, CryptoStack, SlotInfo
from hsmbridge.client import file_format as ff
from hsmbridge.core.algorithms import Algorithm, Kind, algorithm
from hsmbridge.core.errors import DecryptionFailed, KeyUseError, RequestError, Status

_KINDS = (Kind.AEAD, Kind.CIPHER, Kind.PUBLIC_KEY_ENCRYPTION)
_ATTEMPTS = 3

_aad_option = click.option("--aad-file", metavar="FILE", help="Associated data: authenticated, not encrypted.")
_raw_option = click.option("--raw", is_flag=True, help="Nonce, ciphertext and tag, without a header.")


@click.command()
@slot_option
@algorithm_option
@in_option
@out_option
@_aad_option
@_raw_option
@client_options
def encrypt(
    client: Client, slot: str, algorithm: str | None, input_: str, output: str, aad_file: str | None, raw: bool
) -> None:
    """Encrypt a file."""
    with client.stack() as stack:
        info, row = _chosen(stack, slot, algorithm)
        with opened_input(input_, stack.max_frame) as plaintext:
            aad = _aad(row, aad_file)
            document: dict[str, Json] = {"slot": info.name, "algorithm": row.name}
            if isinstance(plaintext, LongInput):
                with pending_output(output, as_json=client.as_json) as sink:
                    if _is_bare(row, raw):
                        version = encrypt_bare(stack, slot, row, plaintext, sink, aad)
                    else:
                        version = encrypt_chunks(stack, info.name, row, plaintext, sink, aad)
                _say(client, {**document, "version": version}, output)
                return
            if _is_bare(row, raw):
                sealed = stack.encrypt(slot, row.name, plaintext, aad=aad)
                version, data = sealed.version, sealed.nonce + sealed.ciphertext + sealed.tag
            else:
                version, data = _encrypt_file(stack, info.name, row, plaintext, aad)
    _give(client, {**document, "version": version}, "ciphertext", data, output)


@click.command()
@click.option("--slot", metavar="NAME", help="NAME, or NAMESPACE/NAME of others [default: the one in the file].")
@algorithm_option
@in_option
@out_option
@_aad_option
@_raw_option
@version_option
@client_options
def decrypt(
    client: Client,
    slot: str | None,
    algorithm: str | None,
    input_: str,
    output: str,
    aad_file: str | None,
    raw: bool,
    version: int,
) -> None:
    """Decrypt a file. Nothing is written before all of it is authenticated."""
    with client.stack() as stack, opened_input(input_, stack.max_frame) as data:
        if isinstance(data, LongInput):
            _decrypt_long(client, stack, slot, algorithm, data, output, aad_file, raw, version)
            return
        if slot is None:
            slot = _slot_of(data)
        info, row = _chosen(stack, slot, algorithm)
        aad = _aad(row, aad_file)
        if _is_bare(row, raw):
            plaintext = stack.decrypt(slot, row.name, _bare(row, data, version), aad=aad)
        else:
            plaintext = _decrypt_file(stack, slot, row, data, aad, version)
    _give(client, {"slot": info.name, "algorithm": row.name}, "plaintext", plaintext, output)


def _decrypt_long(
    client: Client,
    stack: CryptoStack,
    slot: str | None,
    algorithm: str | None,
    source: LongInput,
    output: str,
    aad_file: str | None,
    raw: bool,
    version: int,
) -> None:
    if slot is None:
        begin = source.read_exactly(ff.HEADER_MAX)
        source.put_back(begin)
        slot = _slot_of(begin)
    info, row = _chosen(stack, slot, algorithm)
    aad = _aad(row, aad_file)
    with pending_output(output, as_json=client.as_json, secret=True) as sink:
        if _is_bare(row, raw):
            decrypt_bare(stack, slot, row, source, sink, aad, version)
        else:
            header = header_of(source)
            check_version(header, version)
            with _told_of(header, slot):
                decrypt_chunks(stack, slot, row, header, source, sink, aad)
    _say(client, {"slot": info.name, "algorithm": row.name}, output)


def _encrypt_file(stack: CryptoStack, name: str, row: Algorithm, plaintext: bytes, aad: bytes) -> tuple[int, bytes]:
    pieces = ff.split_plaintext(plaintext)
    for _ in range(_ATTEMPTS):
        file_id = ff.new_file_id()
        chunks = stack.encrypt_many(name, row.name, pieces, aads=ff.chunk_aads(file_id, len(pieces), aad))
        version = chunks[0].version
        if all(chunk.version == version for chunk in chunks):
            return version, ff.join_file(ff.FileHeader(name, version, file_id), chunks)
    raise KeyUseError(Status.KEY_STATE_FORBIDS, "The slot is being rotated all the time; try again later.")


def _decrypt_file(stack: CryptoStack, slot: str, row: Algorithm, data: bytes, aad: bytes, version: int) -> bytes:
    header, chunks = ff.split_file(data)
    check_version(header, version)
    with _told_of(header, slot):
        pieces = stack.decrypt_many(slot, row.name, chunks, aads=ff.chunk_aads(header.file_id, len(chunks), aad))
    return b"".join(pieces)


@contextmanager
def _told_of(header: ff.FileHeader, slot: str) -> Iterator[None]:
    """Where decryption fails, say that the file names another slot, if it does."""
    try:
        yield
    except DecryptionFailed as problem:
        if header.slot.rpartition("/")[2] != slot.rpartition("/")[2]:
            raise DecryptionFailed(
                problem.status, f"{problem.message} The file says that slot {header.slot} encrypted it."
            ) from None
        raise


def _chosen(stack: CryptoStack, slot: str, name: str | None) -> tuple[SlotInfo, Algorithm]:
    info = stack.show_slot(slot)
    if name is None:
        return info, default_algorithm(info, _KINDS)
    row = algorithm(name)
    if row.kind not in _KINDS:
        raise RequestError(Status.INVALID_ARGUMENT, f"{row.name} is for {row.kind.value}, not encryption.")
    return info, row


def _is_bare(row: Algorithm, raw: bool) -> bool:
    return raw or row.kind is not Kind.AEAD


def _bare(row: Algorithm, data: bytes, version: int) -> Ciphertext:
    if len(data) < row.nonce_size + row.tag_size:
        raise DecryptionFailed(Status.DECRYPTION_FAILED)
    end = len(data) - row.tag_size
    return Ciphertext(version, data[: row.nonce_size], data[row.nonce_size : end], data[end:])


def _slot_of(data: bytes) -> str:
    if not ff.is_encrypted_file(data):
        raise RequestError(Status.INVALID_ARGUMENT, "The file does not say which slot encrypted it; give --slot.")
    return ff.read_header(data)[0].slot


def _aad(row: Algorithm, file: str | None) -> bytes:
    if file is None:
        return b""
    if not row.takes_aad:
        raise RequestError(Status.INVALID_ARGUMENT, f"{row.name} takes no associated data; use an AEAD.")
    return read_small(file)


def _say(client: Client, document: dict[str, Json], output: str) -> None:
    """What is said of output that was written already."""
    if client.as_json:
        print_json({**document, "out": output})


def _give(client: Client, document: dict[str, Json], what: str, data: bytes, output: str) -> None:
    if output != STANDARD or not client.as_json:
        write_output(output, data, secret=what == "plaintext")
    if client.as_json:
        where = {"out": output} if output != STANDARD else {what: encode_base64(data)}
        print_json({**document, **where})
