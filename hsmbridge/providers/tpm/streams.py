"""Operations on data that comes in pieces, by a TPM.

HMAC and digest are sequence objects, which would occupy one of a TPM's three object slots from their first piece to
their last. So between two pieces a sequence is not in the TPM: its context is saved and loaded again (part 1 section
30), and the last kilobyte waits here, for the command that completes it. AES-CFB goes on from the initialisation
vector that each command answers. Signatures are made of a digest that is computed here, as for whole messages.
"""

from collections.abc import Callable
from contextlib import suppress
from hmac import compare_digest
from typing import Final

import msgspec
from tpm2_pytss import ESYS_TR, TPMS_CONTEXT, TSS2_Exception

from hsmbridge.core.algorithms import Algorithm, KeyOperation, Scheme
from hsmbridge.core.calls import StreamEnd
from hsmbridge.core.errors import RequestError, SignatureInvalid, Status
from hsmbridge.core.params import SignatureParameters
from hsmbridge.providers.streams import HashedFirst, ProviderStream
from hsmbridge.providers.tpm import encryption, signatures
from hsmbridge.providers.tpm.device import Opened, Tpm
from hsmbridge.providers.tpm.key_use import KeyUse
from hsmbridge.providers.tpm.schemes import check_mac_parameters, hash_id

_AT_ONCE: Final = 16 * 1024
"""Bytes after which other keys have their turn."""

_BLOCK: Final = 16
_NO_PASSWORD: Final = b""
_HASHED_FIRST: Final = frozenset({Scheme.RSASSA_PKCS1, Scheme.RSASSA_PSS, Scheme.ECDSA})


def digest(tpm: Tpm, row: Algorithm) -> ProviderStream:
    """A digest."""
    hash_ = hash_id(row)

    def start(opened: Opened) -> ESYS_TR:
        return opened.esapi.hash_sequence_start(_NO_PASSWORD, hash_, session1=opened.secrecy.covering)

    return _Sequence(tpm, start, lambda result, _: StreamEnd(result))


def mac(use: KeyUse, operation: KeyOperation, parameters: SignatureParameters) -> ProviderStream:
    """An HMAC, computed or verified. Raises RequestError (INVALID_ARGUMENT)."""
    check_mac_parameters(use.row, parameters)
    hash_ = hash_id(use.row)

    def start(opened: Opened) -> ESYS_TR:
        key = use.object(opened)
        return opened.esapi.hmac_start(key, _NO_PASSWORD, hash_, session1=opened.secrecy.authorising)

    def end(result: bytes, proof: bytes) -> StreamEnd:
        if operation is KeyOperation.SIGN:
            return StreamEnd(result)
        if not compare_digest(result, proof):
            raise SignatureInvalid(Status.SIGNATURE_INVALID)
        return StreamEnd(b"")

    return _Sequence(use.tpm, start, end)


def signature(use: KeyUse, operation: KeyOperation, parameters: SignatureParameters) -> ProviderStream:
    """A signature, made or verified. Raises RequestError (NOT_SUPPORTED) where it is not of a digest."""
    if use.row.scheme not in _HASHED_FIRST or parameters.digest_signing or parameters.external_mu:
        raise _at_once(use.row)
    of_digest = msgspec.structs.replace(parameters, digest_signing=True)

    def finish(digest: bytes, proof: bytes) -> StreamEnd:
        if operation is KeyOperation.SIGN:
            return StreamEnd(signatures.sign(use, digest, of_digest))
        signatures.verify(use, digest, proof, of_digest)
        return StreamEnd(b"")

    return HashedFirst(use.row.hash, finish)


def cipher(use: KeyUse, operation: KeyOperation, nonce: bytes, aad: bytes) -> ProviderStream:
    """AES-CFB. Raises RequestError (NOT_SUPPORTED) for anything else."""
    if use.row.scheme is not Scheme.CFB:
        raise _at_once(use.row)
    encryption.check(use.row, nonce, aad)
    return _Cfb(use, nonce, decrypt=operation is KeyOperation.DECRYPT)


class _Cfb(ProviderStream):
    def __init__(self, use: KeyUse, iv: bytes, *, decrypt: bool) -> None:
        self._use = use
        self._iv = iv
        self._decrypt = decrypt
        self._rest = b""

    def update(self, data: bytes) -> bytes:
        data = self._rest + data
        whole = len(data) // _BLOCK * _BLOCK
        self._rest = data[whole:]
        if not whole:
            return b""
        output, self._iv = encryption.cfb(self._use, self._iv, data[:whole], decrypt=self._decrypt)
        return output

    def finish(self, proof: bytes) -> StreamEnd:
        if not self._rest:
            return StreamEnd(b"")
        output, _ = encryption.cfb(self._use, self._iv, self._rest, decrypt=self._decrypt)
        return StreamEnd(output)


class _Sequence(ProviderStream):
    """A sequence object that is in the TPM only while it is given data."""

    def __init__(self, tpm: Tpm, start: Callable[[Opened], ESYS_TR], end: Callable[[bytes, bytes], StreamEnd]) -> None:
        self._tpm = tpm
        self._start = start
        self._end = end
        self._saved: TPMS_CONTEXT | None = None
        self._rest = b""

    def update(self, data: bytes) -> bytes:
        data = self._rest + data
        # One byte at least is left for the command that completes the sequence.
        position = 0
        while len(data) - position > _AT_ONCE:
            self._feed(data[position : position + _AT_ONCE])
            position += _AT_ONCE
        self._rest = data[position:]
        return b""

    def finish(self, proof: bytes) -> StreamEnd:
        before, rest = self._saved, self._rest

        def command(opened: Opened) -> bytes:
            sequence = self._taken_up(opened, before)
            buffer = opened.limits.input_buffer
            last = max(0, (len(rest) - 1) // buffer * buffer)
            try:
                self._give(opened, sequence, rest[:last])
                session = opened.secrecy.authorising
                result, _ = opened.esapi.sequence_complete(sequence, rest[last:], ESYS_TR.RH_NULL, session1=session)
            except TSS2_Exception:
                _flush(opened, sequence)
                raise
            return bytes(result)

        return self._end(self._tpm.run(command), proof)

    def _feed(self, data: bytes) -> None:
        before = self._saved

        def command(opened: Opened) -> TPMS_CONTEXT:
            sequence = self._taken_up(opened, before)
            try:
                self._give(opened, sequence, data)
                return opened.esapi.context_save(sequence)
            finally:
                _flush(opened, sequence)

        # A command may be run again from its beginning, so what it starts from stays until it has ended.
        self._saved = self._tpm.run(command)

    def _taken_up(self, opened: Opened, before: TPMS_CONTEXT | None) -> ESYS_TR:
        if before is None:
            return self._start(opened)
        opened.keys.make_room()
        return opened.esapi.context_load(before)

    @staticmethod
    def _give(opened: Opened, sequence: ESYS_TR, data: bytes) -> None:
        buffer = opened.limits.input_buffer
        for start in range(0, len(data), buffer):
            piece = data[start : start + buffer]
            opened.esapi.sequence_update(sequence, piece, session1=opened.secrecy.authorising)


def _flush(opened: Opened, sequence: ESYS_TR) -> None:
    with suppress(TSS2_Exception):
        opened.esapi.flush_context(sequence)


def _at_once(row: Algorithm) -> RequestError:
    return RequestError(Status.NOT_SUPPORTED, f"{row.name} takes its data at once on a TPM.")
