"""Uses of keys over shared memory: the ordinary operations, with data taken from there and results put there.

Read in place: data to be digested, plaintexts that an AEAD encrypts and, on the short way, ciphertexts of an AEAD with
their tag behind them. A client that changes them meanwhile gets the digest, ciphertext or plaintext of something in
between. Everything else is copied first. A plaintext is put into the target when its tag was verified and not before.
"""

from itertools import repeat
from typing import cast

from hsmbridge.core import messages as m
from hsmbridge.core.algorithms import Kind, algorithm
from hsmbridge.core.errors import RequestError, Status
from hsmbridge.engine.steps import Steps
from hsmbridge.service.key_use import Keys, KeyUse
from hsmbridge.service.session import Session
from hsmbridge.service.shared_memory import SharedMemory


class SharedUse:
    """One method an operation."""

    def __init__(self, use: KeyUse) -> None:
        """Args: what does the operations themselves."""
        self._use = use

    def digest(self, session: Session, request: m.SharedDigestRequest) -> Steps[m.DigestReply]:
        data = _in_place(_memory(session), request.source)
        return (yield from self._use.digest(m.DigestRequest(request.algorithm, data, request.provider)))

    def mac(self, session: Session, request: m.SharedMacRequest, keys: Keys) -> Steps[m.MacReply]:
        message = _memory(session).copy(request.source)
        return (yield from self._use.mac(m.MacRequest(request.key, request.algorithm, message), keys))

    def encrypt(self, session: Session, request: m.SharedEncryptRequest, keys: Keys) -> Steps[m.SharedEncryptReply]:
        memory = _memory(session)
        # Before anything is encrypted: a nonce is spent by then.
        _check_target(memory, request.target, request.source.length)
        in_place = algorithm(request.algorithm).kind is Kind.AEAD
        plaintext = _in_place(memory, request.source) if in_place else memory.copy(request.source)
        reply = yield from self._use.encrypt(
            m.EncryptRequest(request.key, request.algorithm, plaintext, request.aad, request.nonce), keys
        )
        memory.put(request.target, reply.ciphertext)
        return m.SharedEncryptReply(reply.version, reply.nonce, reply.tag, len(reply.ciphertext))

    def encrypt_many(
        self, session: Session, request: m.SharedEncryptManyRequest, keys: Keys
    ) -> Steps[m.SharedEncryptManyReply]:
        row = algorithm(request.algorithm)
        if row.kind is not Kind.AEAD:
            raise RequestError(Status.INVALID_ARGUMENT, f"{row.name} is not authenticated; encrypt one by one with it.")
        messages = messages_in(_memory(session), request, row.tag_size)
        sealed: list[m.EncryptReply] = []
        for message, aad in zip(messages, request.aads or repeat(b"", len(messages)), strict=True):
            plaintext = bytes(message[: len(message) - row.tag_size])
            one = m.EncryptRequest(request.key, request.algorithm, plaintext, aad)
            sealed.append((yield from self._use.encrypt(one, keys)))
        # Only now, so that where one fails all messages are as they were.
        for message, made in zip(messages, sealed, strict=True):
            message[:] = made.ciphertext + made.tag
        return m.SharedEncryptManyReply(keys[0].version, [made.nonce for made in sealed])

    def decrypt(self, session: Session, request: m.SharedDecryptRequest, keys: Keys) -> Steps[m.SharedDecryptReply]:
        memory, row = _memory(session), algorithm(request.algorithm)
        source, tag = memory.view(request.source), request.tag
        end = len(source) if tag else max(len(source) - row.tag_size, 0)
        ciphertext, tag = bytes(source[:end]), tag or bytes(source[end:])
        # A padded plaintext is shorter, nobody knows yet by how much.
        _check_target(memory, request.target, len(ciphertext) if row.kind is Kind.AEAD else 0)
        reply = yield from self._use.decrypt(
            m.DecryptRequest(
                request.key, request.algorithm, ciphertext, request.aad, request.nonce, tag, request.version
            ),
            keys,
        )
        memory.put(request.target, reply.plaintext)
        return m.SharedDecryptReply(reply.version, len(reply.plaintext))


def messages_in(memory: SharedMemory, request: m.SharedEncryptManyRequest, tag_size: int) -> list[memoryview]:
    """Each message with the room for its tag. Raises RequestError (INVALID_ARGUMENT) where one is not all inside."""
    whole = memory.view(request.memory)
    offsets, lengths, aads = request.offsets, request.lengths, request.aads
    if len(offsets) != len(lengths) or len(aads) not in (0, len(lengths)):
        raise RequestError(
            Status.INVALID_ARGUMENT, "Every message has an offset and a length, and all have aad or none."
        )
    found = [whole[start : start + length + tag_size] for start, length in zip(offsets, lengths, strict=True)]
    # A slice that reaches past the end is shorter, and a negative number is not taken from the end.
    inside = all(len(one) == length + tag_size for one, length in zip(found, lengths, strict=True))
    if not inside or min(offsets, default=0) < 0 or min(lengths, default=0) < 0:
        raise RequestError(Status.INVALID_ARGUMENT, "A message with its tag is not inside the range that was named.")
    return found


def _memory(session: Session) -> SharedMemory:
    if session.memory is None:
        raise RequestError(Status.INVALID_ARGUMENT, "This connection has no shared memory; ask for some first.")
    return session.memory


def _in_place(memory: SharedMemory, where: m.SharedRange) -> bytes:
    # Providers and the codec take any buffer; that this one is no bytes is nobody's business but theirs.
    return cast(bytes, memory.view(where))


def _check_target(memory: SharedMemory, target: m.SharedRange, length: int) -> None:
    if len(memory.view(target)) < length:
        raise RequestError(Status.INVALID_ARGUMENT, "The target range is too short for the result.")
