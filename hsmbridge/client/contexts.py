"""Contexts: an operation on data that comes in pieces, whatever its size.

    with stack.digest_context("SHA-256") as context, open("image.iso", "rb") as file:
        context.update_from(file)
        digest = context.finalize()

Six kinds: cipher, AEAD, sign, verify, MAC, digest. The states and their order are those of `hsmbridge.core.contexts`:
a call that does not belong where the context stands raises ContextError (INVALID_OPERATION); one that failed, or
whose deadline passed, leaves it in ERROR, and only `close` is left. A context lives on the connection that it was
created on and dies with it.
"""

from collections.abc import Callable

import msgspec

from hsmbridge.client.calls import Buffer, octets
from hsmbridge.client.context_calls import Context, Sink, Source
from hsmbridge.client.results import Mac, Signature
from hsmbridge.core import messages as m
from hsmbridge.core.contexts import ContextCall, ContextState
from hsmbridge.core.errors import ContextError, Status


class _Reader(Context):
    """Takes data and gives one short result at the end."""

    __slots__ = ()

    def init(self) -> None:
        """CREATED becomes INITIALIZED."""
        self._init()

    def restart(self) -> None:
        """`reset` and `init` in one round trip."""
        self._restart()

    def update(self, data: Buffer) -> None:
        """Take the next piece, of any size."""
        self._feed(data)

    def update_from(self, source: Source) -> int:
        """Take all that is left in a file; how many bytes that was."""
        return self._read_from(source, None)


class SignContext(_Reader):
    """Signs data that comes in pieces."""

    __slots__ = ()

    def finalize(self) -> Signature:
        """The signature (ECDSA in DER)."""
        reply = self._finalize()
        return Signature(reply.data, reply.version)


class VerifyContext(_Reader):
    """Verifies the signature of data that comes in pieces."""

    __slots__ = ()

    def finalize(self, signature: Buffer) -> int:
        """The key version that the signature is by. Raises SignatureInvalid; the context may be reset then."""
        return self._finalize(octets(signature)).version


class MacContext(_Reader):
    """Computes or verifies the MAC of data that comes in pieces."""

    __slots__ = ()

    def finalize(self) -> Mac:
        """The MAC."""
        reply = self._finalize()
        return Mac(reply.data, reply.version)

    def verify(self, mac: Buffer) -> int:
        """Of one created to verify: the key version that the MAC is by. Raises SignatureInvalid."""
        return self._finalize(octets(mac)).version


class DigestContext(_Reader):
    """Hashes data that comes in pieces."""

    __slots__ = ()

    def finalize(self) -> bytes:
        """The digest."""
        return self._finalize().data


class CipherContext(Context):
    """Encrypts or decrypts data that comes in pieces."""

    __slots__ = ("_done",)

    @property
    def nonce(self) -> bytes:
        """Nonce or initialisation vector that it encrypts with; new after every `init`."""
        return self._reply.nonce

    def init(self, *, nonce: Buffer = b"") -> None:
        """CREATED becomes INITIALIZED.

        Args:
            nonce: to decrypt; to encrypt only where the key's nonce policy leaves it to the caller.
        """
        self._init(nonce)

    def restart(self, *, nonce: Buffer = b"") -> None:
        """`reset` and `init` in one round trip."""
        self._restart(nonce)

    def update(self, data: Buffer) -> bytes:
        """Take the next piece, of any size; the output, as far as there is any."""
        return self._feed(data)

    def update_from(self, source: Source, sink: Sink) -> int:
        """Take all that is left in a file, write the output to another; how many bytes were read."""
        return self._read_from(source, sink)

    def finalize(self) -> bytes:
        """The rest of the output. Raises DecryptionFailed."""
        output: list[bytes] = []
        self._end(output.append, b"")
        return b"".join(output)

    def finalize_to(self, sink: Sink) -> None:
        """Write the rest of the output to a file. Raises DecryptionFailed before anything is written."""
        self._end(sink.write, b"")

    def _end(self, give: Callable[[bytes], object], proof: bytes) -> None:
        reply = self._finalize(proof)
        # In a field, for `get_tag` of an AEAD.
        self._done: m.ContextFinalReply = msgspec.structs.replace(reply, data=b"")
        give(reply.data)
        remaining = reply.remaining
        while remaining:
            more = self._call(ContextCall.READ, m.ContextDataReply, lambda: m.ContextReadRequest(self._number))
            remaining = more.remaining
            give(more.data)

    @property
    def key_version(self) -> int:
        """The key version that did it. Raises ContextError (INVALID_OPERATION) before `finalize`."""
        done: m.ContextFinalReply | None = getattr(self, "_done", None)
        if done is None:
            raise ContextError(Status.INVALID_OPERATION, "Which key version did it is known once it is finalized.")
        return done.version


class AeadContext(CipherContext):
    """Encrypts and authenticates, or verifies and decrypts, data that comes in pieces.

    Decryption gives nothing before the end: no plaintext leaves the daemon before the tag was verified. It is
    therefore buffered, and takes at most `held_max` bytes.
    """

    __slots__ = ("_tag",)

    def init(self, *, nonce: Buffer = b"", aad: Buffer = b"") -> None:
        """As for a cipher, with the associated data."""
        self._tag: bytes | None = None
        self._init(nonce, aad)

    def restart(self, *, nonce: Buffer = b"", aad: Buffer = b"") -> None:
        """`reset` and `init` in one round trip."""
        self._tag = None
        self._restart(nonce, aad)

    def set_tag(self, tag: Buffer) -> None:
        """What is to be verified; at any time before `finalize`."""
        self._tag = octets(tag)

    def get_tag(self) -> bytes:
        """The tag of what was encrypted. Raises ContextError (INVALID_OPERATION) before `finalize`."""
        if self.state is not ContextState.FINALIZED or not self._done.tag:
            raise ContextError(
                Status.INVALID_OPERATION, "There is a tag once an encryption is finalized, and not before."
            )
        return self._done.tag

    def _end(self, give: Callable[[bytes], object], proof: bytes) -> None:
        super()._end(give, getattr(self, "_tag", None) or b"")
