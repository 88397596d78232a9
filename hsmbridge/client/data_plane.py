"""Bulk data through memory that client and daemon share, where that is quicker than the socket.

Nobody has to ask for it: a call with much data takes this way by itself, and the ordinary one where there is no shared
memory (an old daemon, no room). The memory belongs to the connection and dies with it. A part whose call ended
without an answer is never used again, because the daemon may still write there.
"""

import fcntl
import mmap
import os
from collections import deque
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import TypeVar

import msgspec

from hsmbridge.client.calls import Buffer, Caller, exchange, octets
from hsmbridge.client.connection import Connection, SafeToRepeat
from hsmbridge.client.deadline import UNSET, Timeout, check_timeout
from hsmbridge.client.keys import Key
from hsmbridge.client.memory import Allocation, MemoryAllocator
from hsmbridge.client.results import Ciphertext, Mac
from hsmbridge.core import messages as m
from hsmbridge.core.algorithms import ALGORITHMS, Algorithm
from hsmbridge.core.errors import ConnectionLost, HsmBridgeError, LimitError, RequestError, Status, WireError
from hsmbridge.core.identifiers import CryptoResourceId, ResourceKind
from hsmbridge.wire.codec import decode_reply, encode_request

SHARED_FROM = 64 * 1024
"""Bytes of data from which a call goes through shared memory; below, the socket is as quick."""

TOGETHER = 1024 * 1024
"""Bytes of many messages in one request: what the processor's caches hold."""

SHARED_SIZE = 16 * 1024 * 1024
"""Bytes that a connection asks for, or as many as a frame may have."""

_ROOM = 64
"""Bytes by which a ciphertext may be longer than its plaintext: padding, or a tag behind it."""

_ATTEMPTS = 2
"""A thread that was reading already when the descriptor was asked for loses it; it is not lost a second time."""

_NO_KEY = CryptoResourceId(0, ResourceKind.KEY)
_Reply = TypeVar("_Reply", bound=msgspec.Struct)
_Result = TypeVar("_Result")


class SharedBuffers:
    """The shared memory of one connection."""

    def __init__(self, buffer: int, allocator: MemoryAllocator) -> None:
        self._buffer = buffer
        self.allocator = allocator

    def range(self, part: Allocation, length: int) -> m.SharedRange:
        """The first bytes of a part, as requests name them. Raises RequestError (INVALID_ARGUMENT) past its end."""
        if not 0 <= length <= part.length:
            raise RequestError(Status.INVALID_ARGUMENT, f"The part has {part.length:,} bytes, not {length:,}.")
        return m.SharedRange(self._buffer, part.offset, length)

    def append_tag(self, part: Allocation, length: int, tag: bytes) -> m.SharedRange | None:
        """Write a tag into a part's spare bytes, behind a ciphertext that fills the part: the range of both.

        None, with nothing written, where the ciphertext does not fill it or the tag has no room.
        """
        if length != part.length or len(tag) > len(part.spare):
            return None
        part.spare[: len(tag)] = tag
        return m.SharedRange(self._buffer, part.offset, length + len(tag))

    def whole(self, part: Allocation) -> m.SharedRange:
        """All of a part, with what it has to spare."""
        return m.SharedRange(self._buffer, part.offset, part.length + len(part.spare))


class DataPlane(Caller):
    """The large forms of calls. Each answers None where the call has to go the ordinary way; nothing was done then."""

    def allocate(self, length: int, *, timeout: Timeout = UNSET) -> Allocation:
        """Memory that the daemon sees too, for the calls `…_in_place`: data in it is not copied on its way.

        It lives until it is released, or the connection ends. What it held before is still there.

        Raises LimitError (TOO_MANY_RESOURCES) where there is no such memory left, RequestError (NOT_SUPPORTED) where
        the daemon shares none.
        """
        seconds = self._timeout if timeout is UNSET else check_timeout(timeout)
        buffers = _buffers_of(self._connection(seconds), seconds)
        if buffers is None:
            raise RequestError(Status.NOT_SUPPORTED, "The daemon shares no memory with this connection.")
        try:
            return buffers.allocator.allocate(length, _ROOM)
        except LimitError:  # the room behind is not needed, it only saves a copy of the tag
            return buffers.allocator.allocate(length)

    def digest_in_place(
        self, algorithm: str, part: Allocation, length: int, *, provider: str = "", timeout: Timeout = UNSET
    ) -> bytes:
        """The digest of the first `length` bytes of a part."""

        def make(_: CryptoResourceId, where: SharedBuffers) -> m.SharedDigestRequest:
            return m.SharedDigestRequest(algorithm, where.range(part, length), provider)

        return self._in_place(m.DigestReply, make, None, part, timeout).digest

    def mac_in_place(self, key: Key, algorithm: str, part: Allocation, length: int, *, timeout: Timeout = UNSET) -> Mac:
        """The MAC of the first `length` bytes of a part."""

        def make(resource: CryptoResourceId, where: SharedBuffers) -> m.SharedMacRequest:
            return m.SharedMacRequest(resource, algorithm, where.range(part, length))

        reply = self._in_place(m.MacReply, make, key, part, timeout)
        return Mac(reply.mac, reply.version)

    def encrypt_in_place(
        self,
        key: Key,
        algorithm: str,
        part: Allocation,
        length: int,
        *,
        aad: Buffer = b"",
        nonce: Buffer = b"",
        timeout: Timeout = UNSET,
    ) -> m.SharedEncryptReply:
        """Encrypt the first `length` bytes of a part; the ciphertext takes their place, and its `length` is told.

        Do not change them until this returns. Raises as `encrypt`.
        """
        associated, given = octets(aad), octets(nonce)

        def make(resource: CryptoResourceId, where: SharedBuffers) -> m.SharedEncryptRequest:
            source, target = where.range(part, length), where.whole(part)
            return m.SharedEncryptRequest(resource, algorithm, source, target, associated, given)

        return self._in_place(m.SharedEncryptReply, make, key, part, timeout)

    def encrypt_many_in_place(
        self,
        key: Key,
        algorithm: str,
        part: Allocation,
        messages: Sequence[tuple[int, int]],
        *,
        aads: Sequence[Buffer] = (),
        timeout: Timeout = UNSET,
    ) -> m.SharedEncryptManyReply:
        """Encrypt many messages of a part with an AEAD in one round trip: a ciphertext takes the place of each.

        Args:
            messages: offset in the part and length of each. Its tag is put behind it, where room must be.
            aads: one a message, or none at all.

        Where it fails, some messages may be encrypted and others not. Raises as `encrypt`.
        """
        offsets, lengths = tuple([at for at, _ in messages]), tuple([length for _, length in messages])
        associated = tuple(map(octets, aads))

        def make(resource: CryptoResourceId, where: SharedBuffers) -> m.SharedEncryptManyRequest:
            memory = where.whole(part)
            return m.SharedEncryptManyRequest(resource, algorithm, memory, offsets, lengths, associated)

        return self._in_place(m.SharedEncryptManyReply, make, key, part, timeout)

    def decrypt_in_place(
        self,
        key: Key,
        algorithm: str,
        part: Allocation,
        length: int,
        *,
        nonce: Buffer = b"",
        tag: Buffer = b"",
        aad: Buffer = b"",
        version: int = 0,
        timeout: Timeout = UNSET,
    ) -> m.SharedDecryptReply:
        """Decrypt the first `length` bytes of a part, which must not change until this returns.

        The plaintext takes their place once its tag was verified, and its `length` is told.

        Args:
            tag: of an AEAD; empty where it is the end of those `length` bytes, and for algorithms that have none. A
                named one may be written behind the part, into `spare`.

        Raises DecryptionFailed whatever is wrong with the data; `view` is as it was then. Else as `decrypt`.
        """
        associated, given, apart = octets(aad), octets(nonce), octets(tag)

        def make(resource: CryptoResourceId, where: SharedBuffers) -> m.SharedDecryptRequest:
            source, target, sent = where.range(part, length), where.range(part, part.length), apart
            if apart and _fits(algorithm, apart):
                both = where.append_tag(part, length, apart)
                if both is not None:
                    source, sent = both, b""
            return m.SharedDecryptRequest(resource, algorithm, source, target, associated, given, sent, version)

        return self._in_place(m.SharedDecryptReply, make, key, part, timeout)

    def _in_place(
        self,
        kind: type[_Reply],
        make: Callable[[CryptoResourceId, SharedBuffers], msgspec.Struct],
        key: Key | None,
        part: Allocation,
        timeout: Timeout,
    ) -> _Reply:
        def attempt(connection: Connection, left: float | None) -> _Reply:
            buffers = _buffers_of(connection, left)
            if buffers is None or part.allocator is not buffers.allocator:
                raise ConnectionLost(
                    Status.CONNECTION_LOST,
                    "This memory was given back, or the connection that it belonged to is lost; allocate it again.",
                )
            resource = _NO_KEY if key is None else self._resource(connection, key, left)
            request = make(resource, buffers)
            ended = False
            try:
                reply = decode_reply(connection.exchange(encode_request, request, left))
                ended = True
            except HsmBridgeError as problem:
                ended = _has_ended(problem)
                raise
            finally:
                if not ended:  # the daemon may still write there; nobody else is to get it
                    part.abandon()
            if not isinstance(reply, kind):
                raise WireError(Status.MALFORMED_FRAME, f"The daemon answered with {type(reply).__name__}.")
            return reply

        return self._attempt(attempt, () if key is None else (key,), timeout)

    def _large_digest(self, algorithm: str, data: bytes, provider: str, timeout: Timeout) -> m.DigestReply | None:
        def make(_: CryptoResourceId, buffers: SharedBuffers, part: Allocation) -> m.SharedDigestRequest:
            return m.SharedDigestRequest(algorithm, buffers.range(part, len(data)), provider)

        return self._large(m.DigestReply, make, len(data), _copying(data), None, timeout, lambda reply, _: reply)

    def _large_mac(self, key: Key, algorithm: str, data: bytes, timeout: Timeout) -> m.MacReply | None:
        def make(resource: CryptoResourceId, buffers: SharedBuffers, part: Allocation) -> m.SharedMacRequest:
            return m.SharedMacRequest(resource, algorithm, buffers.range(part, len(data)))

        return self._large(m.MacReply, make, len(data), _copying(data), key, timeout, lambda reply, _: reply)

    def _large_encrypt(
        self, key: Key, algorithm: str, data: bytes, aad: bytes, nonce: bytes, timeout: Timeout
    ) -> Ciphertext | None:
        def make(resource: CryptoResourceId, buffers: SharedBuffers, part: Allocation) -> m.SharedEncryptRequest:
            source, target = buffers.range(part, len(data)), buffers.range(part, part.length)
            return m.SharedEncryptRequest(resource, algorithm, source, target, aad, nonce)

        def take(reply: m.SharedEncryptReply, part: Allocation) -> Ciphertext:
            return Ciphertext(reply.version, reply.nonce, bytes(part.view[: reply.length]), reply.tag)

        return self._large(m.SharedEncryptReply, make, len(data), _copying(data), key, timeout, take)

    def _large_encrypt_many(
        self, key: Key, row: Algorithm, plaintexts: Sequence[Buffer], aads: Sequence[Buffer], timeout: Timeout
    ) -> list[Ciphertext] | None:
        tag_size = row.tag_size
        lengths = tuple(map(len, plaintexts))
        ends = tuple(accumulate([length + tag_size for length in lengths]))
        offsets = (0, *ends[:-1])
        associated = tuple(map(octets, aads))

        def fill(memory: memoryview) -> None:
            for start, length, plaintext in zip(offsets, lengths, plaintexts, strict=True):
                memory[start : start + length] = plaintext

        def make(resource: CryptoResourceId, buffers: SharedBuffers, part: Allocation) -> m.SharedEncryptManyRequest:
            memory = buffers.range(part, ends[-1])
            return m.SharedEncryptManyRequest(resource, row.name, memory, offsets, lengths, associated)

        def take(reply: m.SharedEncryptManyReply, part: Allocation) -> list[Ciphertext]:
            memory, version = part.view, reply.version
            return [
                Ciphertext(version, nonce, bytes(memory[start : end - tag_size]), bytes(memory[end - tag_size : end]))
                for nonce, start, end in zip(reply.nonces, offsets, ends, strict=True)
            ]

        return self._large(m.SharedEncryptManyReply, make, ends[-1], fill, key, timeout, take)

    def _large_decrypt(self, key: Key, algorithm: str, given: Ciphertext, aad: bytes, timeout: Timeout) -> bytes | None:
        ciphertext, tag = given.ciphertext, given.tag
        if not _fits(algorithm, tag):
            return None
        length = len(ciphertext) + len(tag)

        def make(resource: CryptoResourceId, buffers: SharedBuffers, part: Allocation) -> m.SharedDecryptRequest:
            source, target = buffers.range(part, length), buffers.range(part, part.length)
            return m.SharedDecryptRequest(resource, algorithm, source, target, aad, given.nonce, b"", given.version)

        def take(reply: m.SharedDecryptReply, part: Allocation) -> bytes:
            return bytes(part.view[: reply.length])

        return self._large(m.SharedDecryptReply, make, length, _copying(ciphertext, tag), key, timeout, take)

    def _large(
        self,
        kind: type[_Reply],
        make: Callable[[CryptoResourceId, SharedBuffers, Allocation], msgspec.Struct],
        length: int,
        fill: Callable[[memoryview], None],
        key: Key | None,
        timeout: Timeout,
        take: Callable[[_Reply, Allocation], _Result],
    ) -> _Result | None:
        seconds = self._timeout if timeout is UNSET else check_timeout(timeout)
        connection = self._connection(seconds)
        buffers = _buffers_of(connection, seconds)
        if buffers is None:
            return None
        try:
            resource = _NO_KEY if key is None else self._resource(connection, key, seconds)
            part = buffers.allocator.allocate(length + _ROOM)
        except (ConnectionLost, LimitError):
            return None
        ended = False
        try:
            fill(part.view)
            request = make(resource, buffers, part)
            reply = decode_reply(exchange(connection, encode_request, request, request, seconds))
            ended = True
            if not isinstance(reply, kind):
                raise WireError(Status.MALFORMED_FRAME, f"The daemon answered with {type(reply).__name__}.")
            return take(reply, part)
        except SafeToRepeat:
            return None
        except HsmBridgeError as problem:
            ended = _has_ended(problem)
            if problem.status in (Status.RESOURCE_NOT_FOUND, Status.UNKNOWN_OPERATION):
                # The ordinary way looks the slot up once more: it may have been made anew. And it is what older
                # daemons know.
                return None
            raise
        finally:
            if ended:
                part.release()
            else:
                part.abandon()


def _has_ended(problem: HsmBridgeError) -> bool:
    """Whether an operation that failed writes no more; past its deadline it may go on without its caller."""
    return not isinstance(problem, ConnectionLost) and problem.status is not Status.OPERATION_TIMED_OUT


def _copying(*pieces: bytes) -> Callable[[memoryview], None]:
    def fill(memory: memoryview) -> None:
        start = 0
        for piece in pieces:
            memory[start : start + len(piece)] = piece
            start += len(piece)

    return fill


def _fits(algorithm: str, tag: bytes) -> bool:
    """Whether a tag has the length that the daemon takes from behind a ciphertext."""
    row = ALGORITHMS.get(algorithm)
    return row is not None and len(tag) == row.tag_size


def _buffers_of(connection: Connection, seconds: float | None) -> SharedBuffers | None:
    """The shared memory of a connection, asked for once; None where there is none."""
    known = connection.shared
    if isinstance(known, SharedBuffers):
        return known
    with connection.sharing:
        if not connection.shared_asked:
            connection.shared_asked = True
            try:
                connection.shared = _share(connection, seconds)
            except (HsmBridgeError, OSError):
                # An older daemon, or one without memory to share; everything goes through the socket.
                connection.shared = None
        found = connection.shared
    return found if isinstance(found, SharedBuffers) else None


def _share(connection: Connection, seconds: float | None) -> SharedBuffers | None:
    received: deque[int] = deque()
    connection.descriptors = received
    try:
        for _ in range(_ATTEMPTS):
            request = m.ShareMemoryRequest(min(SHARED_SIZE, connection.max_frame))
            reply = decode_reply(connection.exchange(encode_request, request, seconds))
            if isinstance(reply, m.ShareMemoryReply) and received:
                return _mapped(reply, received[-1])
        return None
    finally:
        connection.descriptors = None
        for descriptor in received:
            os.close(descriptor)


def _mapped(reply: m.ShareMemoryReply, descriptor: int) -> SharedBuffers | None:
    # Sealed, or it could shrink under this process as well.
    sealed = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK
    if not sealed or os.fstat(descriptor).st_size != reply.size:
        return None
    block = memoryview(mmap.mmap(descriptor, reply.size))
    return SharedBuffers(reply.buffer, MemoryAllocator(block, shared=True))
