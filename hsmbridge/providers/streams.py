"""Operations on data that comes in pieces, as a provider holds them open.

The table is the same for every provider: who opens a stream names it, one call at a time works on it, and whatever
fails ends it. What a stream does with its data is the provider's own. Keys, callers and deadlines are not known here.
"""

import hashlib
import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from hsmbridge.core.calls import StreamEnd
from hsmbridge.core.errors import LimitError, ProviderError, Status

STREAMS_MAX: Final = 16_384
"""Streams that are open in one provider at a time."""

_REMEMBERED: Final = 4096
_HASHES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "SHA-1": "sha1",
        "SHA-256": "sha256",
        "SHA-384": "sha384",
        "SHA-512": "sha512",
        "SHA3-256": "sha3_256",
        "SHA3-384": "sha3_384",
        "SHA3-512": "sha3_512",
    }
)
"""The standard library's names of the hashes that signatures are made of."""


class ProviderStream(ABC):
    """One operation under way. Used by one thread at a time, not always the same one."""

    @abstractmethod
    def update(self, data: bytes) -> bytes:
        """Take the next piece; the output, as far as there is any."""

    @abstractmethod
    def finish(self, proof: bytes) -> StreamEnd:
        """The end of the data. Raises SignatureInvalid where `proof` does not verify, DecryptionFailed."""

    def close(self) -> None:  # noqa: B027 - what is only memory has nothing to free
        """Free what it holds; called once, whether or not it was finished."""


class HashedFirst(ProviderStream):
    """Hashes the data here, and hands the digest to the one operation that takes it at the end."""

    def __init__(self, hash_: str, finish: Callable[[bytes, bytes], StreamEnd]) -> None:
        """Args: the hash by its name in the algorithm table; and what takes the digest and the proof."""
        self._hash = hashlib.new(_HASHES[hash_], usedforsecurity=False)
        self._finish = finish

    def update(self, data: bytes) -> bytes:
        self._hash.update(data)
        return b""

    def finish(self, proof: bytes) -> StreamEnd:
        return self._finish(self._hash.digest(), proof)


class _Open:
    __slots__ = ("ended", "lock", "owner", "stream")

    def __init__(self, stream: ProviderStream, owner: bytes) -> None:
        self.stream = stream
        self.owner = owner
        self.lock = threading.Lock()
        self.ended = False

    def end(self) -> None:
        """Free it, once; for who holds the lock."""
        if not self.ended:
            self.ended = True
            self.stream.close()


class ProviderStreams:
    """The streams that are open in one provider. May be used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[int, _Open] = {}
        # A stream may be given up before the call that opens it has come to its end.
        self._closed: OrderedDict[int, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._open)

    def open(self, stream: int, make: Callable[[], ProviderStream], owner: bytes = b"") -> None:
        """Open a stream under the name that the caller chose, for an owner or nobody.

        Raises:
            LimitError: TOO_MANY_RESOURCES.
            HsmBridgeError: what `make` raises, NOT_SUPPORTED where it cannot be done in pieces.
        """
        if len(self._open) >= STREAMS_MAX:
            raise LimitError(Status.TOO_MANY_RESOURCES, "The provider has too many contexts open; close some.")
        opened = _Open(make(), owner)
        with self._lock:
            wanted = stream not in self._closed and stream not in self._open
            if wanted:
                self._open[stream] = opened
        if not wanted:
            opened.end()

    def update(self, stream: int, data: bytes) -> bytes:
        """Give a stream its next piece. Raises ProviderError (HANDLE_UNKNOWN), and what the operation raises."""
        opened = self._found(stream)
        with opened.lock:
            try:
                return self._alive(opened).update(data)
            except BaseException:
                self._forget(stream)
                opened.end()
                raise

    def finish(self, stream: int, data: bytes, proof: bytes) -> StreamEnd:
        """Give a stream its last piece and end it. Raises as `update`."""
        opened = self._found(stream)
        with opened.lock:
            self._forget(stream)
            try:
                alive = self._alive(opened)
                output = alive.update(data) if data else b""
                end = alive.finish(proof)
            finally:
                opened.end()
        return StreamEnd(output + end.output, end.tag) if output else end

    def close(self, stream: int) -> None:
        """Give a stream up, also one that is not open yet."""
        with self._lock:
            opened = self._open.pop(stream, None)
            if opened is None:
                self._closed[stream] = None
                if len(self._closed) > _REMEMBERED:
                    self._closed.popitem(last=False)
        if opened is not None:
            with opened.lock:
                opened.end()

    def close_owned(self, owner: bytes) -> None:
        """Give up every stream that was opened for an owner."""
        if owner:
            for stream in [stream for stream, opened in self._open.copy().items() if opened.owner == owner]:
                self.close(stream)

    def close_all(self) -> None:
        """Give every stream up."""
        for stream in tuple(self._open):
            self.close(stream)

    def _found(self, stream: int) -> _Open:
        opened = self._open.get(stream)
        if opened is None:
            raise ProviderError(Status.HANDLE_UNKNOWN)
        return opened

    def _forget(self, stream: int) -> None:
        with self._lock:
            self._open.pop(stream, None)

    @staticmethod
    def _alive(opened: _Open) -> ProviderStream:
        if opened.ended:
            raise ProviderError(Status.HANDLE_UNKNOWN)
        return opened.stream
